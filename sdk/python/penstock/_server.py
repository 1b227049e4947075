"""The server: it listens, serves streams, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from penstock import _listen, _telemetry
from penstock._handler import Function, Handler, Interceptor, log
from penstock._stream import Refused, Settings, Stream
from penstock._watchdog import Watchdog
from penstock.handler.v1 import handler_pb2 as v1

SERVICE = "penstock.handler.v1.Handler"

# The runtime bounds the size of its messages. A port is never shared with another process.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]

# The time to write the end of streams after the grace, in seconds.
END_TIME = 2.0

# The time in seconds that the connection stays open for the runtime to read these ends.
LINGER = 0.5

Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[Any]]


class Server:
    """Serves a handler to Penstock's runtime.

    `handle` takes a message. An `async` function runs on the event loop; any other one runs
    in a thread, so it may block. It returns `None` or a verdict, or raises one. Any other
    exception is a `Retry`, or a `Fail` if `permanent` names its class.

    - `concurrency`: the maximum number of calls at once. Messages of one key are handled one
      after the other.
    - `window`: the maximum number of messages at hand, waiting and running.
    - `batch_size`: with it `handle` takes a list of up to so many messages, and may return a
      list with a verdict or `None` for each.
    - `permanent`: exception classes that another attempt would not help.
    - `interceptors`: functions that take the handler and return another one around it. The
      first is the outermost.
    - `lifespan`: returns an async context manager, entered before the first message and left
      after the last one. `message.state` is its value.
    - `address`: `unix:/PATH` or `HOST:PORT`. Without it `PENSTOCK_HANDLER_SOCKET` or `PORT`
      in the environment decide.
    - `grace`: the maximum time in seconds that a stop waits for running calls.
    - `threads`: whether calls run in threads, if the kind of `handle` does not show it.
    - `telemetry`: whether calls have OpenTelemetry spans; by default if its API is installed.

    # Raises
    `TypeError` or `ValueError` for arguments that can't work.
    """

    def __init__(
        self,
        handle: Function,
        *,
        concurrency: int = 16,
        window: int = 2000,
        batch_size: int | None = None,
        permanent: type[BaseException] | Iterable[type[BaseException]] = (),
        interceptors: Iterable[Interceptor] = (),
        lifespan: Lifespan | None = None,
        address: str | None = None,
        grace: float = 25.0,
        threads: bool | None = None,
        telemetry: bool | None = None,
    ) -> None:
        _check_count("concurrency", concurrency)
        _check_count("window", window)
        if batch_size is not None:
            _check_count("batch_size", batch_size)
        if not (isinstance(grace, int | float) and 0 <= grace < math.inf):
            raise ValueError(f"grace is a number of seconds, not {grace!r}")
        if lifespan is not None and not callable(lifespan):
            raise TypeError("lifespan is a function that returns an async context manager")
        if telemetry and not _telemetry.IS_AVAILABLE:
            raise ValueError(
                "telemetry needs opentelemetry-api, see penstock-python[telemetry]"
            )
        self._handler = Handler(
            handle,
            batch_size=batch_size,
            permanent=permanent,
            interceptors=interceptors,
            threads=threads,
            telemetry=_telemetry.IS_AVAILABLE if telemetry is None else telemetry,
        )
        self._concurrency = concurrency
        self._window = window
        self._lifespan = lifespan
        self._addresses = _listen.addresses(address, os.environ)
        self._grace = float(grace)
        self._streams: set[Stream] = set()
        self._resources = contextlib.AsyncExitStack()
        self._watchdog: Watchdog | None = None
        self._server: Any = None
        self._health: Any = None
        self._exit_error: BaseException | None = None
        self._stop_requested: asyncio.Event | None = None
        self._streams_ended: asyncio.Event | None = None
        # Set by the next request of a runtime, which it makes after the end of its stream.
        self._end_taken = asyncio.Event()
        # Set by `serve`, after which nothing else runs.
        self._owns_process = False
        self.port: int | None = None

    async def start(self) -> None:
        """Starts to listen. The lifespan is entered before.

        # Raises
        `OSError` if the address can't be had, and any exception of the lifespan.
        """
        if self._server is not None:
            raise RuntimeError("the server was started before")
        self._stop_requested = asyncio.Event()
        self._streams_ended = asyncio.Event()
        try:
            await self._listen(await self._enter_lifespan())
        except BaseException:
            await self._resources.aclose()
            raise
        self._watchdog = Watchdog(asyncio.get_running_loop())
        self._watchdog.start()

    async def stop(self, grace: float | None = None) -> None:
        """Stops in order: no other call begins, and running calls end.

        Calls that have not ended after `grace` seconds are cancelled. The runtime sends their
        messages again.
        """
        if self._server is None or self._stop_requested is None or self._streams_ended is None:
            return
        grace = self._grace if grace is None else grace
        self._request_stop()
        server, self._server = self._server, None
        await self._health.enter_graceful_shutdown()
        try:
            if self._streams:
                await self._end_streams(grace)
        finally:
            await server.stop(END_TIME)
            await self._resources.aclose()
            if not self._owns_process:
                self._stop_watchdog()

    async def _end_streams(self, grace: float) -> None:
        assert self._streams_ended is not None
        try:
            await asyncio.wait_for(self._streams_ended.wait(), grace)
        except TimeoutError:
            self._expire(grace)
        # A runtime that reads nothing does not take the end. Another one needs a moment: if
        # the connection closed while it writes, the stream would be broken for it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._streams_ended.wait(), END_TIME)
            self._end_taken.clear()
            await asyncio.wait_for(self._end_taken.wait(), LINGER)

    async def wait(self) -> None:
        """Waits until the server is asked to stop."""
        if self._stop_requested is None:
            raise RuntimeError("the server was not started")
        await self._stop_requested.wait()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT. A second signal ends the process at once.

        # Raises
        `SystemExit` or `KeyboardInterrupt` if the handler raised one.
        """
        async with self:
            with self._signals():
                await self.wait()
                self._exit_in_time()
                await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        await self.stop()
        if error is None and self._exit_error is not None:
            raise self._exit_error

    async def _enter_lifespan(self, state: Any = None) -> Settings:
        if self._lifespan is not None:
            state = await self._resources.enter_async_context(self._lifespan())
        return Settings(self._handler, self._concurrency, self._window, state, self._exit)

    async def _listen(self, settings: Settings) -> None:
        path = _listen.socket_path(self._addresses[0])
        if path is not None:
            lock = _listen.SocketLock(path)
            self._resources.callback(lock.release)

        async def handle(requests: AsyncIterator[v1.FromRuntime], context: Any) -> None:
            await self._serve(Stream(settings), requests, context)

        method = grpc.stream_stream_rpc_method_handler(
            handle,
            request_deserializer=v1.FromRuntime.FromString,
            response_serializer=v1.FromHandler.SerializeToString,
        )
        server = grpc.aio.server(interceptors=[_Requests(self._end_taken)], options=OPTIONS)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, {"Handle": method})]
        )
        self._health = health.aio.HealthServicer()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.port = self._bind(server)
        await server.start()
        self._server = server

    def _bind(self, server: Any) -> int | None:
        for address in self._addresses:
            with contextlib.suppress(RuntimeError):
                port: int = server.add_insecure_port(address)
                if port:
                    log.info("listening on %s", address)
                    return None if _listen.socket_path(address) else port
        tried = " or ".join(self._addresses)
        raise OSError(f"can't listen on {tried}: it is in use, not allowed, or no address here")

    async def _serve(
        self, stream: Stream, requests: AsyncIterator[v1.FromRuntime], context: Any
    ) -> None:
        assert self._stop_requested is not None and self._streams_ended is not None
        self._streams.add(stream)
        if self._stop_requested.is_set():
            stream.halt()
        refusal = None
        try:
            await stream.run(requests, context.write, lambda: self._streams)
        except Refused as error:
            refusal = error
        except Exception:
            log.exception("a stream broke")
            raise
        finally:
            self._streams.discard(stream)
            if not self._streams and self._stop_requested.is_set():
                self._streams_ended.set()
        if refusal is not None:
            log.error("a stream was refused: %s", refusal)
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))

    def _expire(self, grace: float) -> None:
        for stream in list(self._streams):
            unfinished = stream.expire()
            names = ", ".join(message.id for message in unfinished[:10])
            log.error(
                "%s messages were at work for more than %s s after the stop; they will be sent "
                "again: %s",
                len(unfinished),
                grace,
                names,
            )

    def _exit(self, error: BaseException) -> None:
        if self._exit_error is None and self._stop_requested is not None:
            self._exit_error = error
            log.error("the handler raised %s: the process stops", type(error).__name__)
            self._request_stop()

    def _request_stop(self) -> None:
        """Lets no other call begin, and has `wait` return."""
        assert self._stop_requested is not None
        self._stop_requested.set()
        for stream in list(self._streams):
            stream.halt()

    def _exit_in_time(self) -> None:
        """Has the process exit if a stop hangs, which a call that blocks the loop may cause."""
        if self._owns_process and self._watchdog is not None:
            self._watchdog.exit_after(self._grace + 3 * END_TIME)

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stops the server at the first signal, and ends the process at the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        is_first = True

        # Not the loop's own handlers, which would wait for a loop that is blocked.
        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal is_first
            if not is_first:
                os.write(2, b"penstock: a second signal; the process exits at once\n")
                os._exit(128 + number)
            is_first = False
            self._exit_in_time()
            loop.call_soon_threadsafe(self._request_stop)

        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Requests(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Notes each request."""

    def __init__(self, made: asyncio.Event) -> None:
        self._made = made

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._made.set()
        return await continuation(details)


def serve(handle: Function, **options: Any) -> None:
    """Serves `handle` until SIGTERM or SIGINT. `options` are those of `Server`."""
    server = Server(handle, **options)
    server._owns_process = True
    try:
        with asyncio.Runner() as runner:
            try:
                runner.run(server.run())
            except (KeyboardInterrupt, SystemExit):
                # A task that the handler had started raised it, through the event loop.
                runner.run(server.stop())
                raise
    finally:
        server._stop_watchdog()


def _check_count(name: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} is a number of at least 1, not {count!r}")
