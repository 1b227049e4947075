"""What is said of a message that was not handled."""

import math
import unittest

from penstock import DeadLetter, Fail, Retry, Skip, _verdicts
from penstock.handler.v1 import handler_pb2 as v1


def said(error, permanent=()):
    """The verdict on an exception, as it is sent."""
    return v1.Verdict(first_id=1, count=1, **_verdicts.of(error, permanent).outcome())


class Verdicts(unittest.TestCase):
    def test_each_class_is_a_verdict_with_its_reason(self):
        for error, name in [
            (Retry("busy"), "retry"),
            (Skip("busy"), "skip"),
            (DeadLetter("busy"), "dead_letter"),
            (Fail("busy"), "fail"),
        ]:
            verdict = said(error, permanent=(Exception,))
            self.assertEqual(verdict.WhichOneof("outcome"), name)
            self.assertEqual(getattr(verdict, name).reason, "busy")

    def test_the_delay_of_a_retry_is_in_milliseconds_and_none_is_below_zero(self):
        for delay, milliseconds in [(0, 0), (1.5, 1500), (0.0004, 0), (-1, 0), (math.nan, 0)]:
            self.assertEqual(said(Retry("busy", delay=delay)).retry.delay_ms, milliseconds)
        self.assertGreater(said(Retry("busy", delay=math.inf)).retry.delay_ms, 1 << 60)

    def test_any_other_exception_may_pass_unless_its_class_is_permanent(self):
        self.assertEqual(said(ValueError("no amount")).retry.reason, "ValueError: no amount")
        permanent = (ValueError, LookupError)
        self.assertEqual(said(ValueError("no"), permanent).fail.reason, "ValueError: no")
        self.assertEqual(said(KeyError("id"), permanent).fail.reason, "KeyError: 'id'")
        self.assertEqual(said(OSError("no"), permanent).WhichOneof("outcome"), "retry")

    def test_a_reason_may_be_anything(self):
        self.assertEqual(said(Fail(ValueError("no amount"))).fail.reason, "no amount")
        self.assertEqual(said(Skip(None)).skip.reason, "None")
        self.assertEqual(said(Retry("\udcff")).retry.reason, "?")
        self.assertEqual(said(ValueError("\udcff")).retry.reason, "ValueError: ?")

    def test_an_exception_without_words_still_has_a_verdict(self):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no words")

        self.assertEqual(said(Mute()).retry.reason, "Mute")
        self.assertEqual(said(Mute(), permanent=(Mute,)).fail.reason, "Mute")
