"""How verdicts and credits are gathered."""

import unittest

from penstock import Skip
from penstock._answers import Answers
from penstock._verdicts import Done
from penstock.handler.v1 import handler_pb2 as v1


async def first(answers):
    return await anext(answers.stream())


class Gathering(unittest.IsolatedAsyncioTestCase):
    async def test_what_is_done_one_after_the_other_is_one_verdict(self):
        answers = Answers()
        answers.settle([(5, None), (6, None)])
        answers.settle([(7, None), (9, None)])
        answers.settle([(10, Skip("old")), (11, None), (3, None)])
        answer = await first(answers)
        ranges = [
            (verdict.first_id, verdict.count, verdict.WhichOneof("outcome"))
            for verdict in answer.verdicts
        ]
        self.assertEqual(
            ranges,
            [(5, 3, "done"), (9, 1, "done"), (10, 1, "skip"), (11, 1, "done"), (3, 1, "done")],
        )
        self.assertEqual(answer.credits, 7)

    async def test_what_brings_records_is_a_verdict_of_its_own(self):
        answers = Answers()
        record = v1.Record(topic="out", value=b"1")
        answers.settle([(5, None), (6, Done([record])), (7, None)])
        answer = await first(answers)
        found = [
            (verdict.first_id, verdict.count, list(verdict.done.produce))
            for verdict in answer.verdicts
        ]
        self.assertEqual(found, [(5, 1, []), (6, 1, [record]), (7, 1, [])])

    async def test_what_was_sent_is_not_sent_again(self):
        answers = Answers()
        stream = answers.stream()
        answers.grant(50)
        self.assertEqual((await anext(stream)).credits, 50)
        answers.settle([(1, None)])
        answer = await anext(stream)
        self.assertEqual((answer.credits, len(answer.verdicts)), (1, 1))
        answers.settle([(2, None)])
        self.assertEqual([verdict.first_id for verdict in (await anext(stream)).verdicts], [2])

    async def test_the_end_comes_after_what_is_left(self):
        answers = Answers()
        answers.settle([(1, None)])
        answers.end()
        left = [answer async for answer in answers.stream()]
        self.assertEqual([len(answer.verdicts) for answer in left], [1])
