"""A stream: handshake, credits, begun reports, and order."""

import asyncio
import threading
import time
import unittest

from penstock import DeadLetter, Retry, Skip
from penstock._stream import Refused
from penstock.handler.v1 import handler_pb2 as v1
from penstock.testing import Runtime, message
from tests.streams import (
    KEYS,
    LIMIT,
    Held,
    HeldThreads,
    all_credits_come_back,
    messages,
    names,
    nothing,
)


class Handshake(unittest.IsolatedAsyncioTestCase):
    async def test_welcome_says_what_the_handler_can_do(self):
        async with Runtime(nothing, window=70) as runtime:
            welcome = (await runtime.until(lambda heard: heard.welcome)).welcome
        self.assertEqual((welcome.version, welcome.sdk_name), (2, "penstock-python"))
        self.assertTrue(welcome.sdk_version)
        self.assertEqual(list(welcome.orders), [0, 1, 2])
        self.assertEqual(list(welcome.features), [1, 2, 3])
        self.assertEqual((welcome.max_batch, welcome.max_message_bytes), (70, (1 << 31) - 1))

    async def test_an_unknown_order_is_refused(self):
        runtime = Runtime(nothing)
        runtime._hello.order = 7
        async with runtime:
            with self.assertRaisesRegex(
                Refused, "does not know order 7 .* install a newer"
            ) as it:
                await runtime.ended()
        self.assertEqual(it.exception.code, "FAILED_PRECONDITION")
        self.assertIsNone(runtime.heard.welcome)

    async def test_a_higher_version_only_adds(self):
        runtime = Runtime(nothing)
        runtime._hello.version = 3
        async with runtime:
            await runtime.deliver(message())
            await runtime.settled(1)
        self.assertEqual(runtime.heard.welcome.version, 2)

    async def test_a_runtime_of_version_1_gets_no_release(self):
        held = Held()

        async def handle(message):
            if message.key == b"a":
                raise Retry("busy")
            await held.handle(message)

        runtime = Runtime(handle, order="key", concurrency=2)
        runtime._hello.version = 1
        async with runtime:
            runtime.send(messages(["a", "a", "b"]))
            # A message behind a failure has a verdict, which the runtime does not count.
            await runtime.settled(2)
            runtime.send(messages(["c", "d"], 4))
            await held.wait_for(2)
            runtime.stop()
            held.go.set()
            await runtime.ended()
        # The last one, which did not begin, has none.
        self.assertEqual(names(runtime), ["retry", "retry", "done", "done"])
        self.assertEqual(runtime.heard.numbers("done"), [3, 4])

    async def test_a_stream_begins_with_hello(self):
        runtime = Runtime(nothing)
        runtime.request(v1.FromRuntime(batch=v1.Batch(first_id=1)))
        async with runtime:
            with self.assertRaisesRegex(Refused, "the first message is batch, not hello"):
                await runtime.ended()


class Begun(unittest.IsolatedAsyncioTestCase):
    async def test_a_call_is_reported_before_it_begins(self):
        heard_at_call = []
        for threads in (True, False):

            def handle(message):
                heard_at_call.append(message._number in runtime.heard.begun)

            async with Runtime(handle, threads=threads) as runtime:
                await runtime.deliver(*messages([None] * 50))
                await runtime.settled(50)
            self.assertEqual(heard_at_call, [True] * 50)
            heard_at_call.clear()

    async def test_quick_calls_are_not_reported_and_lasting_ones_are(self):
        held, threads = Held(), HeldThreads()

        async def handle(message):
            if message.key:
                await held.handle(message)

        def plain(message):
            if message.key:
                threads.handle(message)

        for function, holder in ((handle, held), (plain, threads)):
            async with Runtime(function, concurrency=2, window=20) as runtime:
                await runtime.deliver(*messages([None] * 500))
                await runtime.settled(500)
                [number] = await runtime.deliver(message(key="a"))
                await runtime.until(lambda heard, number=number: number in heard.begun)
                holder.go.set()
                await runtime.settled(501)
                # The first calls, before they proved to be quick, and the last.
                self.assertLess(len(runtime.heard.begun), 450)

    async def test_nothing_that_waits_is_reported(self):
        held = Held()
        async with Runtime(held.handle, concurrency=2) as runtime:
            runtime.send(messages([None] * 6))
            await held.wait_for(2)
            self.assertEqual(sorted(runtime.heard.begun), [1, 2])
            held.go.set()
            await runtime.settled(6)
        self.assertEqual(sorted(runtime.heard.begun), [1, 2, 3, 4, 5, 6])

    async def test_a_slow_call_in_a_thread_holds_nothing_that_is_claimed_with_it(self):
        held = HeldThreads()

        def handle(message):
            if message.key:
                held.handle(message)

        async with Runtime(handle, concurrency=2, window=50) as runtime:
            await runtime.deliver(*messages([None] * 1000))
            await runtime.settled(1000)
            first = 1001
            runtime.send(messages(["slow"] + [None] * 40, first))
            # All but the slow one, though they were claimed by the same lane.
            await runtime.settled(1040)
            self.assertIn(first, runtime.heard.begun)
            held.go.set()
            await runtime.settled(1041)

    async def test_a_reported_call_runs_whatever_happens_before_it_starts(self):
        class Interrupting(Runtime):
            """Does something while the report of a call is written."""

            async def _take(self, answer):
                await super()._take(answer)
                if answer.begun:
                    await self.interrupt()

        for threads in (True, False):

            async def stop():
                runtime.stop()

            async def let_time_pass():
                # Beyond the time by which the message may begin.
                await asyncio.sleep(0.06)

            async def cancel():
                runtime.cancel(1)
                await asyncio.sleep(0)

            for interrupt in (stop, let_time_pass, cancel):
                begun = []
                runtime = Interrupting(
                    lambda message, begun=begun: begun.append(message.offset),
                    concurrency=1,
                    threads=threads,
                )
                runtime.interrupt = interrupt
                with self.subTest(interrupt=interrupt.__name__, threads=threads):
                    async with runtime:
                        runtime.send(messages([None, None]), begin_within=0.05)
                        if interrupt is cancel:
                            await runtime.until(lambda heard: heard.numbers("done") == [2])
                            self.assertNotIn(1, runtime.heard.numbers("release"))
                        else:
                            await runtime.settled(2)
                            self.assertEqual(names(runtime), ["done", "release"])
                            self.assertEqual(begun, [1])

    async def test_a_message_that_can_not_begin_in_time_is_released(self):
        held = Held()
        async with Runtime(held.handle, concurrency=1) as runtime:
            runtime.send(messages([None]))
            await held.wait_for(1)
            runtime.send(messages([None], 2), begin_within=0.05)
            # While the first call still runs.
            [outcome] = await runtime.settled(1)
            self.assertEqual((outcome.name, outcome.message._number), ("release", 2))
            self.assertIn("in time", outcome.reason)
            held.go.set()
            await runtime.settled(2)
        self.assertEqual(len(held.begun), 1)

    async def test_the_time_is_looked_at_before_each_beginning(self):
        for threads in (True, False):
            begun = []

            def handle(message, begun=begun):
                begun.append(message.offset)
                time.sleep(0.05)

            async with Runtime(handle, concurrency=1, threads=threads) as runtime:
                runtime.send(messages([None] * 8), begin_within=0.12)
                await runtime.settled(8)
                done = runtime.heard.numbers("done")
                self.assertEqual(begun, done)
                self.assertEqual(len(done) + len(runtime.heard.numbers("release")), 8)
                self.assertLess(len(done), 8)

    async def test_a_clock_that_is_set_back_lengthens_no_wait(self):
        async with Runtime(nothing, wait=5.0) as runtime:
            runtime.send(messages([None]), begin_within=1e6)
            await runtime.settled(1)
            begin_by = runtime._stream._begin_by(round((time.time() + 1e6) * 1000), 100.0)
        self.assertEqual(begin_by, 105.0)

    async def test_more_time_is_asked_for_a_running_call(self):
        async def handle(message):
            message.extend(90)
            self.assertGreater(message.remaining, 80)
            message.heartbeat()
            await asyncio.sleep(0.01)

        def plain(message):
            message.extend(90)

        async with Runtime(handle, timeout=10, max_timeout=100) as runtime:
            await runtime.deliver(message())
            await runtime.until(lambda heard: heard.extensions)
            [(number, seconds)] = runtime.heard.extensions
            self.assertEqual(number, 1)
            self.assertAlmostEqual(seconds, 90, delta=5)
        held = HeldThreads()

        def long(message):
            plain(message)
            held.handle(message)

        async with Runtime(long, timeout=10, max_timeout=100) as runtime:
            await runtime.deliver(message())
            await runtime.until(lambda heard: heard.extensions)
            self.assertAlmostEqual(runtime.heard.extensions[0][1], 90, delta=5)
            self.assertEqual(runtime.heard.begun, [1])
            held.go.set()
            await runtime.settled(1)


class Order(unittest.IsolatedAsyncioTestCase):
    async def test_calls_run_at_once_up_to_the_concurrency(self):
        held = Held()
        async with Runtime(held.handle, concurrency=3) as runtime:
            runtime.send(messages([None] * 12))
            await held.wait_for(3)
            self.assertEqual(len(held.begun), 3)
            held.go.set()
            await runtime.settled(12)
        self.assertEqual(names(runtime), ["done"] * 12)
        self.assertEqual(held.most, 3)

    async def test_messages_of_one_key_keep_their_order_over_batches(self):
        running, begun = set(), {}

        async def handle(message):
            self.assertNotIn(message.key, running)
            running.add(message.key)
            begun.setdefault(message.key, []).append(message.offset)
            await asyncio.sleep(0)
            running.remove(message.key)

        keys = [str(number * 7 % 5) for number in range(60)]
        for order in ("key", "any"):
            begun.clear()
            async with Runtime(handle, order=order, concurrency=4) as runtime:
                runtime.send(messages(keys[:20]))
                runtime.send(messages(keys[20:], 21))
                await runtime.settled(60)
            self.assertEqual(names(runtime), ["done"] * 60)
            self.assertEqual(len(begun), 5)
            for offsets in begun.values():
                self.assertEqual(offsets, sorted(offsets))

    async def test_a_slow_key_holds_no_other(self):
        held = Held()

        async def handle(message):
            if message.key == b"slow":
                await held.handle(message)

        async with Runtime(handle, order="key", concurrency=2) as runtime:
            runtime.send(messages(["slow", *map(str, range(40)), "slow"]))
            await runtime.settled(40)
            self.assertEqual(len(held.begun), 1)
            held.go.set()
            await runtime.settled(42)

    async def test_in_order_nothing_is_handled_behind_a_failure(self):
        handled = []

        def answer(message):
            handled.append(message.offset)
            if message.offset == 2:
                raise Skip("a tombstone")
            if message.offset == 3:
                raise Retry("busy")

        async def wait(message):
            await asyncio.sleep(0)
            answer(message)

        for handle in (answer, wait):
            handled.clear()
            async with Runtime(handle, order="batch", concurrency=8) as runtime:
                runtime.send(messages(KEYS))
                runtime.send(messages(["a", "b"], 9))
                await runtime.settled(10)
                self.assertEqual(handled, [1, 2, 3, 9, 10])
                expected = ["done", "skip", "retry"] + ["release"] * 5 + ["done"] * 2
                self.assertEqual(names(runtime), expected)
                await all_credits_come_back(runtime)

    async def test_the_same_holds_for_quick_calls(self):
        handled = []

        def handle(message):
            handled.append(message.offset)
            if message.offset % 7 == 0:
                raise Retry("busy")

        async with Runtime(handle, order="batch", window=40) as runtime:
            first = 1
            for _ in range(30):
                runtime.send(messages([None] * 10, first))
                first += 10
            await runtime.settled(300)
        expected = []
        for first in range(1, 300, 10):
            failed = False
            for offset in range(first, first + 10):
                expected.append("release" if failed else "done")
                if offset % 7 == 0 and not failed:
                    failed = True
                    expected[-1] = "retry"
        self.assertEqual(names(runtime), expected)
        began = [number for number, name in enumerate(expected, 1) if name != "release"]
        self.assertEqual(handled, began)

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
            async with Runtime(handle, order="key", concurrency=2) as runtime:
                # The keys of another partition are others, and no key is not the empty key.
                one = messages(["a", "a", "b", "a", "a"])
                other = messages(["a", "a", "", "", None, None], 6, partition=4)
                runtime.send(one + other)
                runtime.send(messages(["a", ""], 12))
                await runtime.settled(13)
                self.assertEqual(sorted(begun), [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13])
                expected = ["skip", "retry", "done", "release", "release"]
                expected += ["done"] * 3 + ["retry"] + ["done"] * 4
                # Offset 9 is the second message with the empty key.
                self.assertEqual(names(runtime), expected)

    async def test_in_order_one_call_runs_at_a_time_in_threads_too(self):
        handled = []
        alone = threading.Lock()

        def handle(message):
            if not alone.acquire(blocking=False):
                raise AssertionError("two at once")
            handled.append(message.offset)
            time.sleep(0.0005)
            alone.release()

        async with Runtime(handle, order="batch", concurrency=8) as runtime:
            runtime.send(messages(KEYS))
            runtime.send(messages(KEYS, 9))
            await runtime.settled(16)
        self.assertEqual(names(runtime), ["done"] * 16)
        self.assertEqual(handled, list(range(1, 17)))

    async def test_plain_functions_run_side_by_side_in_threads(self):
        together = threading.Barrier(3)

        def handle(message):
            together.wait(LIMIT)

        async with Runtime(handle, concurrency=3) as runtime:
            runtime.send(messages([None] * 9))
            await runtime.settled(9)
        self.assertEqual(names(runtime), ["done"] * 9)


class Credits(unittest.IsolatedAsyncioTestCase):
    async def test_the_first_credits_are_few_and_each_comes_back(self):
        async def handle(message):
            if message.offset % 3 == 0:
                raise DeadLetter("a third")

        async with Runtime(handle, concurrency=4) as runtime:
            await runtime.until(lambda heard: heard.credits)
            self.assertEqual(runtime.credits, 8)
            await runtime.deliver(*messages([None] * 40))
            await runtime.settled(40)
            await all_credits_come_back(runtime)
        expected = ["dead_letter" if number % 3 == 0 else "done" for number in range(1, 41)]
        self.assertEqual(names(runtime), expected)

    async def test_a_quick_handler_has_the_window_soon(self):
        async with Runtime(nothing, window=300) as runtime:
            for _ in range(20):
                await runtime.deliver(*messages([None] * 200))
            await runtime.settled(4000)
            await runtime.until(lambda _: runtime.credits == 300)
