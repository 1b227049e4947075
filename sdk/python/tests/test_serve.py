"""A handler in a process of its own: where it listens, and what SIGTERM does to it."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import unittest
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.handler.v1 import handler_pb2 as v1
from tests.runtime import LIMIT, Said, batch, hello

# Each call says that it has begun, and waits for a line.
CALL = """
    print("begun", message.offset, flush=True)
    {read}
"""
PLAIN = "def handle(message):" + CALL.format(read="sys.stdin.readline()")
ASYNC = "async def handle(message):" + CALL.format(
    read="await asyncio.to_thread(sys.stdin.readline)"
)
PROGRAM = "import asyncio, sys\nimport penstock\n{handle}\npenstock.serve(handle, concurrency=1)\n"


class Handler:
    """The process, and a stream to it."""

    def __init__(self, process, channel):
        self.process = process
        self._channel = channel

    @classmethod
    async def start(cls, test, handle):
        socket = test.socket
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM.format(handle=handle),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PENSTOCK_HANDLER_SOCKET": str(socket)},
            cwd=Path(__file__).parents[1],
        )
        handler = cls(process, grpc.aio.insecure_channel(f"unix:{socket}"))
        test.addCleanup(handler.kill)
        answer = await handler.check(wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        handler.stream = handler._channel.stream_stream(
            "/penstock.handler.v1.Handler/Handle",
            request_serializer=v1.FromRuntime.SerializeToString,
            response_deserializer=v1.FromHandler.FromString,
        )()
        return handler

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()

    async def check(self, **options):
        health = health_pb2_grpc.HealthStub(self._channel)
        return await health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT, **options)

    async def terminate(self):
        """Sends SIGTERM, and waits until it is heeded: no other call is let in."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.check():
                    pass

    async def line(self):
        async with asyncio.timeout(LIMIT):
            return (await self.process.stdout.readline()).decode().strip()

    async def let_go(self):
        """Lets one call finish."""
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()

    async def ended(self):
        """What was said on the stream to its end, and the exit code."""
        said = Said()
        async with asyncio.timeout(LIMIT):
            async for answer in self.stream:
                said.take(answer)
            self.status = await self.stream.code()
            code = await self.process.wait()
        await self._channel.close()
        return said, code


class Termination(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        directory = tempfile.TemporaryDirectory(prefix="penstock-sdk-")
        self.addCleanup(directory.cleanup)
        self.socket = Path(directory.name) / "handler.sock"

    async def terminated_at_work(self, handle):
        handler = await Handler.start(self, handle)
        await handler.stream.write(hello())
        await handler.stream.write(batch(1, [None] * 5))
        self.assertEqual(await handler.line(), "begun 1")
        await handler.let_go()
        self.assertEqual(await handler.line(), "begun 2")
        await handler.terminate()
        await handler.let_go()
        said, code = await handler.ended()
        self.assertEqual(said.verdicts, [(1, "done"), (2, "done")])
        self.assertEqual((handler.status, code), (grpc.StatusCode.OK, 0))
        self.assertEqual(await handler.line(), "", "no other call was begun")

    async def test_a_call_that_runs_at_sigterm_is_finished_and_no_other_begun(self):
        await self.terminated_at_work(ASYNC)

    async def test_the_same_in_threads(self):
        await self.terminated_at_work(PLAIN)

    async def test_the_socket_of_one_that_was_killed_is_no_obstacle(self):
        killed = await Handler.start(self, ASYNC)
        killed.kill()
        await killed.process.wait()
        self.assertTrue(self.socket.exists())
        await self.terminated_at_work(ASYNC)
