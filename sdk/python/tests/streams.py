"""Messages and handlers for tests of a stream."""

import asyncio
import threading

from penstock.testing import message

LIMIT = 30

KEYS = ["a", "b", "a", "c", "b", "a", None, None]


def messages(keys, first=1, partition=3):
    """Returns a message for each key."""
    return [
        message(b"{}", key=key, partition=partition, offset=offset)
        for offset, key in enumerate(keys, first)
    ]


def names(runtime):
    """Returns the outcome of each delivery, in the order of their numbers."""
    found = {outcome.message._number: outcome.name for outcome in runtime.outcomes}
    return [found[number] for number in sorted(found)]


async def all_credits_come_back(runtime):
    """Waits until the handler accepts as much as it would without any message."""
    await runtime.until(lambda _: runtime.credits == runtime._stream._credits.limit)


class Held:
    """A handler that waits in each call until it may go on. Its calls are counted."""

    def __init__(self):
        self.go = asyncio.Event()
        self.begun = []
        self.most = 0
        self.running = 0
        self._changed = asyncio.Condition()

    async def handle(self, message):
        self.begun.append(message)
        self.running += 1
        self.most = max(self.most, self.running)
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.go.wait()
        finally:
            self.running -= 1

    async def wait_for(self, calls):
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= calls)


class HeldThreads:
    """The same for a plain function."""

    def __init__(self):
        self.go = threading.Event()
        self.begun = []
        self._begun = threading.Semaphore(0)

    def handle(self, message):
        self.begun.append(message)
        self._begun.release()
        self.go.wait(LIMIT)

    async def wait_for(self, calls):
        for _ in range(calls):
            assert await asyncio.to_thread(self._begun.acquire, timeout=LIMIT)


async def nothing(message):
    pass
