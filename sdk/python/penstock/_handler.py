"""The handler function: its calls, and the verdicts that its results stand for."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from penstock import _verdicts
from penstock._message import Message
from penstock._telemetry import traced
from penstock._verdicts import Fail, Verdict

log = logging.getLogger("penstock")

# What a handler may return: nothing, a verdict, or for a batch a list of both.
Result = Verdict | Sequence[Verdict | None] | None
Function = Callable[[Any], Awaitable[Result] | Result]
Interceptor = Callable[[Function], Function]
Verdicts = list[Verdict | None]


class Handler:
    """A handler function with its settings, checked."""

    def __init__(
        self,
        function: Function,
        *,
        batch_size: int | None = None,
        permanent: type[BaseException] | Iterable[type[BaseException]] = (),
        interceptors: Iterable[Interceptor] = (),
        threads: bool | None = None,
        telemetry: bool = False,
    ) -> None:
        _check_function(function)
        self.permanent = _check_permanent(permanent)
        # Without a size the function takes one message.
        self.in_batches = batch_size is not None
        self.batch_size = batch_size or 1
        self.threads = not is_async(function) if threads is None else threads
        self.name = _name(function)
        for interceptor in reversed(tuple(interceptors)):
            function = interceptor(function)
            _check_function(function)
        if threads is None and self.threads and is_async(function):
            raise TypeError(
                f"an async interceptor would call the plain function {self.name} on the event "
                "loop and block it: make the interceptor plain, or the handler async"
            )
        self._function = traced(function) if telemetry else function

    def call(self, messages: list[Message]) -> Any:
        """Calls the function."""
        return self._function(messages if self.in_batches else messages[0])

    def verdicts(self, messages: list[Message], result: object) -> Verdicts:
        """Returns the verdict on each message for a result that the function returned."""
        if result is None:
            return [None] * len(messages)
        if self.in_batches and isinstance(result, list | tuple):
            return self._verdicts_of_list(messages, result)
        return [self._verdict(messages, result)] * len(messages)

    def _verdicts_of_list(self, messages: list[Message], results: Sequence[object]) -> Verdicts:
        if len(results) != len(messages):
            reason = (
                f"the handler returned {len(results)} verdicts for {len(messages)} messages"
            )
            log.error(reason, extra=fields(messages))
            return [Fail(reason)] * len(messages)
        return [
            None if result is None else self._verdict([message], result)
            for message, result in zip(messages, results, strict=True)
        ]

    def _verdict(self, messages: list[Message], result: object) -> Verdict:
        """Returns the verdict that a result is, and logs it."""
        verdict = _returned(result)
        if verdict is not None:
            log.info("%s", _line(messages, verdict), extra=fields(messages))
            return verdict
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            reason = f"the handler is a generator: use return instead of yield in {self.name}"
        else:
            name = type(result).__name__
            reason = (
                f"the handler returned a value of type {name}; it may return a verdict or None"
            )
        verdict = Fail(reason)
        log.error("%s", _line(messages, verdict), extra=fields(messages))
        return verdict

    def failed(self, messages: list[Message], error: BaseException) -> Verdicts:
        """Returns the verdict on each message for an exception, and logs it."""
        verdict = _verdicts.of(error, self.permanent)
        words = _line(messages, verdict)
        if _verdicts.is_deliberate(error):
            log.info("%s", words, extra=fields(messages))
        else:
            log.error("%s", words, exc_info=error, extra=fields(messages))
        return [verdict] * len(messages)


def fields(messages: list[Message]) -> dict[str, Any]:
    """Returns the fields of a log line on these messages."""
    first = messages[0]
    return {
        "group": first.group,
        "topic": first.topic,
        "partition": first.partition,
        "offset": first.offset,
        "attempt": first.attempt,
        "messages": len(messages),
    }


def _line(messages: list[Message], verdict: Verdict) -> str:
    """Returns a log line on a verdict."""
    first = messages[0]
    more = f" and {len(messages) - 1} more" if len(messages) > 1 else ""
    return f"{first.id}{more}, attempt {first.attempt}: {verdict.name}: {verdict.reason}"


def is_async(function: Any) -> bool:
    """Returns `True` if the function looks asynchronous."""
    return any(map(inspect.iscoroutinefunction, _faces(function)))


def _returned(result: object) -> Verdict | None:
    """Returns the verdict that a result is; a class stands for one without a reason."""
    if isinstance(result, type) and issubclass(result, Verdict):
        try:
            result = result()
        except Exception:
            return None
    if not isinstance(result, Verdict):
        return None
    return _verdicts.of(result, ())


def _check_function(function: Any) -> None:
    name = _name(function)
    if not callable(function):
        raise TypeError(f"the handler is no function: {function!r}")
    if inspect.isclass(function):
        raise TypeError(f"the handler {name} is a class: pass an instance of it, or a function")
    for face in _faces(function):
        if inspect.isgeneratorfunction(face) or inspect.isasyncgenfunction(face):
            raise TypeError(f"the handler {name} is a generator: use return instead of yield")


def _check_permanent(
    permanent: type[BaseException] | Iterable[type[BaseException]],
) -> tuple[type[BaseException], ...]:
    classes = (permanent,) if isinstance(permanent, type) else tuple(permanent)
    for found in classes:
        if not (isinstance(found, type) and issubclass(found, BaseException)):
            raise TypeError(f"permanent takes exception classes, not {found!r}")
    return classes


def _faces(function: Any) -> Iterable[Any]:
    """Yields the functions that a call would run, as far as they can be seen."""
    while isinstance(function, functools.partial):
        function = function.func
    yield function
    if not inspect.isroutine(function):
        yield type(function).__call__


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
