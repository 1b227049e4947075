"""Where messages are handled: some lanes, in each one message after the other. A key has
its lane, so that its messages keep their order."""

import asyncio
import inspect
import time
from concurrent.futures import ThreadPoolExecutor

from penstock import _verdicts

# Verdicts of a thread are reported at least so often, in seconds.
REPORT_EVERY = 0.01

BEHIND = _verdicts.Retry("a message before it in the batch was not done")


class Batch:
    """What the messages of a batch share."""

    def __init__(self, group, deadline_ms, in_order):
        self.group = group
        self.deadline_ms = deadline_ms
        self.in_order = in_order
        self.void = False
        self.failed = False


class Lanes:
    """The lanes of one stream."""

    def __init__(self, handle, permanent, count, in_order, answers, stop):
        self._handle = handle
        self._permanent = permanent
        self._answers = answers
        self._stop = stop
        self._in_order = in_order
        self._next = 0
        self._queues = [asyncio.Queue() for _ in range(1 if in_order else count)]
        self._pool = None
        work = self._await_all
        if not inspect.iscoroutinefunction(handle):
            self._pool = ThreadPoolExecutor(len(self._queues), "penstock")
            work = self._call_all
        self._tasks = [asyncio.create_task(self._work(queue, work)) for queue in self._queues]

    def give(self, batch, messages):
        """Shares out the messages of a batch."""
        shares = [[] for _ in self._queues]
        count = len(shares)
        for message in messages:
            key = message.key
            if key is None:
                self._next = (self._next + 1) % count
                shares[self._next].append(message)
            else:
                shares[hash(key) % count].append(message)
        for queue, share in zip(self._queues, shares):
            if share:
                queue.put_nowait((batch, share))

    async def finish(self):
        """Waits until every lane is at its end: what it has, or with a stop the message
        that it is at."""
        for queue in self._queues:
            queue.put_nowait(None)
        await asyncio.gather(*self._tasks)
        if self._pool:
            self._pool.shutdown()

    async def _work(self, queue, work):
        while (share := await queue.get()) is not None:
            await work(*share)

    async def _await_all(self, batch, share):
        for message in share:
            if self._stop.is_set():
                return
            if batch.void:
                self._answers.grant(1)
                continue
            verdict = self._not_to_be_handled(batch)
            if verdict is None:
                try:
                    await self._handle(message)
                    verdict = _verdicts.done(message)
                except asyncio.CancelledError as error:
                    if asyncio.current_task().cancelling():
                        raise
                    # Not the lane was cancelled, but what its handler waited for.
                    verdict = self._failed(batch, error)
                except Exception as error:
                    verdict = self._failed(batch, error)
            self._answers.settle([(message.id, verdict)])

    async def _call_all(self, batch, share):
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._call_in_thread, loop, batch, share)

    def _call_in_thread(self, loop, batch, share):
        said, since = [], time.monotonic()
        for message in share:
            if self._stop.is_set():
                break
            if batch.void:
                loop.call_soon_threadsafe(self._answers.grant, 1)
                continue
            verdict = self._not_to_be_handled(batch)
            if verdict is None:
                try:
                    self._handle(message)
                    verdict = _verdicts.done(message)
                except Exception as error:
                    verdict = self._failed(batch, error)
            said.append((message.id, verdict))
            now = time.monotonic()
            if now - since > REPORT_EVERY:
                loop.call_soon_threadsafe(self._answers.settle, said)
                said, since = [], now
        if said:
            loop.call_soon_threadsafe(self._answers.settle, said)

    def _not_to_be_handled(self, batch):
        return BEHIND if batch.in_order and batch.failed else None

    def _failed(self, batch, error):
        batch.failed = True
        return _verdicts.of(error, self._permanent)
