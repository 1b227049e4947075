"""The runtime's side of a stream, as the tests speak it."""

import asyncio

from penstock._serve import _Stream
from penstock.handler.v1 import handler_pb2 as v1

# What the tests wait for comes within so many seconds, or never.
LIMIT = 30


def hello(order=v1.ORDER_UNSPECIFIED):
    return v1.FromRuntime(hello=v1.Hello(version=1, group="shop.orders", order=order))


def batch(first_id, *runs, attempt=1):
    """A batch with a message for each key, whose offset is its delivery's number. Each list
    of keys is of a partition of its own."""
    number, given = first_id, []
    for partition, keys in enumerate(runs, 3):
        run = v1.Run(topic="orders", partition=partition, epoch=7)
        for key in keys:
            run.deliveries.add(offset=number, key=key, value=b"{}", attempt=attempt)
            number += 1
        given.append(run)
    return v1.FromRuntime(batch=v1.Batch(first_id=first_id, begin_by_ms=1_500, runs=given))


def cancel(first_id, count):
    deliveries = v1.Range(first_id=first_id, count=count)
    return v1.FromRuntime(cancel=v1.Cancel(deliveries=[deliveries]))


class Said:
    """What a handler has said so far."""

    def __init__(self):
        self.credits = 0
        self.verdicts = []

    def take(self, answer):
        self.credits += answer.credits
        for verdict in answer.verdicts:
            outcome = verdict.WhichOneof("outcome")
            for number in range(verdict.first_id, verdict.first_id + (verdict.count or 1)):
                self.verdicts.append((number, outcome))

    def outcomes(self):
        """The outcome of each delivery, in the order of their numbers."""
        return [outcome for _, outcome in sorted(self.verdicts)]


class Runtime:
    """One stream to a handler, without gRPC between. What it says is read all the while."""

    def __init__(self, handle, *, permanent=(), concurrency=4, window=100):
        self.stop = asyncio.Event()
        self.said = Said()
        self._requests = asyncio.Queue()
        self._news = asyncio.Condition()
        stream = _Stream(handle, permanent, concurrency, window, self.stop)
        self._reading = asyncio.create_task(self._read(stream.answer(self._incoming())))

    def say(self, *requests):
        for request in requests:
            self._requests.put_nowait(request)

    def end(self):
        """Ends the runtime's side."""
        self._requests.put_nowait(None)

    async def until(self, condition):
        """Waits until what was said is as wanted."""
        async with asyncio.timeout(LIMIT), self._news:
            await self._news.wait_for(lambda: condition(self.said))
        return self.said

    async def settled(self, count):
        """Waits until there are so many verdicts."""
        return await self.until(lambda said: len(said.verdicts) >= count)

    async def rest(self):
        """Waits until the handler ends its side."""
        async with asyncio.timeout(LIMIT):
            await self._reading
        return self.said

    async def _read(self, answers):
        async for answer in answers:
            self.said.take(answer)
            async with self._news:
                self._news.notify_all()

    async def _incoming(self):
        while (request := await self._requests.get()) is not None:
            yield request
