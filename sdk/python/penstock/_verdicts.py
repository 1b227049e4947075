"""Verdicts: the results that a handler can give for a message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from penstock.handler.v1 import handler_pb2 as v1

# The maximum delay that is sent, in seconds. The runtime limits it further.
MAX_DELAY = 1 << 51

# The maximum length of a reason in bytes: it travels in logs and in headers.
MAX_REASON = 4096


class Verdict(Exception):
    """The base of all verdicts. A handler raises or returns one.

    The reason is text or another exception. It appears in logs and dead letters.
    """

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = text(reason)

    # The contract's name of the verdict.
    name: ClassVar[str] = ""

    def outcome(self) -> dict[str, Any]:
        """Returns the verdict as the contract's field and value."""
        raise NotImplementedError


class Retry(Verdict):
    """The attempt failed in a way that may pass.

    The runtime tries again while attempts are left, after at least `delay` seconds.
    """

    name = "retry"

    def __init__(self, reason: object = "", delay: float = 0.0) -> None:
        super().__init__(reason)
        self.delay = float(delay)

    def outcome(self) -> dict[str, Any]:
        delay = milliseconds(self.delay)
        return {"retry": v1.Retry(reason=self.reason, delay_ms=delay)}


class Skip(Verdict):
    """The message is not to be handled. The runtime logs it, counts it and commits past it."""

    name = "skip"

    def outcome(self) -> dict[str, Any]:
        return {"skip": v1.Skip(reason=self.reason)}


class DeadLetter(Verdict):
    """The message goes to the dead-letter topic at once."""

    name = "dead_letter"

    def outcome(self) -> dict[str, Any]:
        return {"dead_letter": v1.DeadLetter(reason=self.reason)}


class Fail(Verdict):
    """The message can't be handled, and another attempt would not help.

    `spec.delivery.onFailure` decides the rest.
    """

    name = "fail"

    def outcome(self) -> dict[str, Any]:
        return {"fail": v1.Fail(reason=self.reason)}


class Release(Verdict):
    """The message has not begun and will not. It costs no attempt. The SDK alone uses it."""

    name = "release"

    def outcome(self) -> dict[str, Any]:
        return {"release": v1.Release(reason=self.reason)}


def of(error: BaseException, permanent: tuple[type[BaseException], ...]) -> Verdict:
    """Returns the verdict that an exception stands for.

    In a group, the most careful verdict counts: a retry loses nothing, a skip does.
    """
    return max(
        (_of_leaf(leaf, permanent) for leaf in leaves(error)),
        key=_care,
        default=Retry(describe(error)),
    )


def is_deliberate(error: BaseException) -> bool:
    """Returns `True` if the exception, or each exception of a group, is a verdict."""
    return all(isinstance(leaf, Verdict) for leaf in leaves(error))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yields the exceptions of a group at any depth, or the exception itself."""
    waiting = [error]
    while waiting:
        last = waiting.pop()
        if isinstance(last, BaseExceptionGroup):
            waiting.extend(reversed(last.exceptions))
        else:
            yield last


def _of_leaf(error: BaseException, permanent: tuple[type[BaseException], ...]) -> Verdict:
    if isinstance(error, Verdict):
        return _plain(error)
    return (Fail if isinstance(error, permanent) else Retry)(describe(error))


def _plain(verdict: Verdict) -> Verdict:
    """Returns the verdict as one of the four classes. A subclass may lack fields."""
    if isinstance(verdict, Retry):
        return Retry(reason_of(verdict), milliseconds(getattr(verdict, "delay", 0)) / 1000)
    for kind in (Skip, DeadLetter, Fail):
        if isinstance(verdict, kind):
            return kind(reason_of(verdict))
    return Retry(describe(verdict))


def _care(verdict: Verdict) -> tuple[int, float]:
    for rank, kind in enumerate((Skip, DeadLetter, Fail, Retry)):
        if isinstance(verdict, kind):
            return rank, getattr(verdict, "delay", 0.0)
    raise AssertionError(verdict)


def describe(error: BaseException) -> str:
    """Returns the exception's class and text."""
    name = type(error).__name__
    try:
        words = str(error)
    except BaseException:
        words = ""
    return text(f"{name}: {words}" if words else name)


def reason_of(verdict: Verdict) -> str:
    """Returns the reason. A subclass may not have called `__init__`, or may set anything."""
    return text(getattr(verdict, "reason", ""))


def milliseconds(seconds: float) -> int:
    """Returns the time in milliseconds; 0 for a negative time and for no number."""
    try:
        seconds = float(seconds)
    except (TypeError, ValueError, OverflowError):
        return 0
    return (
        round(min(seconds, MAX_DELAY) * 1000) if seconds > 0 and not math.isnan(seconds) else 0
    )


def text(reason: object) -> str:
    """Returns the reason as protobuf takes it, cut at `MAX_REASON` bytes.

    Surrogates, as in the names of odd files, have no UTF-8.
    """
    try:
        words = str(reason)
    except BaseException:
        words = type(reason).__name__
    encoded = words[: MAX_REASON + 1].encode(errors="replace")
    if len(encoded) <= MAX_REASON:
        return encoded.decode()
    return encoded[: MAX_REASON - 3].decode(errors="ignore") + "…"


BEHIND = Release("an earlier message of its key or batch was not handled")
STOPPING = Release("the handler is stopping")
LATE = Release("it did not begin in time")
