"""A message as its handler sees it."""

from penstock.handler.v1 import handler_pb2 as v1


class Message:
    """One message of Kafka, given once."""

    __slots__ = ("_batch", "_delivery", "_run", "id", "records")

    def __init__(self, batch, run, delivery, number):
        self._batch = batch
        self._run = run
        self._delivery = delivery
        self.id = number
        self.records = []

    def produce(self, topic, value, key=None, headers=(), partition=None, timestamp_ms=None):
        """Has a record produced in the transaction that commits this message, if the
        handler returns without an exception. It takes `commit: Transactional` in the
        manifest. Value and key are bytes, or None; headers are pairs of a name and bytes
        or None. Records keep the order of the calls."""
        headers = [v1.Header(name=name, value=value) for name, value in headers]
        record = v1.Record(
            topic=topic,
            partition=partition,
            key=key,
            value=value,
            headers=headers,
            timestamp_ms=timestamp_ms,
        )
        self.records.append(record)

    @property
    def topic(self):
        return self._run.topic

    @property
    def partition(self):
        return self._run.partition

    @property
    def epoch(self):
        """Counts the assignments of partitions to the runtime. What is done by a lower
        epoch than the partition had meanwhile is done too late."""
        return self._run.epoch

    @property
    def offset(self):
        return self._delivery.offset

    @property
    def timestamp_ms(self):
        """Milliseconds since 1970; None where the message has no time."""
        return self._delivery.timestamp_ms if self._delivery.HasField("timestamp_ms") else None

    @property
    def key(self):
        """Bytes, or None."""
        return self._delivery.key if self._delivery.HasField("key") else None

    @property
    def value(self):
        """Bytes; None in a tombstone."""
        return self._delivery.value if self._delivery.HasField("value") else None

    @property
    def headers(self):
        """Pairs of a name and bytes or None, in the message's order."""
        return [
            (header.name, header.value if header.HasField("value") else None)
            for header in self._delivery.headers
        ]

    @property
    def attempt(self):
        """Which attempt at the message this is, from 1."""
        return self._delivery.attempt

    @property
    def deadline(self):
        """When the time for this attempt is over, as `time.time()` counts."""
        return self._batch.deadline_ms / 1000

    @property
    def void(self):
        """Whether no verdict counts any more: the time is over, or the partition went to
        another consumer."""
        return self._batch.void

    @property
    def idempotency_key(self):
        """Names the message for good: the same at every attempt."""
        return f"{self._batch.group}/{self.topic}/{self.partition}/{self.offset}"
