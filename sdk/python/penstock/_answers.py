"""Messages to the runtime, gathered until they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from penstock import _verdicts
from penstock.handler.v1 import handler_pb2 as v1

# The size in bytes at which a message to the runtime is cut.
CUT = 1 << 20

# The maximum size in bytes of one verdict. The runtime reads messages of up to 16 MiB.
MAX_VERDICT = 15 << 20

# The maximum time that a finished verdict waits for others, in seconds.
GATHER = 0.001

# More than the encoding of a verdict without records and reason takes.
SMALL_VERDICT = 32

DONE: dict[str, Any] = {"done": v1.Done()}

Write = Callable[[v1.FromHandler], Awaitable[None]]


class _Run:
    """Consecutive deliveries with one outcome."""

    __slots__ = ("count", "first", "outcome")

    def __init__(self, first: int, outcome: dict[str, Any]) -> None:
        self.first = first
        self.count = 1
        self.outcome = outcome


class Answers:
    """Gathers the answers of a stream, and writes them. Belongs to the event loop."""

    def __init__(self) -> None:
        self._welcome: v1.Welcome | None = None
        self._credits = 0
        self._begun: list[int] = []
        self._extensions: dict[int, int] = {}
        self._verdicts: list[_Run] = []
        self._written: list[Callable[[], None]] = []
        self._ended = False
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def flush(self) -> None:
        """Writes everything that was gathered now. Without it, that happens soon."""
        self._changed.set()

    def _flush_soon(self) -> None:
        if self._timer is None and not self._changed.is_set():
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._changed.set)

    def welcome(self, welcome: v1.Welcome) -> None:
        """Introduces the handler."""
        self._welcome = welcome
        self.flush()

    def grant(self, credits: int) -> None:
        """Grants credits."""
        self._credits += credits
        self._flush_soon()

    def begin(self, numbers: Iterable[int], then: Callable[[], None] | None = None) -> None:
        """Reports that deliveries begin, and calls `then` once the report is written."""
        self._begun.extend(numbers)
        if then is not None:
            self._written.append(then)
            self.flush()
        else:
            self._flush_soon()

    def extend(self, number: int, seconds: float) -> None:
        """Asks for more time for a delivery."""
        self._extensions[number] = max(1, _verdicts.milliseconds(seconds))
        self._flush_soon()

    def settle(
        self,
        number: int,
        verdict: _verdicts.Verdict | None,
        records: Sequence[v1.Record] | None = None,
    ) -> None:
        """Gives the verdict on a delivery; `None` is done."""
        if verdict is not None:
            outcome = _outcome(verdict)
        elif records:
            outcome = {"done": v1.Done(produce=records)}
        else:
            outcome = DONE
        last = self._verdicts[-1] if self._verdicts else None
        if last is not None and last.first + last.count == number and last.outcome is outcome:
            last.count += 1
        else:
            self._verdicts.append(_Run(number, outcome))
        self._flush_soon()

    def end(self) -> None:
        """Ends the answers once everything is written."""
        self._ended = True
        self.flush()

    async def send(self, write: Write) -> None:
        """Writes the answers as they come, until the end."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            ended, written = self._ended, self._written
            self._written = []
            for answer in self._take():
                await write(answer)
            for then in written:
                then()
            if ended and not self._verdicts:
                return

    def _take(self) -> list[v1.FromHandler]:
        """Takes everything that was gathered, in messages of about `CUT` bytes."""
        first = v1.FromHandler(welcome=self._welcome, begun=ranges(self._begun))
        for number, time_ms in self._extensions.items():
            deliveries = v1.Range(first_id=number, count=1)
            first.extensions.add(deliveries=deliveries, time_ms=time_ms)
        messages = [first]
        size = first.ByteSize()
        for run in self._verdicts:
            verdict, length = _encode(run)
            if size + length > CUT and size:
                messages.append(v1.FromHandler())
                size = 0
            messages[-1].verdicts.append(verdict)
            size += length
        messages[-1].credits = self._credits
        is_empty = not (size or self._credits)
        self._welcome, self._credits = None, 0
        self._begun, self._extensions, self._verdicts = [], {}, []
        return [] if is_empty else messages


# One outcome for each, so that releases of consecutive deliveries are one verdict.
_RELEASES = {
    id(verdict): verdict.outcome()
    for verdict in (_verdicts.BEHIND, _verdicts.STOPPING, _verdicts.LATE)
}


def _outcome(verdict: _verdicts.Verdict) -> dict[str, Any]:
    return _RELEASES.get(id(verdict)) or verdict.outcome()


def _encode(run: _Run) -> tuple[v1.Verdict, int]:
    """Returns the verdict and about its size in bytes."""
    verdict = v1.Verdict(first_id=run.first, count=run.count, **run.outcome)
    if run.outcome is DONE:
        return verdict, SMALL_VERDICT
    size = verdict.ByteSize()
    if size > MAX_VERDICT:
        reason = f"its records take {size} bytes, more than the {MAX_VERDICT} that can be sent"
        verdict = v1.Verdict(first_id=run.first, count=run.count, fail=v1.Fail(reason=reason))
        size = verdict.ByteSize()
    return verdict, size


def ranges(numbers: Iterable[int]) -> list[v1.Range]:
    """Returns the numbers as ranges."""
    found: list[v1.Range] = []
    for number in sorted(numbers):
        if found and found[-1].first_id + found[-1].count == number:
            found[-1].count += 1
        else:
            found.append(v1.Range(first_id=number, count=1))
    return found
