"""The server."""

import asyncio
import contextlib
import os
import signal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from penstock._answers import Answers
from penstock._lanes import Batch, Lanes
from penstock._message import Message
from penstock.handler.v1 import handler_pb2 as v1

SOCKET = "/run/penstock/handler.sock"

# Any length: the runtime sends no more than a batch of 1 MiB, or one long message.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]


def serve(handle, *, concurrency=16, window=2000, permanent=(), address=None):
    """Calls `handle(message)` for each message, until SIGTERM or SIGINT.

    `handle` is an `async def` or a plain function, which is called in a thread. At most
    `concurrency` calls run at once, and `window` messages are taken at once, running or
    waiting. An exception of the classes in `permanent` will not pass. `address` is as gRPC
    writes it (`unix:/path`, `host:port`); without it, what the environment says.
    """
    asyncio.run(_serve(handle, concurrency, window, tuple(permanent), address or _address()))


def _address():
    socket, port = os.environ.get("PENSTOCK_HANDLER_SOCKET"), os.environ.get("PORT")
    if socket is None and port is not None:
        return f"0.0.0.0:{port}"
    return f"unix:{socket or SOCKET}"


async def _serve(handle, concurrency, window, permanent, address):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def start(requests, context):
        stream = _Stream(handle, permanent, concurrency, window, stop)
        async for answer in stream.answer(requests):
            yield answer

    method = grpc.stream_stream_rpc_method_handler(
        start,
        request_deserializer=v1.FromRuntime.FromString,
        response_serializer=v1.FromHandler.SerializeToString,
    )
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("penstock.handler.v1.Handler", {"Handle": method})]
    )
    healthy = health.aio.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    if address.startswith("unix:"):
        # Left there by one that was killed.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))
    server.add_insecure_port(address)
    await server.start()
    await stop.wait()
    # Streams end by themselves, once the calls that run are finished.
    await server.stop(grace=3600)


class _Stream:
    """One stream, from hello to its end."""

    def __init__(self, handle, permanent, concurrency, window, stop):
        self._start_lanes = lambda order: Lanes(
            handle, permanent, concurrency, order, self._answers, stop
        )
        self._window = window
        self._stop = stop
        self._answers = Answers()
        self._batches = {}
        self._group = ""
        self._lanes = None

    async def answer(self, requests):
        work = asyncio.create_task(self._work(requests))
        try:
            async for answer in self._answers.stream():
                yield answer
        finally:
            # Nobody hears a verdict any more, unless this is the end in order.
            self._void(0, 1 << 64)
            await work

    async def _work(self, requests):
        reading = asyncio.create_task(self._read(requests))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        reading.cancel()
        if self._lanes:
            await self._lanes.finish()
        self._answers.end()

    async def _read(self, requests):
        async for request in requests:
            said = request.WhichOneof("message")
            if said == "batch":
                self._begin(request.batch)
            elif said == "cancel":
                for deliveries in request.cancel.deliveries:
                    self._void(deliveries.first_id, deliveries.count)
            elif said == "hello" and self._lanes is None:
                self._group = request.hello.group
                self._lanes = self._start_lanes(request.hello.order)
                self._answers.grant(self._window)

    def _begin(self, given):
        batch = Batch(self._group, given.deadline_ms)
        messages, number = [], given.first_id
        for run in given.runs:
            for delivery in run.deliveries:
                messages.append(Message(batch, run, delivery, number))
                number += 1
        self._batches[given.first_id] = (number, batch)
        # No more than the window is open, so no older batch can be cancelled any more.
        if len(self._batches) > 2 * self._window:
            self._batches = dict(list(self._batches.items())[-self._window :])
        self._lanes.give(batch, messages)

    def _void(self, first, count):
        for begin, (end, batch) in self._batches.items():
            if begin < first + count and first < end:
                batch.void = True
