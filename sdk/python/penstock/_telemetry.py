"""Spans around calls, with OpenTelemetry's API. It is optional."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from penstock._awaitables import is_awaitable, resolve
from penstock._message import Message
from penstock._verdicts import describe, is_deliberate

Headers = list[tuple[str, bytes | None]]

try:
    from opentelemetry import propagate, trace
    from opentelemetry.propagators.textmap import Getter
except ImportError:
    IS_AVAILABLE = False
else:
    IS_AVAILABLE = True


def traced(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns the function with a span around each call.

    The span continues the trace in the message's headers. A call with several messages has
    its own trace, which links to theirs.
    """
    tracer = trace.get_tracer("penstock")
    getter = _getter()

    @functools.wraps(function, updated=())
    def call(argument: Any) -> Any:
        if not (_is_configured() or _has_headers(argument)):
            # No span would be kept, and there is no trace to continue.
            return function(argument)
        span = _start(tracer, getter, argument)
        with _in_span(span):
            try:
                result = function(argument)
            except BaseException as error:
                _end(span, error)
                raise
        if is_awaitable(result):
            return _finish(span, result)
        span.end()
        return result

    return call


def _is_configured() -> bool:
    """Returns `True` if the program has set a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _has_headers(argument: Message | list[Message]) -> bool:
    messages = [argument] if isinstance(argument, Message) else argument
    return any(message._delivery.headers for message in messages)


async def _finish(span: Any, result: Any) -> Any:
    with _in_span(span):
        try:
            result = await resolve(result)
        except BaseException as error:
            _end(span, error)
            raise
    span.end()
    return result


def _in_span(span: Any) -> Any:
    return trace.use_span(
        span, end_on_exit=False, record_exception=False, set_status_on_exception=False
    )


def _end(span: Any, error: BaseException) -> None:
    if not is_deliberate(error):
        span.record_exception(error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, describe(error)))
    span.end()


def _start(tracer: Any, getter: Any, argument: Message | list[Message]) -> Any:
    if isinstance(argument, Message):
        first, context, links = argument, propagate.extract(argument.headers, getter=getter), []
    else:
        first, context = argument[0], None
        contexts = [propagate.extract(message.headers, getter=getter) for message in argument]
        parents = [trace.get_current_span(found).get_span_context() for found in contexts]
        links = [trace.Link(parent) for parent in parents if parent.is_valid]
    return tracer.start_span(
        f"process {first.topic}",
        context=context,
        kind=trace.SpanKind.CONSUMER,
        attributes=_attributes(first),
        links=links,
    )


def _attributes(message: Message) -> Mapping[str, str | int]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": message.group,
        "messaging.destination.name": message.topic,
        "messaging.destination.partition.id": str(message.partition),
        "messaging.kafka.offset": message.offset,
    }


def _getter() -> Any:
    def get(carrier: Headers, key: str) -> list[str] | None:
        values = [
            value.decode(errors="replace")
            for name, value in carrier
            if value is not None and name.lower() == key.lower()
        ]
        return values or None

    def keys(carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]

    # The base class is known only where the API is installed.
    methods = {"get": staticmethod(get), "keys": staticmethod(keys)}
    return type("HeaderGetter", (Getter,), methods)()
