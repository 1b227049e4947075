"""Verdicts, and the exceptions that stand for them."""

import math
import unittest

from penstock import DeadLetter, Fail, Retry, Skip, Verdict, _verdicts
from penstock.handler.v1 import handler_pb2 as v1


def sent(error, permanent=()):
    """Returns the verdict on an exception, as it is sent."""
    return v1.Verdict(first_id=1, count=1, **_verdicts.of(error, permanent).outcome())


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Verdicts(unittest.TestCase):
    def test_each_class_is_a_verdict_with_its_reason(self):
        for error, name in [
            (Retry("busy"), "retry"),
            (Skip("busy"), "skip"),
            (DeadLetter("busy"), "dead_letter"),
            (Fail("busy"), "fail"),
        ]:
            verdict = sent(error, permanent=(Exception,))
            self.assertEqual(verdict.WhichOneof("outcome"), name)
            self.assertEqual(getattr(verdict, name).reason, "busy")

    def test_the_delay_of_a_retry_is_in_milliseconds_and_none_is_below_zero(self):
        for delay, milliseconds in [(0, 0), (1.5, 1500), (0.0004, 0), (-1, 0), (math.nan, 0)]:
            self.assertEqual(sent(Retry("busy", delay=delay)).retry.delay_ms, milliseconds)
        self.assertGreater(sent(Retry("busy", delay=math.inf)).retry.delay_ms, 1 << 60)

    def test_any_other_exception_may_pass_unless_its_class_is_permanent(self):
        self.assertEqual(sent(ValueError("no amount")).retry.reason, "ValueError: no amount")
        permanent = (ValueError, LookupError)
        self.assertEqual(sent(ValueError("no"), permanent).fail.reason, "ValueError: no")
        self.assertEqual(sent(KeyError("id"), permanent).fail.reason, "KeyError: 'id'")
        self.assertEqual(sent(OSError("no"), permanent).WhichOneof("outcome"), "retry")

    def test_a_reason_may_be_anything(self):
        self.assertEqual(sent(Fail(ValueError("no amount"))).fail.reason, "no amount")
        self.assertEqual(sent(Skip(None)).skip.reason, "None")
        self.assertEqual(sent(Skip(Mute())).skip.reason, "Mute")
        self.assertEqual(sent(Retry("\udcff")).retry.reason, "?")
        self.assertEqual(sent(ValueError("\udcff")).retry.reason, "ValueError: ?")

    def test_a_long_reason_is_cut_at_a_character(self):
        reason = sent(Fail("ä" * 10_000_000)).fail.reason
        self.assertLessEqual(len(reason.encode()), _verdicts.MAX_REASON)
        self.assertEqual(reason, "ä" * (len(reason) - 1) + "…")
        self.assertEqual(sent(Fail("a" * _verdicts.MAX_REASON)).fail.reason, "a" * 4096)

    def test_an_exception_without_words_still_has_a_verdict(self):
        self.assertEqual(sent(Mute()).retry.reason, "Mute")
        self.assertEqual(sent(Mute(), permanent=(Mute,)).fail.reason, "Mute")

    def test_a_verdict_that_is_none_is_an_exception_like_others(self):
        class Own(Verdict):
            pass

        class Broken(Retry):
            def __init__(self):
                pass

        class Odd(Skip):
            def outcome(self):
                return {"done": 5}

        self.assertEqual(sent(Verdict("x")).retry.reason, "Verdict: x")
        self.assertEqual(sent(Own("x")).retry.reason, "Own: x")
        self.assertEqual(sent(Broken()).retry.reason, "")
        self.assertEqual(sent(Odd("x")).skip.reason, "x")
        # Only the SDK knows that a message has not begun.
        self.assertEqual(sent(_verdicts.STOPPING).WhichOneof("outcome"), "retry")


class Groups(unittest.TestCase):
    def test_the_most_careful_verdict_of_a_group_counts(self):
        for errors, name in [
            ([Skip("a"), Skip("b")], "skip"),
            ([Skip("a"), DeadLetter("b")], "dead_letter"),
            ([Fail("a"), DeadLetter("b")], "fail"),
            ([Fail("a"), Retry("b")], "retry"),
            ([Skip("a"), ValueError("b")], "retry"),
            ([Skip("a"), KeyError("b")], "fail"),
        ]:
            for order in (errors, errors[::-1]):
                group = ExceptionGroup("several", order)
                nested = BaseExceptionGroup("outer", [group])
                for error in (group, nested):
                    found = sent(error, permanent=(KeyError,)).WhichOneof("outcome")
                    self.assertEqual(found, name, errors)

    def test_the_longest_delay_of_a_group_counts(self):
        group = ExceptionGroup(
            "several", [Retry("a", delay=1), Retry("b", delay=3), Retry("c")]
        )
        self.assertEqual(sent(group).retry.delay_ms, 3000)

    def test_only_verdicts_are_deliberate(self):
        self.assertTrue(_verdicts.is_deliberate(ExceptionGroup("x", [Skip("a"), Retry("b")])))
        self.assertFalse(_verdicts.is_deliberate(ExceptionGroup("x", [Skip("a"), OSError()])))
