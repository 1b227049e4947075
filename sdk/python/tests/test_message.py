"""A message as its handler sees it."""

import math
import time
import unittest

from penstock import Record
from penstock._message import ENDED, Batch, Message
from penstock.handler.v1 import handler_pb2 as v1
from penstock.testing import message


class Fields(unittest.TestCase):
    def test_each_field_is_the_contracts(self):
        headers = [("a", b"1"), ("b", None), ("a", b"")]
        one = message(
            b"{}",
            key=b"k",
            topic="orders",
            partition=3,
            offset=42,
            headers=headers,
            timestamp_ms=0,
            attempt=2,
            epoch=7,
            group="shop",
            state="pool",
        )
        self.assertEqual((one.topic, one.partition, one.offset), ("orders", 3, 42))
        self.assertEqual((one.key, one.value, one.timestamp_ms), (b"k", b"{}", 0))
        self.assertEqual((one.headers, one.attempt, one.epoch), (headers, 2, 7))
        self.assertEqual((one.group, one.state, one.cancelled), ("shop", "pool", False))
        self.assertEqual((one.id, one.idempotency_key), ("shop/orders/3/42",) * 2)
        self.assertEqual(repr(one), "<penstock.Message shop/orders/3/42 attempt=2>")

    def test_absent_and_empty_differ(self):
        absent = message(None)
        self.assertEqual((absent.key, absent.value, absent.timestamp_ms), (None, None, None))
        empty = message(b"", key=b"")
        self.assertEqual((empty.key, empty.value), (b"", b""))


class Records(unittest.TestCase):
    def test_records_are_the_contracts_and_keep_their_order(self):
        one = message()
        self.assertEqual(one.records, ())
        one.produce("out", b"1", key=b"k", headers=[("a", b"x"), ("b", None)], partition=2)
        one.produce("gone", None, key=b"k", timestamp_ms=5, headers={"c": b""})
        headers = [v1.Header(name="a", value=b"x"), v1.Header(name="b")]
        self.assertEqual(
            one._records,
            [
                v1.Record(topic="out", partition=2, key=b"k", value=b"1", headers=headers),
                v1.Record(
                    topic="gone",
                    key=b"k",
                    timestamp_ms=5,
                    headers=[v1.Header(name="c", value=b"")],
                ),
            ],
        )
        self.assertEqual(
            one.records,
            (
                Record("out", b"1", b"k", (("a", b"x"), ("b", None)), 2),
                Record("gone", None, b"k", (("c", b""),), None, 5),
            ),
        )

    def test_a_buffer_is_copied(self):
        one, buffer = message(), bytearray(b"before")
        one.produce("out", buffer, key=memoryview(buffer))
        buffer[:] = b"after!"
        self.assertEqual(one.records[0][:3], ("out", b"before", b"before"))

    def test_a_record_that_can_not_be_is_refused(self):
        one = message()
        for arguments in [
            {"topic": "out", "value": "text"},
            {"topic": "out", "value": b"", "key": 5},
            {"topic": "out", "value": b"", "headers": [("a", "text")]},
        ]:
            with self.assertRaises(TypeError):
                one.produce(**arguments)
        with self.assertRaises(ValueError):
            one.produce("", b"")
        self.assertEqual(one.records, ())

    def test_records_after_the_verdict_are_refused(self):
        one = message()
        one._state = ENDED
        for late in (lambda: one.produce("out", b""), lambda: one.extend(1)):
            with self.assertRaisesRegex(RuntimeError, "test/messages/0/0 has its verdict"):
                late()


class Time(unittest.TestCase):
    def message(self, **options):
        self.extended = []
        batch = Batch("g", extend=self.extended.append, **options)
        one = Message(batch, v1.Run(), v1.Delivery(), 1)
        one._begin(time.monotonic())
        return one

    def test_the_deadline_is_the_timeout_after_the_beginning(self):
        one = self.message(timeout=10, max_timeout=10)
        self.assertAlmostEqual(one.remaining, 10, delta=1)
        self.assertAlmostEqual(one.deadline, time.time() + 10, delta=1)
        self.assertEqual(self.message().deadline, math.inf)

    def test_an_extension_moves_it_within_the_maximum(self):
        one = self.message(timeout=10, max_timeout=100)
        one.extend(50)
        self.assertAlmostEqual(one.remaining, 50, delta=1)
        one.extend(5)
        self.assertAlmostEqual(one.remaining, 50, delta=1)
        one.heartbeat()
        one.extend(500)
        self.assertAlmostEqual(one.remaining, 100, delta=1)
        self.assertEqual(self.extended, [one] * 4)

    def test_an_extension_is_a_time(self):
        one = self.message()
        for seconds in (0, -1, math.inf, math.nan, "5", None):
            with self.assertRaises(ValueError):
                one.extend(seconds)
        one.heartbeat()
        self.assertEqual(self.extended, [])
