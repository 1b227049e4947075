"""Runs handlers without a runtime, for their tests.

`run` and `deliver` give messages to a handler and return the verdicts. `Runtime` is a fake
runtime for tests that look at order, cancellation or the end of a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from penstock import _message
from penstock._handler import Function
from penstock._message import Batch, Headers, Message, Record
from penstock._server import Server
from penstock._stream import VERSION, Stream
from penstock.handler.v1 import handler_pb2 as v1

Order = Literal["any", "batch", "key"]
Reason = Literal["revoked", "timed_out", "not_begun"]

_ORDERS = {"any": v1.ORDER_UNSPECIFIED, "batch": v1.ORDER_BATCH, "key": v1.ORDER_KEY}
_REASONS = {
    "revoked": v1.Cancel.REASON_REVOKED,
    "timed_out": v1.Cancel.REASON_TIMED_OUT,
    "not_begun": v1.Cancel.REASON_NOT_BEGUN,
}


def message(
    value: bytes | str | None = b"",
    *,
    key: bytes | str | None = None,
    topic: str = "messages",
    partition: int = 0,
    offset: int = 0,
    headers: Headers = (),
    timestamp_ms: int | None = None,
    attempt: int = 1,
    epoch: int = 1,
    group: str = "test",
    state: Any = None,
) -> Message:
    """Returns a message. Text is encoded in UTF-8; `state` stands for a lifespan's value."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    delivery = v1.Delivery(
        offset=offset,
        timestamp_ms=timestamp_ms,
        key=_encode(key),
        value=_encode(value),
        headers=[v1.Header(name=name, value=held) for name, held in pairs],
        attempt=attempt,
    )
    run = v1.Run(topic=topic, partition=partition, epoch=epoch)
    return Message(Batch(group, state=state), run, delivery, 0)


@dataclass(frozen=True)
class Outcome:
    """The verdict on one message."""

    message: Message
    # done, retry, skip, dead_letter, fail or release
    name: str
    reason: str = ""
    # In seconds.
    delay: float = 0.0
    records: tuple[Record, ...] = ()


def run(
    handle: Function, *messages: Message, order: Order = "any", **options: Any
) -> list[Outcome]:
    """Calls the handler with the messages; returns the outcome of each, in their order.

    `options` are those of `penstock.Server`.
    """
    return asyncio.run(deliver(handle, *messages, order=order, **options))


async def deliver(
    handle: Function, *messages: Message, order: Order = "any", **options: Any
) -> list[Outcome]:
    """The same as `run`, in an event loop that runs."""
    if messages:
        options = {"group": messages[0].group, "state": messages[0].state, **options}
    async with Runtime(handle, order=order, **options) as runtime:
        if messages:
            runtime.send(messages)
        await runtime.settled(len(messages))
        found = {outcome.message._number: outcome for outcome in runtime.outcomes}
        return [found[number] for number in sorted(found)]


class ContractError(AssertionError):
    """The handler's side broke the contract."""


class Heard:
    """Everything that a handler has said on a stream."""

    def __init__(self) -> None:
        self.welcome: v1.Welcome | None = None
        self.credits = 0
        self.begun: list[int] = []
        # Pairs of a delivery's number and a time in seconds.
        self.extensions: list[tuple[int, float]] = []
        self.outcomes: list[Outcome] = []
        # The number of messages on the stream.
        self.answers = 0
        self.sent: dict[int, Message] = {}
        self._settled: set[int] = set()

    def take(self, answer: v1.FromHandler) -> None:
        """Takes a message of the handler.

        # Raises
        `ContractError` for a second verdict, a verdict on nothing, or a missing welcome.
        """
        self.answers += 1
        if answer.HasField("welcome") == (self.welcome is not None):
            raise ContractError("welcome belongs into the first message, and only there")
        if answer.HasField("welcome"):
            self.welcome = answer.welcome
        self.credits += answer.credits
        for begun in answer.begun:
            self.begun.extend(range(begun.first_id, begun.first_id + begun.count))
        for extension in answer.extensions:
            numbers = range(
                extension.deliveries.first_id,
                extension.deliveries.first_id + extension.deliveries.count,
            )
            self.extensions.extend((number, extension.time_ms / 1000) for number in numbers)
        for verdict in answer.verdicts:
            for number in range(verdict.first_id, verdict.first_id + max(1, verdict.count)):
                self._settle(number, verdict)

    def numbers(self, name: str) -> list[int]:
        """Returns the numbers of the deliveries with such an outcome, in their order."""
        return sorted(found.message._number for found in self.outcomes if found.name == name)

    def _settle(self, number: int, verdict: v1.Verdict) -> None:
        if number in self._settled or number not in self.sent:
            raise ContractError(f"a verdict on {number}, which is not open")
        self._settled.add(number)
        name = verdict.WhichOneof("outcome") or ""
        outcome = getattr(verdict, name, None)
        self.outcomes.append(
            Outcome(
                message=self.sent[number],
                name=name,
                reason=getattr(outcome, "reason", ""),
                delay=getattr(outcome, "delay_ms", 0) / 1000,
                records=tuple(map(_message._record, getattr(outcome, "produce", ()))),
            )
        )


class Runtime:
    """A fake runtime with one stream to a handler, without gRPC between them.

    It is an async context manager. `state` is `message.state` without a lifespan. `options`
    are those of `penstock.Server`.
    """

    # The maximum time in seconds of each wait.
    limit = 30.0

    def __init__(
        self,
        handle: Function,
        *,
        order: Order = "any",
        group: str = "test",
        timeout: float = 30.0,
        max_timeout: float | None = None,
        wait: float = 60.0,
        state: Any = None,
        **options: Any,
    ) -> None:
        self._server = Server(handle, address="unix:/unused", **options)
        self._hello = v1.Hello(
            version=VERSION,
            consumer=group,
            group=group,
            order=_ORDERS[order],
            timeout_ms=round(timeout * 1000),
            max_timeout_ms=round((max_timeout or timeout) * 1000),
            wait_ms=round(wait * 1000),
        )
        self._wait = wait
        self._state = state
        self._next = 1
        self._others: list[Stream] = []
        self._open()

    def _open(self) -> None:
        self.heard = Heard()
        self._requests: asyncio.Queue[v1.FromRuntime | None] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._settings = await self._server._enter_lifespan(self._state)
        self._connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        await self.disconnect()
        await self._server._resources.aclose()

    @property
    def outcomes(self) -> list[Outcome]:
        """The verdicts so far, in the order in which they came."""
        return self.heard.outcomes

    @property
    def credits(self) -> int:
        """The number of messages that the handler would accept now."""
        return self.heard.credits - len(self.heard.sent)

    async def deliver(self, *messages: Message, begin_within: float | None = None) -> list[int]:
        """Sends messages as the handler accepts them; returns the numbers of the deliveries.

        `begin_within` is the time in seconds within which they may begin.
        """
        numbers: list[int] = []
        waiting = list(messages)
        while waiting:
            await self.until(lambda _: self.credits > 0)
            count = min(self.credits, len(waiting))
            numbers += self.send(waiting[:count], begin_within)
            del waiting[:count]
        return numbers

    def send(self, messages: Iterable[Message], begin_within: float | None = None) -> list[int]:
        """Sends messages as one batch, whether there are credits or not."""
        wait = self._wait if begin_within is None else begin_within
        batch = v1.Batch(first_id=self._next, begin_by_ms=round((time.time() + wait) * 1000))
        numbers = []
        for sent in messages:
            run, last = sent._run, batch.runs[-1] if batch.runs else None
            place = (run.topic, run.partition, run.epoch)
            if last is None or (last.topic, last.partition, last.epoch) != place:
                last = batch.runs.add(topic=run.topic, partition=run.partition, epoch=run.epoch)
            last.deliveries.append(sent._delivery)
            copy = Message(sent._batch, run, sent._delivery, self._next)
            self.heard.sent[self._next] = copy
            numbers.append(self._next)
            self._next += 1
        self.request(v1.FromRuntime(batch=batch))
        return numbers

    def cancel(self, *numbers: int, reason: Reason = "revoked") -> None:
        """Withdraws deliveries."""
        deliveries = [v1.Range(first_id=number, count=1) for number in numbers]
        self.request(
            v1.FromRuntime(cancel=v1.Cancel(deliveries=deliveries, reason=_REASONS[reason]))
        )

    def request(self, request: v1.FromRuntime) -> None:
        """Sends any message."""
        self._requests.put_nowait(request)

    def end(self) -> None:
        """Ends the runtime's side of the stream in order."""
        self._requests.put_nowait(None)

    def stop(self) -> None:
        """Stops the handler as SIGTERM does."""
        self._stream.halt()

    async def disconnect(self) -> None:
        """Breaks the stream."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def reconnect(self) -> None:
        """Opens a new stream, while calls of the old one may still run."""
        self._others.append(self._stream)
        self._open()
        self._connect()

    async def settled(self, count: int) -> list[Outcome]:
        """Waits until there are so many verdicts."""
        await self.until(lambda heard: len(heard.outcomes) >= count)
        return self.outcomes

    async def until(self, condition: Callable[[Heard], bool]) -> Heard:
        """Waits until the handler has said enough for the condition.

        # Raises
        `TimeoutError` after `limit`, or the exception that ended the stream.
        """
        async with asyncio.timeout(self.limit), self._news:
            await self._news.wait_for(lambda: condition(self.heard) or self._is_broken())
        if not condition(self.heard):
            await self.ended()
        return self.heard

    async def ended(self) -> Heard:
        """Waits until the handler has ended the stream.

        # Raises
        The exception that ended it.
        """
        assert self._task is not None
        async with asyncio.timeout(self.limit):
            await asyncio.shield(self._task)
        return self.heard

    def _is_broken(self) -> bool:
        return self._task is not None and self._task.done()

    def _connect(self) -> None:
        self._stream = Stream(self._settings)
        self.request(v1.FromRuntime(hello=self._hello))
        work = self._stream.run(self._incoming(), self._take, lambda: self._others)
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(lambda _: asyncio.ensure_future(self._notify()))

    async def _take(self, answer: v1.FromHandler) -> None:
        self.heard.take(answer)
        await self._notify()

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _incoming(self) -> AsyncIterator[v1.FromRuntime]:
        while (request := await self._requests.get()) is not None:
            yield request


def _encode(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
