"""A handler in a process, and a stream to it over gRPC."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.handler.v1 import handler_pb2 as v1
from penstock.testing import Heard, message

LIMIT = 30

# Each call prints that it has begun. `read` waits for a line.
PROGRAM = """
import asyncio, contextlib, os, signal, sys, threading, time
import penstock

def begun(message):
    print("begun", message.offset, flush=True)

lock = threading.Lock()

def read():
    # Text streams may be read by one thread at a time.
    with lock:
        return sys.stdin.readline()

{handle}

try:
    penstock.serve(handle, **{options})
finally:
    print("ended", flush=True)
"""


class Handler:
    """The process, and a stream to it."""

    def __init__(self, process, address):
        self.process = process
        self.heard = Heard()
        self.channel = grpc.aio.insecure_channel(address)
        self.status = None
        self.details = ""
        self._next = 1
        self._news = asyncio.Condition()

    @classmethod
    async def start(cls, test, handle, *, environment=None, address=None, **options):
        """Starts the process. Its socket is the test's unless the environment says another."""
        socket = {"PENSTOCK_HANDLER_SOCKET": str(test.socket)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM.format(handle=handle, options=options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ".", **(environment or socket)},
            cwd=Path(__file__).parents[1],
        )
        handler = cls(process, address or f"unix:{test.socket}")
        test.addAsyncCleanup(handler.close)
        return handler

    async def close(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()
        await self.channel.close()

    async def check(self, **options):
        health = health_pb2_grpc.HealthStub(self.channel)
        return await health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT, **options)

    async def open(self, order=v1.ORDER_UNSPECIFIED):
        """Waits until the handler serves, and opens a stream."""
        answer = await self.check(wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        self.stream = self.channel.stream_stream(
            "/penstock.handler.v1.Handler/Handle",
            request_serializer=v1.FromRuntime.SerializeToString,
            response_deserializer=v1.FromHandler.FromString,
        )()
        hello = v1.Hello(
            version=2,
            consumer="shop",
            group="shop",
            order=order,
            timeout_ms=60_000,
            max_timeout_ms=60_000,
            wait_ms=60_000,
        )
        await self.stream.write(v1.FromRuntime(hello=hello))
        self.reader = asyncio.create_task(self._read())
        return self

    async def _read(self):
        try:
            async for answer in self.stream:
                self.heard.take(answer)
                await self._notify()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # The status says it.
        finally:
            self.status = await self.stream.code()
            self.details = await self.stream.details()
            await self._notify()

    async def _notify(self):
        async with self._news:
            self._news.notify_all()

    async def send(self, count, keys=None):
        """Sends a batch whose offsets are its deliveries' numbers."""
        run = v1.Run(topic="orders", partition=3, epoch=7)
        first = self._next
        for number in range(first, first + count):
            key = keys[number - first] if keys else None
            sent = message(b"{}", key=key, topic="orders", offset=number)
            sent._number = number
            self.heard.sent[number] = sent
            run.deliveries.append(sent._delivery)
        self._next += count
        begin_by = round((time.time() + 60) * 1000)
        batch = v1.Batch(first_id=first, begin_by_ms=begin_by, runs=[run])
        await self.stream.write(v1.FromRuntime(batch=batch))

    async def until(self, condition):
        """Waits until the handler has said enough, or the stream has ended."""
        async with asyncio.timeout(LIMIT), self._news:
            await self._news.wait_for(lambda: condition(self.heard) or self.status is not None)
        assert condition(self.heard), f"{self.status}: {self.details}"

    async def line(self):
        """Returns the next line that the handler prints."""
        async with asyncio.timeout(LIMIT):
            return (await self.process.stdout.readline()).decode().strip()

    async def log(self, text):
        """Reads the handler's log up to a line with this text, and returns the line."""
        lines = []
        async with asyncio.timeout(LIMIT):
            while line := (await self.process.stderr.readline()).decode():
                lines.append(line)
                if text in line:
                    return line
        raise AssertionError(f"the log has no {text!r}:\n{''.join(lines)}")

    async def go_on(self, calls=1):
        """Lets calls go on that wait for a line."""
        self.process.stdin.write(b"\n" * calls)
        await self.process.stdin.drain()

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    async def terminate(self):
        """Sends SIGTERM, and waits until no other call to the server is accepted."""
        self.signal()
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while (await self.check()).status == health_pb2.HealthCheckResponse.SERVING:
                    pass

    async def ended(self):
        """Waits until the process has ended; returns its exit code."""
        async with asyncio.timeout(LIMIT):
            code = await self.process.wait()
            if hasattr(self, "reader"):
                await self.reader
        self.log_at_end = (await self.process.stderr.read()).decode()
        return code


class ProcessTest(unittest.IsolatedAsyncioTestCase):
    """A test with a directory for a socket."""

    async def asyncSetUp(self):
        directory = tempfile.TemporaryDirectory(prefix="penstock-sdk-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.socket = self.directory / "handler.sock"

    async def start(self, handle, **options):
        return await Handler.start(self, handle, **options)
