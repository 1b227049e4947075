"""One stream, from hello to its end."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import time
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from penstock import _calls, _verdicts
from penstock._answers import Answers, Write
from penstock._calls import Call, Claim
from penstock._credits import Credits
from penstock._handler import Handler
from penstock._message import ENDED, NO_LIMIT, Batch, Message
from penstock._schedule import ORDERS, Schedule, stops
from penstock.handler.v1 import handler_pb2 as v1

# The protocol's version within v1. A higher one of the runtime only adds.
VERSION = 2

# The maximum size of a message on the stream, for gRPC's number has 31 bits.
MAX_MESSAGE = (1 << 31) - 1

# A call within this time, in seconds, is quick. A running call is reported after half of it.
QUICK = 0.01

# The maximum number of calls that begin in one turn of the event loop, and in one claim.
MAX_TURN = 16
MAX_CLAIM = 32

# The time between two looks at messages that can't begin in time, in seconds.
SWEEP = 1.0

try:
    SDK_VERSION = importlib.metadata.version("penstock-python")
except importlib.metadata.PackageNotFoundError:
    SDK_VERSION = "0.0.0+source"


_BEHIND = _verdicts.Retry("an earlier message of its batch was not handled")


class Refused(Exception):
    """The stream can't be served. `code` names gRPC's status."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Settings:
    """Settings that all streams of a server share."""

    handler: Handler
    concurrency: int
    window: int
    state: Any
    # Is called when a handler asks for the end of the process.
    exit: Callable[[BaseException], None]


class Stream:
    """Serves one stream. Belongs to the event loop.

    A delivery waits in the schedule, is claimed by a lane, begins, and ends. A call is
    reported before it begins, so that the runtime knows the message that breaks a process.
    After a whole window of quick calls, they are reported only if they last.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answers = Answers()
        self._hello = v1.Hello()
        self._schedule: Schedule | None = None
        self._credits: Credits | None = None
        self._lanes: _calls.Lanes | None = None
        self._lane_count = 0
        self._active: set[Claim] = set()
        self._pump_due = False
        self._tick: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        # The number of quick calls, halved by each other call.
        self._quick = 0
        # The number of calls that may begin in a turn of the event loop.
        self._turn = 1
        self._in_turn = False
        self._halted = False
        self._ended_by_runtime = False
        self._refusal: Refused | None = None
        self._over = asyncio.Event()

    async def run(
        self,
        requests: AsyncIterable[v1.FromRuntime],
        write: Write,
        others: Callable[[], Iterable[Stream]] = tuple,
    ) -> None:
        """Serves the stream until its end. `others` gives the server's other streams.

        # Raises
        `Refused` if the stream has to end with that status.
        """
        reader = asyncio.create_task(self._read(requests, others))
        writer = asyncio.create_task(self._answers.send(write))
        over = asyncio.create_task(self._over.wait())
        waiting = {reader, writer, over}
        try:
            while over in waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {over}:
                    # Raises the exception that ended it.
                    task.result()
                if reader in done:
                    self._ended_by_runtime = True
                    self._check_over()
            if self._refusal is not None:
                raise self._refusal
            self._answers.end()
            await writer
        finally:
            for task in (reader, writer, over):
                task.cancel()
            self._abandon()

    def halt(self) -> None:
        """Begins no other call. The stream ends once the running calls have ended."""
        if self._halted:
            return
        self._halted = True
        if self._credits is not None:
            self._credits.stop()
        if self._lanes is not None:
            self._lanes.stop()
        if self._schedule is not None:
            self._schedule.release(_verdicts.STOPPING)
        self._check_over()

    def expire(self) -> list[Message]:
        """Ends the stream now. Returns the messages at work, which have no verdict."""
        unfinished = self._cancel_all()
        self._over.set()
        return unfinished

    @property
    def identity(self) -> tuple[str, str]:
        """The consumer that the stream belongs to."""
        return self._hello.consumer, self._hello.group

    def supersede(self) -> None:
        """Ends the stream, as its runtime has opened another one."""
        reason = "the runtime has opened another stream for the same consumer"
        self._refusal = Refused("ABORTED", reason)
        self.expire()

    async def calls_end(self) -> None:
        """Waits until the running calls have ended, or their time is over."""
        loop = asyncio.get_running_loop()
        deadline = 0.0
        futures = []
        for claim in self._active:
            if not claim.started:
                continue
            if claim.over is None:
                claim.over = loop.create_future()
            futures.append(claim.over)
            call = claim.current
            if call is not None:
                deadline = max(deadline, *(message._deadline for message in call.messages))
        if futures:
            left = deadline - time.monotonic()
            await asyncio.wait(futures, timeout=None if left == NO_LIMIT else max(0.0, left))

    # The runtime's side.

    async def _read(
        self, requests: AsyncIterable[v1.FromRuntime], others: Callable[[], Iterable[Stream]]
    ) -> None:
        is_open = False
        async for request in requests:
            kind = request.WhichOneof("message")
            if not is_open:
                if kind != "hello":
                    raise Refused(
                        "FAILED_PRECONDITION", f"the first message is {kind}, not hello"
                    )
                self._open(request.hello)
                is_open = True
                if not self._halted:
                    await self._wait_for(others())
                    self._start_credits()
            elif kind == "batch":
                self._receive(request.batch)
            elif kind == "cancel":
                self._cancel(request.cancel)

    def _open(self, hello: v1.Hello) -> None:
        if hello.order not in ORDERS:
            reason = (
                f"the handler (penstock-python {SDK_VERSION}) does not know order "
                f"{hello.order} of consumer {hello.consumer or hello.group}: install a newer "
                "penstock-python"
            )
            raise Refused("FAILED_PRECONDITION", reason)
        self._hello = hello
        handler = self._settings.handler
        one_by_one = hello.order == v1.ORDER_BATCH
        self._lane_count = 1 if one_by_one else self._settings.concurrency
        self._schedule = Schedule(hello.order, self._ended_unbegun)
        if handler.threads:
            self._lanes = _calls.ThreadLanes(
                handler, self, self._lane_count, stop_at_failure=one_by_one
            )
        else:
            self._lanes = _calls.LoopLanes(handler, self, stop_at_failure=one_by_one)
        self._answers.welcome(
            v1.Welcome(
                version=VERSION,
                sdk_name="penstock-python",
                sdk_version=SDK_VERSION,
                orders=ORDERS,
                features=[v1.FEATURE_BEGUN, v1.FEATURE_EXTEND, v1.FEATURE_CANCEL],
                max_batch=self._settings.window,
                max_message_bytes=MAX_MESSAGE,
            )
        )
        self._set_sweep()

    async def _wait_for(self, others: Iterable[Stream]) -> None:
        """Ends older streams of the same consumer, and waits for their calls.

        Otherwise two calls could be at work on one key.
        """
        older = [found for found in others if found is not self]
        older = [found for found in older if found.identity == self.identity]
        for stream in older:
            stream.supersede()
        for stream in older:
            await stream.calls_end()

    def _start_credits(self) -> None:
        wait = self._hello.wait_ms / 1000 or NO_LIMIT
        self._credits = Credits(
            self._lane_count * self._settings.handler.batch_size,
            self._settings.window,
            wait,
            self._answers.grant,
            time.monotonic(),
        )
        if self._halted:
            self._credits.stop()
        self._credits.start()
        self._answers.flush()

    def _receive(self, given: v1.Batch) -> None:
        assert self._schedule is not None and self._credits is not None
        now, loop = time.monotonic(), asyncio.get_running_loop()
        batch = Batch(
            self._hello.group,
            timeout=self._hello.timeout_ms / 1000 or NO_LIMIT,
            max_timeout=max(self._hello.max_timeout_ms, self._hello.timeout_ms) / 1000
            or NO_LIMIT,
            begin_by=self._begin_by(given.begin_by_ms, now),
            state=self._settings.state,
            extend=lambda message: loop.call_soon_threadsafe(self._extend, message),
        )
        messages, number = [], given.first_id
        for run in given.runs:
            for delivery in run.deliveries:
                messages.append(Message(batch, run, delivery, number))
                number += 1
        self._credits.received(len(messages), now)
        self._schedule.add(messages)
        if self._halted:
            self._schedule.release(_verdicts.STOPPING)
        self._request_pump()

    def _begin_by(self, begin_by_ms: int, now: float) -> float:
        if begin_by_ms <= 0:
            return NO_LIMIT
        wait = begin_by_ms / 1000 - time.time()
        # The clock may have been set back meanwhile.
        return now + min(wait, self._hello.wait_ms / 1000 or NO_LIMIT)

    def _cancel(self, cancel: v1.Cancel) -> None:
        assert self._schedule is not None
        at_work = {
            message._number
            for deliveries in cancel.deliveries
            for message in self._schedule.cancel(deliveries.first_id, deliveries.count)
        }
        if at_work:
            for claim in self._active:
                call = claim.current
                if call is not None and not at_work.isdisjoint(call.numbers):
                    self._cancel_call(call)
        self._request_pump()

    def _cancel_call(self, call: Call) -> None:
        assert self._lanes is not None
        if call.is_cancelled:
            self._lanes.cancel(call)

    def _cancel_all(self) -> list[Message]:
        """Cancels all deliveries; returns those at work."""
        if self._schedule is None:
            return []
        self._halted = True
        at_work = self._schedule.cancel(0, 1 << 65)
        for claim in self._active:
            if claim.current is not None:
                self._cancel_call(claim.current)
        return at_work

    def _abandon(self) -> None:
        """Stops all work, as no verdict counts any more."""
        for timer in (self._tick, self._sweep):
            if timer is not None:
                timer.cancel()
        if self._credits is not None:
            self._credits.stop()
        self._halted = True
        self._cancel_all()
        # Reported, and never started.
        self._active = {claim for claim in self._active if claim.started}
        if self._lanes is not None:
            self._lanes.stop()
            self._lanes.close()

    # The handler's side.

    def _request_pump(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Lets messages begin, as many as there are lanes and time for."""
        self._pump_due = False
        if self._halted or self._schedule is None:
            self._check_over()
            return
        if self._in_turn:
            return
        now = time.monotonic()
        room = self._lane_count - len(self._active)
        turn = room if self._settings.handler.threads else min(room, self._turn)
        claims: list[Claim] = []
        while len(claims) < turn and (claim := self._claim(now, room - len(claims))):
            claims.append(claim)
        self._active.update(claims)
        if not claims:
            self._check_over()
            return
        self._in_turn = not self._settings.handler.threads
        if self._is_careful:
            self._report(call for claim in claims for call in claim.calls)
            self._answers.begin((), functools.partial(self._start, claims))
        else:
            self._start(claims)

    @property
    def _is_careful(self) -> bool:
        return self._quick < self._settings.window

    def _claim(self, now: float, room: int) -> Claim | None:
        """Takes messages for one lane."""
        assert self._schedule is not None
        schedule, handler = self._schedule, self._settings.handler
        if self._is_careful:
            calls = 1
        elif schedule.order == v1.ORDER_BATCH:
            calls = MAX_CLAIM
        else:
            calls = max(1, min(MAX_CLAIM, schedule.ready // (room * handler.batch_size)))
        taken: list[Call] = []
        last: Message | None = None
        for _ in range(calls):
            messages: list[Message] = []
            while len(messages) < handler.batch_size:
                if schedule.order == v1.ORDER_BATCH and last is not None:
                    message = schedule.take_behind(last, now)
                else:
                    message = schedule.take(now)
                if message is None:
                    break
                messages.append(message)
                last = message
            if not messages:
                break
            taken.append(Call(messages))
        return Claim(taken) if taken else None

    def _report(self, calls: Iterable[Call]) -> None:
        for call in calls:
            call.reported = True
            self._answers.begin(call.numbers)

    def _start(self, claims: list[Claim]) -> None:
        assert self._lanes is not None
        now = time.monotonic()
        for claim in claims:
            claim.started = True
            self._lanes.start(claim)
        if not self._settings.handler.threads:
            # Runs after the first steps of these calls.
            asyncio.get_running_loop().call_soon(self._measure_turn, now)
        if self._tick is None and not self._is_careful:
            self._tick = asyncio.get_running_loop().call_later(QUICK, self._report_lasting)

    def _measure_turn(self, began: float) -> None:
        """Ends a turn. A handler that blocks the loop begins one call in the next turn, so that
        verdicts and signals are served between two calls.
        """
        is_quick = time.monotonic() - began < QUICK / 2
        self._turn = min(MAX_TURN, 2 * self._turn) if is_quick else 1
        self._in_turn = False
        self._request_pump()

    def _report_lasting(self) -> None:
        """Reports calls that last, and takes the calls that wait behind them."""
        assert self._schedule is not None
        self._tick = None
        before = time.monotonic() - QUICK / 2
        for claim in self._active:
            call = claim.current
            if call is not None and call.began and call.began < before:
                if not call.reported and call.verdicts is None:
                    self._report([call])
                rest = claim.take_rest()
                if rest:
                    self._put_back(rest)
                    self._request_pump()
        if self._active:
            self._tick = asyncio.get_running_loop().call_later(QUICK, self._report_lasting)

    def _put_back(self, calls: Iterable[Call]) -> None:
        assert self._schedule is not None
        self._schedule.put_back([message for call in calls for message in call.messages])
        if self._halted:
            self._schedule.release(_verdicts.STOPPING)

    def call_ended(self, call: Call) -> None:
        """Gives the verdicts of a call that has ended."""
        assert self._schedule is not None and self._credits is not None
        now = time.monotonic()
        self._note_time(call.took)
        one_by_one = self._schedule.order == v1.ORDER_BATCH
        has_stopped = False
        for index, message in enumerate(call.messages):
            verdict = call.verdicts[index] if call.verdicts else None
            if has_stopped:
                # The call began with all its messages, so that none can be released.
                verdict = _BEHIND
            if call.verdicts is not None and not message._cancelled:
                self._answers.settle(message._number, verdict, message._records)
            is_stop = message._cancelled or stops(verdict)
            has_stopped = has_stopped or (one_by_one and is_stop)
            self._schedule.close(message, stops=is_stop)
            if not one_by_one:
                self._schedule.advance(message)
            self._credits.ended(now, finished=True)

    def _note_time(self, took: float) -> None:
        """Counts quick calls. A single one that is not, as on a busy machine, is forgiven."""
        if took < QUICK:
            self._quick = min(self._quick + 1, 2 * self._settings.window)
        else:
            self._quick //= 2

    def claim_ended(self, claim: Claim) -> None:
        """Frees a lane."""
        assert self._schedule is not None
        self._active.discard(claim)
        if rest := claim.take_rest():
            self._put_back(rest)
        if self._schedule.order == v1.ORDER_BATCH:
            self._schedule.advance(claim.first)
        if claim.over is not None and not claim.over.done():
            claim.over.set_result(None)
        self._pump()
        if self._is_careful or not self._schedule:
            self._answers.flush()

    def exit(self, error: BaseException) -> None:
        """Ends the process in order, as a handler asks for it."""
        self._settings.exit(error)

    def _ended_unbegun(self, message: Message, verdict: _verdicts.Verdict | None) -> None:
        assert self._credits is not None
        if self._hello.version < VERSION and verdict is not None:
            # The runtime knows no release. It expects a verdict behind a failure, and takes
            # the end of the stream for a release of the others.
            verdict = _BEHIND if verdict is _verdicts.BEHIND else None
        if verdict is not None:
            self._answers.settle(message._number, verdict)
        self._credits.ended(time.monotonic(), finished=False)

    def _extend(self, message: Message) -> None:
        if message._state == ENDED or message._cancelled:
            return
        for claim in self._active:
            call = claim.current
            if call is not None and message in call.messages and not call.reported:
                self._report([call])
        self._answers.extend(message._number, message.remaining)

    def _set_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(SWEEP, self._release_late)

    def _release_late(self) -> None:
        assert self._schedule is not None
        self._schedule.release_late(time.monotonic())
        self._set_sweep()

    def _check_over(self) -> None:
        is_last = self._halted or self._ended_by_runtime
        if is_last and not self._active and not self._schedule:
            self._over.set()
