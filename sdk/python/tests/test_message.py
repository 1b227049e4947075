"""A message as its handler sees it."""

import unittest

from penstock import Message
from penstock._lanes import Batch
from penstock._verdicts import done
from penstock.handler.v1 import handler_pb2 as v1


def message(**fields):
    run = v1.Run(topic="orders", partition=3, epoch=7)
    return Message(Batch("shop.orders", 1_500), run, v1.Delivery(**fields), 1)


class Fields(unittest.TestCase):
    def test_each_field_is_the_contracts(self):
        headers = [
            v1.Header(name="a", value=b"1"),
            v1.Header(name="b"),
            v1.Header(name="a", value=b""),
        ]
        one = message(
            offset=42, timestamp_ms=0, key=b"k", value=b"{}", headers=headers, attempt=2
        )
        self.assertEqual((one.topic, one.partition, one.offset, one.epoch), ("orders", 3, 42, 7))
        self.assertEqual((one.key, one.value, one.timestamp_ms), (b"k", b"{}", 0))
        self.assertEqual(one.headers, [("a", b"1"), ("b", None), ("a", b"")])
        self.assertEqual((one.attempt, one.deadline, one.void), (2, 1.5, False))
        self.assertEqual(one.idempotency_key, "shop.orders/orders/3/42")

    def test_records_to_produce_are_the_contracts_and_keep_their_order(self):
        one = message(offset=1)
        self.assertIsNone(done(one))
        one.produce("out", b"1", key=b"k", headers=[("a", b"x"), ("b", None)], partition=2)
        one.produce("gone", None, key=b"k", timestamp_ms=5)
        headers = [v1.Header(name="a", value=b"x"), v1.Header(name="b")]
        records = [
            v1.Record(topic="out", partition=2, key=b"k", value=b"1", headers=headers),
            v1.Record(topic="gone", key=b"k", timestamp_ms=5),
        ]
        self.assertEqual(done(one).outcome(), {"done": v1.Done(produce=records)})

    def test_absent_and_empty_are_not_the_same(self):
        absent = message(offset=1)
        self.assertEqual((absent.key, absent.value, absent.timestamp_ms), (None, None, None))
        empty = message(offset=1, key=b"", value=b"")
        self.assertEqual((empty.key, empty.value), (b"", b""))
