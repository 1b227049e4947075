"""Where messages are handled: some lanes, in each one message after the other. A key has
its lane, so that its messages keep their order; and all that a batch has of a key lies in
one share."""

import asyncio
import inspect
import time
from concurrent.futures import ThreadPoolExecutor

from penstock import _verdicts
from penstock.handler.v1 import handler_pb2 as v1

# Verdicts of a thread are reported at least so often, in seconds.
REPORT_EVERY = 0.01

BEHIND = _verdicts.Retry("a message before it was not done")


class Batch:
    """What the messages of a batch share."""

    def __init__(self, group, deadline_ms):
        self.group = group
        self.deadline_ms = deadline_ms
        self.void = False


class Order:
    """Which messages of a share are behind one that was not done, and not to be handled."""

    def __init__(self, order):
        self._order = order
        self._stopped = set()

    def behind(self, message):
        """The verdict on a message that is not to be handled."""
        # Most shares have nothing that failed.
        return BEHIND if self._stopped and self._place(message) in self._stopped else None

    def failed(self, message, verdict):
        goes_on = self._order == v1.ORDER_KEY and isinstance(verdict, _verdicts.Skip)
        place = self._place(message)
        if place is not None and not goes_on:
            self._stopped.add(place)

    def _place(self, message):
        """What names the order that a message has a place in; None where it has none."""
        if self._order == v1.ORDER_BATCH:
            return "batch"
        if self._order == v1.ORDER_KEY and message.key is not None:
            return (message.topic, message.partition, message.key)
        return None


class Lanes:
    """The lanes of one stream."""

    def __init__(self, handle, permanent, count, order, answers, stop):
        self._handle = handle
        self._permanent = permanent
        self._answers = answers
        self._stop = stop
        self._order = order
        self._next = 0
        count = 1 if order == v1.ORDER_BATCH else count
        self._queues = [asyncio.Queue() for _ in range(count)]
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
        order = Order(self._order)
        for message in share:
            if self._stop.is_set():
                return
            if batch.void:
                self._answers.grant(1)
                continue
            verdict = order.behind(message)
            if verdict is None:
                try:
                    await self._handle(message)
                    verdict = _verdicts.done(message)
                except asyncio.CancelledError as error:
                    if asyncio.current_task().cancelling():
                        raise
                    # Not the lane was cancelled, but what its handler waited for.
                    verdict = self._failed(order, message, error)
                except Exception as error:
                    verdict = self._failed(order, message, error)
            self._answers.settle([(message.id, verdict)])

    async def _call_all(self, batch, share):
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._call_in_thread, loop, batch, share)

    def _call_in_thread(self, loop, batch, share):
        order = Order(self._order)
        said, since = [], time.monotonic()
        for message in share:
            if self._stop.is_set():
                break
            if batch.void:
                loop.call_soon_threadsafe(self._answers.grant, 1)
                continue
            verdict = order.behind(message)
            if verdict is None:
                try:
                    self._handle(message)
                    verdict = _verdicts.done(message)
                except Exception as error:
                    verdict = self._failed(order, message, error)
            said.append((message.id, verdict))
            now = time.monotonic()
            if now - since > REPORT_EVERY:
                loop.call_soon_threadsafe(self._answers.settle, said)
                said, since = [], now
        if said:
            loop.call_soon_threadsafe(self._answers.settle, said)

    def _failed(self, order, message, error):
        verdict = _verdicts.of(error, self._permanent)
        order.failed(message, verdict)
        return verdict
