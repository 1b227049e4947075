"""A handler in a process: where it listens, and what signals do to it."""

import asyncio
import contextlib
import os
import signal
import socket

import grpc

from penstock import Server
from penstock.handler.v1 import handler_pb2 as v1
from tests.process import ProcessTest

PLAIN = """
def handle(message):
    begun(message)
    read()
"""

ASYNC = """
async def handle(message):
    begun(message)
    await asyncio.to_thread(read)
"""

NOTHING = "def handle(message): pass"


class Termination(ProcessTest):
    async def terminated_at_work(self, handle):
        handler = await (await self.start(handle, concurrency=1)).open()
        await handler.send(5)
        self.assertEqual(await handler.line(), "begun 1")
        await handler.go_on()
        self.assertEqual(await handler.line(), "begun 2")
        await handler.terminate()
        await handler.until(lambda heard: len(heard.outcomes) == 4)
        await handler.go_on()
        self.assertEqual(await handler.ended(), 0)
        self.assertEqual(handler.status, grpc.StatusCode.OK)
        self.assertEqual(handler.heard.numbers("done"), [1, 2])
        self.assertEqual(handler.heard.numbers("release"), [3, 4, 5])
        self.assertEqual(await handler.line(), "ended", "no other call began")

    async def test_a_call_that_runs_at_sigterm_is_finished_and_no_other_begun(self):
        await self.terminated_at_work(ASYNC)

    async def test_the_same_in_threads(self):
        await self.terminated_at_work(PLAIN)

    async def test_the_socket_of_one_that_was_killed_is_no_obstacle(self):
        killed = await (await self.start(ASYNC)).open()
        killed.process.kill()
        await killed.ended()
        self.assertTrue(self.socket.exists())
        await self.terminated_at_work(ASYNC)

    async def test_a_stop_waits_no_longer_than_its_grace(self):
        for handle in (ASYNC, PLAIN):
            handler = await (await self.start(handle, grace=0.2)).open()
            await handler.send(1)
            self.assertEqual(await handler.line(), "begun 1")
            handler.signal()
            line = await handler.log("at work for more than 0.2 s")
            self.assertIn("shop/orders/3/1", line)
            # No verdict in a stream that ended in order: it is sent again as this attempt.
            await handler.until(lambda _, handler=handler: handler.status is not None)
            self.assertEqual(handler.status, grpc.StatusCode.OK)
            self.assertEqual(handler.heard.outcomes, [])
            # Python waits for threads of asyncio.to_thread.
            await handler.go_on()
            self.assertEqual(await handler.ended(), 0)

    async def test_a_stop_that_hangs_ends_the_process(self):
        handle = "async def handle(message):\n    begun(message)\n    read()"
        handler = await (await self.start(handle, grace=0.1)).open()
        await handler.send(1)
        self.assertEqual(await handler.line(), "begun 1")
        handler.signal()
        await handler.log("did not stop in time; the process exits now")
        self.assertEqual(await handler.ended(), 1)
        self.assertEqual(handler.heard.begun, [1])

    async def test_a_second_signal_ends_the_process_at_once(self):
        # The loop is blocked, so that it could not serve a signal.
        for handle in (
            PLAIN,
            "async def handle(message):\n    begun(message)\n    time.sleep(60)",
        ):
            handler = await (await self.start(handle)).open()
            await handler.send(1)
            self.assertEqual(await handler.line(), "begun 1")
            handler.signal(signal.SIGTERM)
            ended = asyncio.create_task(handler.ended())
            # Signals that come at the same moment may be served in any order.
            while not ended.done():
                if handler.process.returncode is None:
                    handler.signal(signal.SIGINT)
                await asyncio.wait([ended], timeout=0.02)
            self.assertIn(await ended, (128 + signal.SIGINT, 128 + signal.SIGTERM))
            self.assertIn("a second signal; the process exits at once", handler.log_at_end)


class Handshake(ProcessTest):
    async def test_an_unknown_order_ends_the_stream_and_is_logged(self):
        handler = await (await self.start(NOTHING)).open(order=7)
        await handler.log("does not know order 7")
        await handler.until(lambda _: handler.status is not None)
        self.assertEqual(handler.status, grpc.StatusCode.FAILED_PRECONDITION)
        self.assertRegex(handler.details, "penstock-python .* does not know order 7 of .* shop")
        # It serves others.
        await handler.open(order=v1.ORDER_KEY)
        handler.signal()
        self.assertEqual(await handler.ended(), 0)

    async def test_a_runtime_that_goes_leaves_no_error_in_the_log(self):
        handle = "async def handle(message):\n    begun(message)\n    await asyncio.sleep(60)"
        handler = await (await self.start(handle)).open()
        await handler.send(1)
        self.assertEqual(await handler.line(), "begun 1")
        handler.stream.cancel()
        handler.signal()
        self.assertEqual(await handler.ended(), 0)
        self.assertEqual(handler.log_at_end, "")


class Listening(ProcessTest):
    async def refused(self, text, **options):
        handler = await self.start(NOTHING, **options)
        self.assertIn(text, await handler.log("Error: "))
        self.assertEqual(await handler.ended(), 1)

    async def test_a_port_is_open_on_both_families(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"PORT": str(port), "PENSTOCK_HANDLER_SOCKET": ""}
        address = f"127.0.0.1:{port}"
        handler = await self.start(NOTHING, environment=environment, address=address)
        await handler.open()
        with socket.create_connection(("::1", port), timeout=30):
            pass
        # The port is never shared.
        await self.refused("it is in use", environment=environment, address=address)

    async def test_the_socket_of_a_live_server_is_not_stolen(self):
        handler = await (await self.start(NOTHING)).open()
        await self.refused("as another process serves it")
        await handler.send(1)
        await handler.until(lambda heard: heard.outcomes)

    async def test_a_socket_that_another_program_serves_is_not_stolen(self):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.socket))
            other.listen()
            inode = self.socket.stat().st_ino
            await self.refused("as another process serves it")
            self.assertEqual(self.socket.stat().st_ino, inode)

    async def test_a_server_that_is_too_busy_to_accept_keeps_its_socket(self):
        with contextlib.ExitStack() as sockets:
            busy = sockets.enter_context(socket.socket(socket.AF_UNIX))
            busy.bind(str(self.socket))
            busy.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = sockets.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(str(self.socket))
            inode = self.socket.stat().st_ino
            await self.refused("as another process serves it")
            self.assertEqual(self.socket.stat().st_ino, inode)

    async def test_a_frozen_server_keeps_its_socket(self):
        handler = await (await self.start(NOTHING)).open()
        handler.signal(signal.SIGSTOP)
        await self.refused("as another process serves it")
        handler.signal(signal.SIGCONT)
        await handler.send(1)
        await handler.until(lambda heard: heard.outcomes)

    async def test_a_file_at_the_sockets_path_is_not_deleted(self):
        self.socket.write_text("important")
        await self.refused("as it is no socket: remove it by hand")
        self.assertEqual(self.socket.read_text(), "important")
        self.socket.unlink()
        target = self.directory / "target"
        target.write_text("important")
        self.socket.symlink_to(target)
        await self.refused("as it is no socket: remove it by hand")
        self.assertEqual(target.read_text(), "important")

    async def test_a_missing_directory_and_a_bad_port_have_a_remedy(self):
        path = str(self.directory / "missing" / "handler.sock")
        await self.refused(
            "its directory does not exist: create it, or set PENSTOCK_HANDLER_SOCKET",
            environment={"PENSTOCK_HANDLER_SOCKET": path},
        )
        environment = {"PORT": "http", "PENSTOCK_HANDLER_SOCKET": ""}
        await self.refused("PORT is 'http', which is no port", environment=environment)


class Embedded(ProcessTest):
    async def test_a_server_is_an_async_context_manager(self):
        async def handle(message):
            pass

        async with Server(handle, address="127.0.0.1:0") as server:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), 30)
            with self.assertRaisesRegex(RuntimeError, "started before"):
                await server.start()
        await server.wait()
        await server.stop()

    async def test_the_socket_is_free_after_a_stop(self):
        async def handle(message):
            pass

        for _ in range(2):
            async with Server(handle, address=f"unix:{self.socket}"):
                self.assertTrue(self.socket.exists())
                with self.assertRaises(OSError):
                    await Server(handle, address=f"unix://{self.socket}").start()
        self.assertEqual(os.listdir(self.directory), ["handler.sock.lock"])
