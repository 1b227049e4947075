"""Calls of the handler: on the event loop, or in threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from penstock import _verdicts
from penstock._awaitables import is_awaitable, resolve
from penstock._handler import Handler, Verdicts, log
from penstock._message import Message
from penstock._schedule import stops

# The maximum time in seconds that a claim begins further calls on the event loop.
TURN = 0.005


class Call:
    """One call of the handler with one message, or with several."""

    __slots__ = ("began", "messages", "reported", "took", "verdicts", "work")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        # 0 until the handler is called.
        self.began = 0.0
        # In seconds, once it has ended.
        self.took = 0.0
        self.reported = False
        self.verdicts: Verdicts | None = None
        # What cancels it.
        self.work: Any = None

    @property
    def numbers(self) -> list[int]:
        return [message._number for message in self.messages]

    @property
    def is_cancelled(self) -> bool:
        """Returns `True` if no verdict of the call would count."""
        return all(message._cancelled for message in self.messages)

    @property
    def has_failed(self) -> bool:
        """Returns `True` if the messages behind the call must not begin."""
        return any(map(stops, self.verdicts or ()))

    def begin(self) -> None:
        """Notes the beginning."""
        self.began = time.monotonic()
        for message in self.messages:
            message._begin(self.began)

    def may_begin(self, now: float) -> bool:
        """Returns `False` if the schedule has to look at its messages again.

        A reported call has begun as far as the runtime knows, so it can't be given back.
        """
        return self.reported or not any(
            message._cancelled or message._batch.begin_by <= now for message in self.messages
        )


class Claim:
    """Calls to be made one after the other by one lane. Usually it is one.

    A lane takes calls from the left. The event loop takes the rest away when one is slow;
    both may do so at once, as a deque's operations are atomic.
    """

    __slots__ = ("calls", "current", "first", "over", "started")

    def __init__(self, calls: list[Call]) -> None:
        self.first = calls[0].messages[0]
        self.calls = deque(calls)
        self.current: Call | None = None
        self.started = False
        self.over: asyncio.Future[None] | None = None

    def take(self, *, stopped: bool) -> Call | None:
        """Takes the next call for its lane; `None` if there is none that may begin."""
        try:
            call = self.calls.popleft()
        except IndexError:
            return None
        # A reported call runs in any case.
        if (stopped and not call.reported) or not call.may_begin(time.monotonic()):
            self.calls.appendleft(call)
            return None
        self.current = call
        return call

    def take_rest(self) -> list[Call]:
        """Takes the calls that the lane has not."""
        rest = []
        with contextlib.suppress(IndexError):
            while True:
                rest.append(self.calls.popleft())
        return rest


class Listener(Protocol):
    """Gets the ends of calls, in the event loop."""

    def call_ended(self, call: Call) -> None: ...

    def claim_ended(self, claim: Claim) -> None: ...

    def exit(self, error: BaseException) -> None: ...


class Lanes(Protocol):
    """Makes the calls."""

    def start(self, claim: Claim) -> None: ...

    def cancel(self, call: Call) -> None: ...

    def stop(self) -> None:
        """Begins no other call of a claim."""

    def close(self) -> None:
        """Ends the threads that wait for claims."""


class LoopLanes:
    """Calls on the event loop, each claim in a task."""

    def __init__(self, handler: Handler, listener: Listener, *, stop_at_failure: bool) -> None:
        self._handler = handler
        self._listener = listener
        self._stop_at_failure = stop_at_failure
        self._loop = asyncio.get_running_loop()
        self._stopped = False

    def start(self, claim: Claim) -> None:
        task = self._loop.create_task(self._run_claim(claim))
        task.add_done_callback(lambda _: self._listener.claim_ended(claim))

    def cancel(self, call: Call) -> None:
        if call.work is not None:
            call.work.cancel("the delivery was cancelled")

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        """Nothing to do: no task waits."""

    async def _run_claim(self, claim: Claim) -> None:
        task = asyncio.current_task()
        assert task is not None
        context, began = contextvars.copy_context(), time.monotonic()
        while call := claim.take(stopped=self._stopped):
            if not call.is_cancelled:
                call.work = task
                await self._run(call)
                call.work = None
            self._listener.call_ended(call)
            if (
                (self._stop_at_failure and call.has_failed)
                or time.monotonic() - began > TURN
                # The task, or its context, is no longer as the next call expects it.
                or task.cancelling()
                or contextvars.copy_context() != context
            ):
                break

    async def _run(self, call: Call) -> None:
        call.begin()
        try:
            result = self._handler.call(call.messages)
            if result is not None:
                result = await resolve(result)
            call.verdicts = self._handler.verdicts(call.messages, result)
        except BaseException as error:
            call.verdicts = _failed(self._handler, self._listener.exit, call, error)
        call.took = time.monotonic() - call.began


class ThreadLanes:
    """Calls in threads. These are daemons: one that never returns does not hold the process."""

    def __init__(
        self, handler: Handler, listener: Listener, count: int, *, stop_at_failure: bool
    ) -> None:
        self._handler = handler
        self._listener = listener
        self._count = count
        self._stop_at_failure = stop_at_failure
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._queue: queue.SimpleQueue[Claim | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._stopped = False
        # From the threads to the event loop.
        self._ended: deque[Call | Claim] = deque()
        self._woken = False

    def start(self, claim: Claim) -> None:
        self._busy += 1
        if self._busy > self._threads and self._threads < self._count:
            self._start_thread()
        self._queue.put(claim)

    def cancel(self, call: Call) -> None:
        # A thread can't be stopped. The message says that it was cancelled.
        if call.work is not None:
            call.work.cancel()

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        for _ in range(self._threads):
            self._queue.put(None)

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"penstock-{self._threads}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No more threads may be had. Those that there are do the work.
            if not self._threads:
                raise
            self._count = self._threads
            log.warning("%s threads handle messages: no other can start", self._count)
        else:
            self._threads += 1

    def _work(self) -> None:
        while (claim := self._queue.get()) is not None:
            self._run_claim(claim)
            claim = None

    def _run_claim(self, claim: Claim) -> None:
        while call := claim.take(stopped=self._stopped):
            if not call.is_cancelled:
                self._context.copy().run(self._run, call)
            self._tell(call)
            if self._stop_at_failure and call.has_failed:
                break
        self._tell(claim)

    def _run(self, call: Call) -> None:
        call.begin()
        try:
            result = self._handler.call(call.messages)
            if is_awaitable(result):
                call.work = asyncio.run_coroutine_threadsafe(resolve(result), self._loop)
                if call.is_cancelled:
                    call.work.cancel()
                result = call.work.result()
            call.verdicts = self._handler.verdicts(call.messages, result)
        except BaseException as error:
            call.verdicts = _failed(self._handler, self._exit, call, error)
        call.took = time.monotonic() - call.began

    def _exit(self, error: BaseException) -> None:
        self._call_soon(self._listener.exit, error)

    def _tell(self, ended: Call | Claim) -> None:
        self._ended.append(ended)
        if not self._woken:
            self._woken = True
            self._call_soon(self._collect)

    def _call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        # The loop may have been closed while the handler did not return.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _collect(self) -> None:
        self._woken = False
        with contextlib.suppress(IndexError):
            while True:
                ended = self._ended.popleft()
                if isinstance(ended, Call):
                    self._listener.call_ended(ended)
                else:
                    self._busy -= 1
                    self._listener.claim_ended(ended)


def _failed(
    handler: Handler, exit: Callable[[BaseException], None], call: Call, error: BaseException
) -> Verdicts | None:
    """Returns the verdicts for an exception; the process ends in order where it asks so.

    Nothing gets out of here, or the lane would end.
    """
    for leaf in _verdicts.leaves(error):
        if isinstance(leaf, KeyboardInterrupt | SystemExit):
            exit(leaf)
            break
    if call.is_cancelled:
        return None
    try:
        return handler.failed(call.messages, error)
    except BaseException as second:
        # An exception class, or a handler of the log, that raises itself.
        reason = f"{type(error).__name__}, which can't be read: {_verdicts.describe(second)}"
        return [_verdicts.Retry(reason)] * len(call.messages)
