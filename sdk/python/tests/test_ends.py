"""A stream: cancellation, and its end."""

import asyncio
import threading
import time
import unittest

from penstock._stream import Refused
from penstock.handler.v1 import handler_pb2 as v1
from penstock.testing import Runtime
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


class Cancellation(unittest.IsolatedAsyncioTestCase):
    async def test_a_cancelled_call_ends_and_waiting_messages_are_dropped(self):
        held = Held()
        async with Runtime(held.handle, concurrency=1) as runtime:
            runtime.send(messages([None] * 5))
            runtime.send(messages([None], 6))
            await held.wait_for(1)
            runtime.cancel(1, 2, 3, 4, 5)
            await held.wait_for(2)
            self.assertTrue(held.begun[0].cancelled)
            self.assertEqual(held.running, 1)
            held.go.set()
            await runtime.settled(1)
            await all_credits_come_back(runtime)
        self.assertEqual(names(runtime), ["done"])
        self.assertEqual([one.offset for one in held.begun], [1, 6])

    async def test_a_thread_sees_that_its_message_is_cancelled(self):
        begun, ended = threading.Semaphore(0), threading.Event()

        def handle(message):
            begun.release()
            while not message.cancelled:
                time.sleep(0.001)
            ended.set()
            message.produce("out", b"")

        async with Runtime(handle, concurrency=1) as runtime:
            runtime.send(messages([None, None]))
            await asyncio.to_thread(begun.acquire)
            runtime.cancel(1, reason="timed_out")
            await asyncio.to_thread(begun.acquire)
            self.assertTrue(ended.is_set())
            runtime.cancel(2)
            await all_credits_come_back(runtime)
        self.assertEqual(runtime.outcomes, [])

    async def test_only_the_named_deliveries_are_cancelled(self):
        held = Held()
        async with Runtime(held.handle, concurrency=3) as runtime:
            runtime.send(messages([None] * 3))
            await held.wait_for(3)
            runtime.cancel(2)
            await runtime.until(lambda _: held.running == 2 or not held.begun)
            held.go.set()
            await runtime.settled(2)
        self.assertEqual(runtime.heard.numbers("done"), [1, 3])

    async def test_the_oldest_batch_of_many_can_still_be_cancelled(self):
        held = Held()
        async with Runtime(held.handle, concurrency=1, window=2) as runtime:
            runtime.send(messages([None]))
            await held.wait_for(1)
            for first in range(2, 300):
                runtime.send(messages([None], first))
            runtime.cancel(1)
            await held.wait_for(2)
            self.assertEqual(held.begun[0].cancelled, True)

    async def test_a_key_waits_for_its_cancelled_call_to_end(self):
        held = HeldThreads()
        async with Runtime(held.handle, order="key", concurrency=4) as runtime:
            runtime.send(messages(["a", "a"]))
            await held.wait_for(1)
            runtime.cancel(1, reason="timed_out")
            # The runtime sends it again, and another key.
            runtime.send(messages(["a", "b"], 3))
            await held.wait_for(1)
            self.assertEqual([one.offset for one in held.begun], [1, 4])
            held.go.set()
            await runtime.settled(3)
        self.assertEqual(runtime.heard.numbers("release"), [2])
        self.assertEqual(runtime.heard.numbers("done"), [3, 4])

    async def test_a_range_may_be_endless(self):
        held = Held()
        async with Runtime(held.handle, concurrency=1) as runtime:
            runtime.send(messages([None] * 3))
            await held.wait_for(1)
            everything = v1.Range(first_id=0, count=(1 << 64) - 1)
            runtime.request(v1.FromRuntime(cancel=v1.Cancel(deliveries=[everything])))
            await all_credits_come_back(runtime)
            self.assertEqual(held.running, 0)


class End(unittest.IsolatedAsyncioTestCase):
    async def test_a_stop_lets_running_calls_finish_and_releases_the_others(self):
        for held in (Held(), HeldThreads()):
            async with Runtime(held.handle, concurrency=2) as runtime:
                runtime.send(messages([None] * 6))
                await held.wait_for(2)
                runtime.stop()
                await runtime.settled(4)
                self.assertEqual(runtime.heard.numbers("release"), [3, 4, 5, 6])
                # A batch that was under way.
                runtime.send(messages([None], 7))
                await runtime.settled(5)
                held.go.set()
                await runtime.ended()
            self.assertEqual(runtime.heard.numbers("done"), [1, 2])
            self.assertEqual(runtime.heard.numbers("release"), [3, 4, 5, 6, 7])
            self.assertEqual(len(held.begun), 2)

    async def test_a_stop_before_hello_ends_the_stream(self):
        async with Runtime(nothing) as runtime:
            runtime.stop()
            heard = await runtime.ended()
        self.assertEqual((heard.credits, heard.outcomes), (0, []))

    async def test_when_the_runtime_ends_its_side_its_messages_are_handled_first(self):
        async with Runtime(nothing) as runtime:
            runtime.send(messages(KEYS))
            runtime.end()
            await runtime.ended()
        self.assertEqual(names(runtime), ["done"] * 8)

    async def test_a_broken_stream_cancels_its_calls(self):
        held = Held()
        async with Runtime(held.handle, concurrency=2) as runtime:
            runtime.send(messages([None] * 6))
            await held.wait_for(2)
            await runtime.disconnect()
            async with asyncio.timeout(LIMIT):
                while held.running:
                    await asyncio.sleep(0)
        self.assertEqual(len(held.begun), 2)
        self.assertEqual(runtime.outcomes, [])

    async def test_a_new_stream_waits_for_the_calls_of_the_old_one(self):
        held = HeldThreads()
        async with Runtime(held.handle, order="key") as runtime:
            runtime.send(messages(["a"]))
            await held.wait_for(1)
            await runtime.disconnect()
            await runtime.reconnect()
            await runtime.until(lambda heard: heard.welcome)
            self.assertEqual(runtime.credits, 0)
            held.go.set()
            await runtime.deliver(*messages(["a"]))
            await runtime.settled(1)
        self.assertEqual(len(held.begun), 2)

    async def test_a_new_stream_waits_no_longer_than_an_attempt_may_take(self):
        held = HeldThreads()
        async with Runtime(held.handle, order="key", timeout=0.2) as runtime:
            runtime.send(messages(["a"]))
            await held.wait_for(1)
            began = held.begun[0]._began
            await runtime.disconnect()
            await runtime.reconnect()
            await runtime.until(lambda _: runtime.credits)
            self.assertGreaterEqual(time.monotonic(), began + 0.2)
            held.go.set()

    async def test_a_new_stream_ends_an_old_one_that_still_stands(self):
        held = Held()
        async with Runtime(held.handle) as runtime:
            runtime.send(messages([None]))
            await held.wait_for(1)
            old = runtime._task
            await runtime.reconnect()
            await runtime.until(lambda _: runtime.credits)
            with self.assertRaisesRegex(Refused, "another stream"):
                await old
            self.assertEqual(held.running, 0)
