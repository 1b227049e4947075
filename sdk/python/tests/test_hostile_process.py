"""Handlers that misbehave in a way that only a process shows."""

import asyncio
import signal

import grpc

from penstock.handler.v1 import handler_pb2 as v1
from tests.process import ProcessTest

BLOCKS = """
async def handle(message):
    begun(message)
    time.sleep(0.02)  # However soon the test lets it go on, it is no quick call.
    read()
"""

BREAKS = """
import ctypes

def handle(message):
    if message.offset == 3:
        {way}
"""


class Blocked(ProcessTest):
    async def test_a_handler_that_blocks_the_loop_starves_no_verdict_and_no_signal(self):
        handler = await (await self.start(BLOCKS, concurrency=8)).open()
        await handler.send(4)
        self.assertEqual(await handler.line(), "begun 1")
        await handler.until(lambda heard: heard.begun == [1])
        await handler.go_on()
        # The second call blocks the loop, and the first one's verdict is here.
        self.assertEqual(await handler.line(), "begun 2")
        await handler.until(lambda heard: heard.numbers("done") == [1])
        await handler.until(lambda heard: sorted(heard.begun) == [1, 2])
        handler.signal()
        await handler.go_on()
        code = await handler.ended()
        self.assertEqual(code, 0, handler.log_at_end)
        self.assertEqual(handler.status, grpc.StatusCode.OK)
        self.assertEqual(handler.heard.numbers("done"), [1, 2])
        self.assertEqual(handler.heard.numbers("release"), [3, 4])

    async def test_a_blocked_loop_is_warned_about_with_its_place(self):
        handler = await (await self.start(BLOCKS)).open()
        await handler.send(1)
        await handler.log("the event loop has been blocked for")
        self.assertIn('File "<string>"', await handler.log(", in handle"))
        await handler.go_on()
        await handler.log("the event loop is free again")

    async def test_a_finished_call_in_a_thread_waits_for_no_other(self):
        handle = "def handle(message):\n    begun(message)\n    if message.offset > 1: read()"
        handler = await (await self.start(handle, concurrency=1)).open()
        await handler.send(2)
        await handler.until(lambda heard: heard.numbers("done") == [1])
        self.assertEqual([await handler.line(), await handler.line()], ["begun 1", "begun 2"])


class Broken(ProcessTest):
    async def test_the_message_that_breaks_the_process_was_reported_and_no_other(self):
        for way in ("os._exit(3)", "ctypes.string_at(0)", "os.kill(os.getpid(), 9)"):
            for order in (v1.ORDER_BATCH, v1.ORDER_KEY):
                with self.subTest(way, order=order):
                    handle = BREAKS.format(way=way)
                    handler = await (await self.start(handle, concurrency=1)).open(order)
                    await handler.send(6)
                    self.assertNotEqual(await handler.ended(), 0)
                    self.assertNotEqual(handler.status, grpc.StatusCode.OK)
                    # What gRPC has not written yet is lost with the process, on a busy
                    # machine all of it. The verdict on a message and the report of the next
                    # are written together.
                    done = handler.heard.numbers("done")
                    self.assertIn(done, ([1, 2], [1], []))
                    open_begun = set(handler.heard.begun) - set(done)
                    one = {len(done) + 1}
                    self.assertIn(open_begun, (one, one if done else set()), "only it is charged")

    async def test_the_end_that_a_handler_asks_for_is_in_order(self):
        for way, code in [
            ("sys.exit(7)", 7),
            ("raise SystemExit", 0),
            ("raise BaseExceptionGroup('several', [SystemExit(8)])", 8),
        ]:
            for kind in ("def", "async def"):
                with self.subTest(way, kind=kind):
                    handle = f"{kind} handle(message):\n    if message.offset == 3: {way}"
                    handler = await (await self.start(handle, concurrency=1)).open()
                    await handler.send(6)
                    self.assertEqual(await handler.ended(), code)
                    self.assertEqual(handler.status, grpc.StatusCode.OK)
                    self.assertEqual(handler.heard.numbers("retry"), [3])
                    self.assertEqual(len(handler.heard.outcomes), 6, "each has a verdict")
                    stops = "the handler raised SystemExit: the process stops"
                    self.assertIn(stops, handler.log_at_end)

    async def test_an_exit_in_a_task_of_the_handler_ends_the_process_in_order(self):
        handle = """
tasks = set()

async def leave():
    sys.exit(7)

async def handle(message):
    if message.offset == 2:
        tasks.add(asyncio.create_task(leave()))
        await asyncio.sleep(60)
"""
        handler = await (await self.start(handle, concurrency=1, grace=0.1)).open()
        await handler.send(4)
        self.assertEqual(await handler.ended(), 7)
        self.assertEqual(handler.status, grpc.StatusCode.OK)
        self.assertEqual(handler.heard.numbers("done"), [1])

    async def test_a_loop_that_is_stopped_ends_the_process(self):
        handle = """
async def handle(message):
    asyncio.get_running_loop().stop()
    await asyncio.sleep(60)
"""
        handler = await (await self.start(handle)).open()
        await handler.send(1)
        self.assertNotEqual(await handler.ended(), 0)
        self.assertEqual(handler.heard.outcomes, [])


class Frozen(ProcessTest):
    async def test_a_frozen_process_goes_on_and_loses_nothing(self):
        handle = (
            "async def handle(message):\n    begun(message)\n    await asyncio.to_thread(read)"
        )
        handler = await (await self.start(handle, concurrency=2)).open()
        await handler.send(6)
        self.assertEqual({await handler.line(), await handler.line()}, {"begun 1", "begun 2"})
        handler.signal(signal.SIGSTOP)
        await handler.send(3)
        handler.signal(signal.SIGCONT)
        await handler.go_on(9)
        await handler.until(lambda heard: len(heard.outcomes) == 9)
        self.assertEqual(handler.heard.numbers("done"), list(range(1, 10)))
        handler.signal()
        self.assertEqual(await handler.ended(), 0)
        # The loop was not blocked: all stood still.
        self.assertEqual(handler.log_at_end, "")


class Unread(ProcessTest):
    async def test_a_stop_ends_though_the_runtime_reads_nothing(self):
        handle = "def handle(message): message.produce('out', bytes(1 << 20))"
        handler = await (await self.start(handle, grace=0.2)).open()
        handler.reader.cancel()
        await asyncio.wait([handler.reader])
        await handler.send(64)
        del handler.reader
        handler.signal()
        self.assertEqual(await handler.ended(), 0)
