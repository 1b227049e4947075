"""A stream: credits, verdicts, order, cancellation, and its end."""

import asyncio
import threading
import time
import unittest

from penstock import DeadLetter, Retry, Skip
from penstock.handler.v1 import handler_pb2 as v1
from tests.runtime import LIMIT, Runtime, batch, cancel, hello

KEYS = [b"a", b"b", b"a", b"c", b"b", b"a", None, None]


class Held:
    """A handler that waits in each call until it is let go. Its calls are counted."""

    def __init__(self):
        self.go = asyncio.Event()
        self.begun = []
        self.most = 0
        self._running = 0
        self._changed = asyncio.Condition()

    async def handle(self, message):
        self.begun.append(message)
        self._running += 1
        self.most = max(self.most, self._running)
        async with self._changed:
            self._changed.notify_all()
        await self.go.wait()
        self._running -= 1

    async def wait_for(self, calls):
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= calls)


class Credits(unittest.IsolatedAsyncioTestCase):
    async def test_the_window_is_granted_at_hello(self):
        async def handle(message):
            pass

        runtime = Runtime(handle, window=7)
        runtime.say(hello())
        said = await runtime.until(lambda said: said.credits)
        self.assertEqual((said.credits, said.verdicts), (7, []))

    async def test_each_message_gives_its_credit_back_whatever_became_of_it(self):
        async def handle(message):
            if message.offset % 3 == 0:
                raise DeadLetter("a third")

        runtime = Runtime(handle, window=10)
        runtime.say(hello(), batch(1, KEYS), batch(9, KEYS))
        said = await runtime.settled(16)
        self.assertEqual(said.credits, 10 + 16)
        self.assertEqual([number for number, _ in sorted(said.verdicts)], list(range(1, 17)))
        expected = ["dead_letter" if number % 3 == 0 else "done" for number in range(1, 17)]
        self.assertEqual(said.outcomes(), expected)


class Order(unittest.IsolatedAsyncioTestCase):
    async def test_calls_run_at_once_up_to_the_concurrency(self):
        held = Held()
        runtime = Runtime(held.handle, concurrency=3)
        runtime.say(hello(), batch(1, [None] * 12))
        await held.wait_for(3)
        self.assertEqual(len(held.begun), 3)
        held.go.set()
        self.assertEqual((await runtime.settled(12)).outcomes(), ["done"] * 12)
        self.assertEqual(held.most, 3)

    async def test_messages_of_one_key_keep_their_order_over_batches(self):
        running, begun = set(), {}

        async def handle(message):
            self.assertNotIn(message.key, running)
            running.add(message.key)
            begun.setdefault(message.key, []).append(message.offset)
            await asyncio.sleep(0)
            running.remove(message.key)

        keys = [b"%d" % (number * 7 % 5) for number in range(60)]
        runtime = Runtime(handle, concurrency=4)
        runtime.say(hello(v1.ORDER_KEY), batch(1, keys[:20]), batch(21, keys[20:]))
        self.assertEqual((await runtime.settled(60)).outcomes(), ["done"] * 60)
        self.assertEqual(len(begun), 5)
        for offsets in begun.values():
            self.assertEqual(offsets, sorted(offsets))

    async def test_in_order_nothing_is_handled_behind_a_failure(self):
        handled = []

        async def handle(message):
            handled.append(message.offset)
            if message.offset == 3:
                raise Retry("busy")

        runtime = Runtime(handle)
        runtime.say(hello(v1.ORDER_BATCH), batch(1, KEYS), batch(9, [b"a", b"b"]))
        said = await runtime.settled(10)
        self.assertEqual(handled, [1, 2, 3, 9, 10])
        self.assertEqual(said.outcomes(), ["done"] * 2 + ["retry"] * 6 + ["done"] * 2)
        self.assertEqual(said.credits, 100 + 10)

    async def test_nothing_of_a_key_is_handled_behind_a_failure(self):
        begun = []

        def answer(message):
            begun.append(message.offset)
            match message.offset:
                case 2 | 9:
                    raise Retry("busy")
                case 1:
                    raise Skip("not ours")

        async def wait(message):
            await asyncio.sleep(0)
            answer(message)

        for handle in (answer, wait):
            begun.clear()
            runtime = Runtime(handle, concurrency=2)
            # The keys of another partition are others, and no key is not the empty key.
            keys = [b"a", b"a", b"b", b"a", b"a"], [b"a", b"a", b"", b"", None, None]
            runtime.say(hello(v1.ORDER_KEY), batch(1, *keys), batch(12, [b"a", b""]))
            said = await runtime.settled(13)
            self.assertEqual(sorted(begun), [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13])
            expected = ["skip", "retry", "done", "retry", "retry"]
            expected += ["done"] * 3 + ["retry"] + ["done"] * 4
            self.assertEqual(said.outcomes(), expected)
            self.assertEqual(said.credits, 100 + 13)
            runtime.end()
            await runtime.rest()

    async def test_in_order_one_call_runs_at_a_time_in_threads_too(self):
        handled = []
        alone = threading.Lock()

        def handle(message):
            if not alone.acquire(blocking=False):
                raise AssertionError("two at once")
            handled.append(message.offset)
            time.sleep(0.0005)
            alone.release()

        runtime = Runtime(handle, concurrency=8)
        runtime.say(hello(v1.ORDER_BATCH), batch(1, KEYS), batch(9, KEYS))
        self.assertEqual((await runtime.settled(16)).outcomes(), ["done"] * 16)
        self.assertEqual(handled, list(range(1, 17)))
        runtime.end()
        await runtime.rest()


class Threads(unittest.IsolatedAsyncioTestCase):
    async def test_plain_functions_run_side_by_side_in_threads(self):
        together = threading.Barrier(3)

        def handle(message):
            together.wait(LIMIT)

        runtime = Runtime(handle, concurrency=3)
        runtime.say(hello(), batch(1, [None] * 9))
        self.assertEqual((await runtime.settled(9)).outcomes(), ["done"] * 9)
        runtime.end()
        await runtime.rest()


class Cancellation(unittest.IsolatedAsyncioTestCase):
    async def test_what_is_void_is_not_begun_and_gives_its_credit_back(self):
        held = Held()
        runtime = Runtime(held.handle, concurrency=1)
        runtime.say(hello(), batch(1, [None] * 5), batch(6, [None]))
        await held.wait_for(1)
        running = held.begun[0]
        self.assertFalse(running.void)
        runtime.say(cancel(1, 5))
        async with asyncio.timeout(LIMIT):
            while not running.void:
                await asyncio.sleep(0)
        held.go.set()
        # The call that ran has a verdict, which changes nothing, and so has the other batch.
        said = await runtime.settled(2)
        self.assertEqual(said.verdicts, [(1, "done"), (6, "done")])
        self.assertEqual(said.credits, 100 + 6)
        self.assertEqual([message.offset for message in held.begun], [1, 6])

    async def test_only_the_batch_that_is_named_is_void(self):
        held = Held()
        runtime = Runtime(held.handle, concurrency=3)
        runtime.say(hello(), batch(1, [None]), batch(2, [None]), batch(3, [None]))
        await held.wait_for(3)
        messages = sorted(held.begun, key=lambda message: message.offset)
        runtime.say(cancel(2, 1))
        async with asyncio.timeout(LIMIT):
            while not messages[1].void:
                await asyncio.sleep(0)
        self.assertEqual([message.void for message in messages], [False, True, False])
        held.go.set()
        await runtime.settled(3)


class Failures(unittest.IsolatedAsyncioTestCase):
    async def test_no_exception_stops_a_lane(self):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no words")

        errors = [
            Retry(ValueError("busy"), delay=-1),
            Mute(),
            # As when something that it waited for was cancelled.
            asyncio.CancelledError(),
            ValueError("\udcff"),
        ]

        async def handle(message):
            if errors:
                raise errors.pop(0)

        runtime = Runtime(handle, concurrency=1)
        runtime.say(hello(), batch(1, [None] * 6))
        said = await runtime.settled(6)
        self.assertEqual(said.outcomes(), ["retry"] * 4 + ["done"] * 2)


class End(unittest.IsolatedAsyncioTestCase):
    async def test_a_stop_lets_running_calls_finish_and_begins_no_other(self):
        held = Held()
        runtime = Runtime(held.handle, concurrency=2)
        runtime.say(hello(), batch(1, [None] * 6))
        await held.wait_for(2)
        runtime.stop.set()
        await asyncio.sleep(0)
        held.go.set()
        said = await runtime.rest()
        self.assertEqual(sorted(said.verdicts), [(1, "done"), (2, "done")])
        self.assertEqual(len(held.begun), 2)

    async def test_a_stop_lets_running_threads_finish_and_begins_no_other(self):
        begun, go = [], threading.Event()
        both = threading.Semaphore(0)

        def handle(message):
            begun.append(message.offset)
            both.release()
            go.wait(LIMIT)

        runtime = Runtime(handle, concurrency=2)
        runtime.say(hello(), batch(1, [None] * 6))
        for _ in range(2):
            self.assertTrue(await asyncio.to_thread(both.acquire, timeout=LIMIT))
        runtime.stop.set()
        await asyncio.sleep(0)
        go.set()
        said = await runtime.rest()
        self.assertEqual([outcome for _, outcome in said.verdicts], ["done"] * 2)
        self.assertEqual(sorted(number for number, _ in said.verdicts), sorted(begun))

    async def test_when_the_runtime_ends_its_side_what_was_given_is_done_first(self):
        handled = []

        async def handle(message):
            handled.append(message.offset)

        runtime = Runtime(handle)
        runtime.say(hello(), batch(1, KEYS))
        runtime.end()
        self.assertEqual((await runtime.rest()).outcomes(), ["done"] * 8)
        self.assertEqual(sorted(handled), list(range(1, 9)))

    async def test_a_stop_before_hello_ends_the_stream(self):
        async def handle(message):
            pass

        runtime = Runtime(handle)
        runtime.stop.set()
        said = await runtime.rest()
        self.assertEqual((said.credits, said.verdicts), (0, []))
