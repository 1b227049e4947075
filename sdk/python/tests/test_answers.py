"""How verdicts and credits are gathered, and cut."""

import asyncio
import unittest

from penstock import Retry, Skip
from penstock._answers import CUT, MAX_VERDICT, Answers, ranges
from penstock._verdicts import STOPPING
from penstock.handler.v1 import handler_pb2 as v1


async def sent(answers):
    """Ends the answers; returns everything that is written."""
    written = []

    async def write(answer):
        written.append(v1.FromHandler.FromString(answer.SerializeToString()))

    answers.end()
    async with asyncio.timeout(30):
        await answers.send(write)
    return written


def described(answer):
    return [
        (verdict.first_id, verdict.count, verdict.WhichOneof("outcome"))
        for verdict in answer.verdicts
    ]


class Gathering(unittest.IsolatedAsyncioTestCase):
    async def test_consecutive_deliveries_with_one_outcome_are_one_verdict(self):
        answers = Answers()
        for number in (5, 6, 7, 9):
            answers.settle(number, None)
        answers.settle(10, Skip("old"))
        answers.settle(11, None)
        for number in (20, 21):
            answers.settle(number, STOPPING)
        answers.grant(7)
        [answer] = await sent(answers)
        self.assertEqual(
            described(answer),
            [
                (5, 3, "done"),
                (9, 1, "done"),
                (10, 1, "skip"),
                (11, 1, "done"),
                (20, 2, "release"),
            ],
        )
        self.assertEqual(answer.credits, 7)

    async def test_a_verdict_with_records_is_on_one_delivery(self):
        answers = Answers()
        record = v1.Record(topic="out", value=b"1")
        answers.settle(5, None)
        answers.settle(6, None, [record])
        answers.settle(7, None)
        [answer] = await sent(answers)
        found = [
            (verdict.first_id, verdict.count, list(verdict.done.produce))
            for verdict in answer.verdicts
        ]
        self.assertEqual(found, [(5, 1, []), (6, 1, [record]), (7, 1, [])])

    async def test_all_parts_travel_together(self):
        answers = Answers()
        answers.welcome(v1.Welcome(version=2))
        answers.begin([4, 2, 3, 9])
        answers.extend(4, 1.5)
        answers.grant(3)
        [answer] = await sent(answers)
        self.assertEqual(answer.welcome.version, 2)
        begun = [(found.first_id, found.count) for found in answer.begun]
        self.assertEqual(begun, [(2, 3), (9, 1)])
        extension = answer.extensions[0]
        self.assertEqual((extension.deliveries.first_id, extension.time_ms), (4, 1500))
        self.assertEqual(answer.credits, 3)

    async def test_a_report_is_written_before_its_callback_runs(self):
        answers, events = Answers(), []
        answers.begin([1], lambda: events.append("started"))

        async def write(answer):
            await asyncio.sleep(0)
            events.append([found.first_id for found in answer.begun])

        answers.end()
        await answers.send(write)
        self.assertEqual(events, [[1], "started"])

    async def test_nothing_is_written_twice_and_nothing_empty(self):
        answers, written = Answers(), []
        answers.begin(())
        answers.grant(1)

        async def write(answer):
            written.append(answer.credits)
            if len(written) == 1:
                answers.grant(2)
                answers.end()

        answers.flush()
        await answers.send(write)
        self.assertEqual(written, [1, 2])


class Cuts(unittest.IsolatedAsyncioTestCase):
    async def test_answers_are_cut_at_one_mebibyte(self):
        answers = Answers()
        answers.begin([1])
        for number in range(1, 31):
            answers.settle(number, None, [v1.Record(topic="out", value=bytes(100_000))])
        answers.grant(30)
        written = await sent(answers)
        self.assertLessEqual(max(answer.ByteSize() for answer in written), CUT)
        self.assertEqual(len(written), 3)
        numbers = [verdict.first_id for answer in written for verdict in answer.verdicts]
        self.assertEqual(numbers, list(range(1, 31)))
        self.assertEqual([len(answer.begun) for answer in written], [1, 0, 0])
        self.assertEqual([answer.credits for answer in written], [0, 0, 30])

    async def test_a_long_verdict_travels_alone(self):
        answers = Answers()
        answers.settle(1, Retry("x"))
        answers.settle(2, None, [v1.Record(topic="out", value=bytes(3 * CUT))])
        answers.settle(3, None)
        written = await sent(answers)
        numbers = [[verdict.first_id for verdict in answer.verdicts] for answer in written]
        self.assertEqual(numbers, [[1], [2], [3]])

    async def test_a_verdict_that_can_not_be_sent_fails_alone(self):
        answers = Answers()
        answers.settle(1, None)
        answers.settle(2, None, [v1.Record(topic="out", value=bytes(MAX_VERDICT))])
        answers.settle(3, None)
        [answer] = await sent(answers)
        self.assertEqual(described(answer), [(1, 1, "done"), (2, 1, "fail"), (3, 1, "done")])
        self.assertIn("more than the 15728640", answer.verdicts[1].fail.reason)


class Ranges(unittest.TestCase):
    def test_numbers_become_ranges(self):
        found = [(one.first_id, one.count) for one in ranges([9, 1, 2, 3, 7, 8])]
        self.assertEqual(found, [(1, 3), (7, 3)])
