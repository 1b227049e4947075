"""A message as its handler sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from penstock.handler.v1 import handler_pb2 as v1

Headers = Iterable[tuple[str, bytes | None]] | Mapping[str, bytes | None]

# The states of a message, in their order.
WAITING, CLAIMED, BEGUN, ENDED = range(4)

NO_LIMIT = math.inf


class Record(NamedTuple):
    """A record that a handler produces."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class Batch:
    """The facts that the messages of a batch share."""

    __slots__ = ("begin_by", "extend", "group", "max_timeout", "state", "stopped", "timeout")

    def __init__(
        self,
        group: str,
        *,
        timeout: float = NO_LIMIT,
        max_timeout: float = NO_LIMIT,
        begin_by: float = NO_LIMIT,
        state: Any = None,
        extend: Callable[[Message], object] | None = None,
    ) -> None:
        self.group = group
        # In seconds, from the beginning of a call.
        self.timeout = timeout
        self.max_timeout = max_timeout
        # In the time of `time.monotonic`, which no step of the clock moves.
        self.begin_by = begin_by
        self.state = state
        self.extend = extend
        # The places behind which no message of the batch may begin.
        self.stopped: set[object] = set()


class Message:
    """One Kafka message, delivered once."""

    __slots__ = (
        "_batch",
        "_began",
        "_cancelled",
        "_deadline",
        "_delivery",
        "_number",
        "_place",
        "_received",
        "_records",
        "_run",
        "_state",
    )

    def __init__(self, batch: Batch, run: v1.Run, delivery: v1.Delivery, number: int) -> None:
        self._batch = batch
        self._run = run
        self._delivery = delivery
        self._number = number
        self._place: object = None
        self._state = WAITING
        self._cancelled = False
        self._began = 0.0
        self._deadline = NO_LIMIT
        self._records: list[v1.Record] | None = None

    def __repr__(self) -> str:
        return f"<penstock.Message {self.id} attempt={self.attempt}>"

    @property
    def id(self) -> str:
        """The message's name, `GROUP/TOPIC/PARTITION/OFFSET`: an idempotency key.

        It is the same at every attempt and in every process.
        """
        return f"{self._batch.group}/{self.topic}/{self.partition}/{self.offset}"

    @property
    def idempotency_key(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._batch.group

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._run.topic

    @property
    def partition(self) -> int:
        """The number of the partition."""
        return self._run.partition

    @property
    def offset(self) -> int:
        """The offset in the partition."""
        return self._delivery.offset

    @property
    def epoch(self) -> int:
        """Counts the partition assignments of the runtime.

        Work done under an epoch below the partition's current one comes too late.
        """
        return self._run.epoch

    @property
    def timestamp_ms(self) -> int | None:
        """Milliseconds since 1970-01-01 UTC, or `None` if the message has no timestamp."""
        return self._delivery.timestamp_ms if self._delivery.HasField("timestamp_ms") else None

    @property
    def key(self) -> bytes | None:
        """The key, or `None` if the message has none."""
        return self._delivery.key if self._delivery.HasField("key") else None

    @property
    def value(self) -> bytes | None:
        """The value, or `None` in a tombstone."""
        return self._delivery.value if self._delivery.HasField("value") else None

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Pairs of a name and a value, in the message's order. A name may occur twice."""
        return [
            (header.name, header.value if header.HasField("value") else None)
            for header in self._delivery.headers
        ]

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._delivery.attempt

    @property
    def deadline(self) -> float:
        """The end of this attempt in the time of `time.time()`; `math.inf` without one."""
        return time.time() + self.remaining

    @property
    def remaining(self) -> float:
        """The seconds that are left for this attempt; `math.inf` without a limit."""
        return self._deadline - time.monotonic()

    @property
    def cancelled(self) -> bool:
        """Returns `True` once a verdict has no effect any more.

        Its time is over, its partition was assigned to another consumer, or the runtime is
        gone. An `async` handler gets `asyncio.CancelledError`; a handler in a thread can
        look here between two steps.
        """
        return self._cancelled

    @property
    def state(self) -> Any:
        """The value that the server's `lifespan` yielded; `None` without one."""
        return self._batch.state

    @property
    def records(self) -> tuple[Record, ...]:
        """The records to produce so far."""
        return tuple(map(_record, self._records or ()))

    def extend(self, seconds: float) -> None:
        """Gives this attempt at least `seconds` from now.

        The manifest's `handler.maxTimeout` limits an attempt with all its extensions. May be
        called from any thread.
        """
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise ValueError(
                f"an extension takes a positive number of seconds, not {seconds!r}"
            )
        self._ensure_open("extended")
        limit = self._began + self._batch.max_timeout
        self._deadline = max(self._deadline, min(time.monotonic() + seconds, limit))
        if self._batch.extend is not None:
            self._batch.extend(self)

    def heartbeat(self) -> None:
        """Gives this attempt its whole timeout again, from now."""
        if self._batch.timeout < math.inf:
            self.extend(self._batch.timeout)

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Adds a record to produce in the transaction that commits this message.

        It is produced if the handler returns without an exception, and needs
        `commit: Transactional` in the manifest. Records keep the order of the calls.
        """
        if not topic:
            raise ValueError("a record needs a topic")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        record = v1.Record(
            topic=topic,
            partition=partition,
            key=_bytes("key", key),
            value=_bytes("value", value),
            headers=[
                v1.Header(name=name, value=_bytes("header", held)) for name, held in pairs
            ],
            timestamp_ms=timestamp_ms,
        )
        self._ensure_open("given records")
        if self._records is None:
            self._records = []
        self._records.append(record)

    def _ensure_open(self, action: str) -> None:
        if self._state == ENDED:
            raise RuntimeError(f"{self.id} has its verdict, so it can't be {action} any more")

    def _begin(self, now: float) -> None:
        self._state = BEGUN
        self._began = now
        self._deadline = now + self._batch.timeout


def _bytes(name: str, value: bytes | None) -> bytes | None:
    # A copy, as the buffer may change before the record is sent.
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"a record's {name} is bytes or None, not {type(value).__name__}")
    return value


def _record(record: v1.Record) -> Record:
    def optional(message: Any, field: str) -> Any:
        return getattr(message, field) if message.HasField(field) else None

    return Record(
        record.topic,
        optional(record, "value"),
        optional(record, "key"),
        tuple((header.name, optional(header, "value")) for header in record.headers),
        optional(record, "partition"),
        optional(record, "timestamp_ms"),
    )
