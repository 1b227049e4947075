"""How many messages a stream accepts. Time is what the test says."""

import unittest

from penstock._credits import Credits


class Handler:
    """A handler with lanes that each take `seconds` for a message; the runtime is fast."""

    def __init__(self, lanes, seconds, window=2000, wait=60.0):
        self.now = 0.0
        self.lanes = lanes
        self.seconds = seconds
        self.granted = 0
        self.credits = Credits(lanes, window, wait, self.grant, self.now)
        self.credits.start()
        self.longest_wait = 0.0

    def grant(self, credits):
        self.granted += credits

    def run(self, seconds, backlog=10**9):
        """Lets time pass with a backlog; returns how many messages were finished."""
        waiting, running, finished = [], [], 0
        end = self.now + seconds
        while self.now < end:
            count = min(self.granted, backlog)
            if count:
                self.granted -= count
                backlog -= count
                self.credits.received(count, self.now)
                waiting += [self.now] * count
            while waiting and len(running) < self.lanes:
                self.longest_wait = max(self.longest_wait, self.now - waiting.pop(0))
                running.append(self.now + self.seconds)
            if not running:
                self.now = end
                break
            self.now = running[0]
            while running and running[0] <= self.now:
                running.pop(0)
                finished += 1
                self.credits.ended(self.now, finished=True)
        return finished


class Flow(unittest.TestCase):
    def test_it_starts_with_little(self):
        self.assertEqual(Handler(lanes=16, seconds=1).granted, 32)
        self.assertEqual(Handler(lanes=1, seconds=1).granted, 2)
        self.assertEqual(Handler(lanes=16, seconds=1, window=5).granted, 5)

    def test_no_message_of_a_slow_handler_waits_for_long(self):
        for lanes, seconds in [(16, 0.05), (16, 0.5), (1, 0.05), (4, 5.0), (1, 20.0)]:
            handler = Handler(lanes, seconds)
            finished = handler.run(300)
            with self.subTest(lanes=lanes, seconds=seconds):
                self.assertLess(handler.longest_wait, max(4.0, 2 * seconds))
                # No lane is ever without a message.
                self.assertGreaterEqual(finished, 300 / seconds * lanes - lanes)

    def test_a_fast_handler_soon_has_the_whole_window(self):
        handler = Handler(lanes=16, seconds=0.0005)
        handler.run(1)
        self.assertEqual(handler.credits.limit, 2000)

    def test_a_quiet_time_changes_nothing(self):
        handler = Handler(lanes=16, seconds=0.0005)
        handler.run(1, backlog=20_000)
        for _ in range(2000):
            handler.now += 60
            handler.run(60, backlog=3)
        self.assertEqual(handler.credits.limit, 2000)

    def test_it_shrinks_when_the_handler_becomes_slow(self):
        handler = Handler(lanes=16, seconds=0.0005)
        handler.run(1)
        handler.seconds = 0.2
        handler.run(60)
        self.assertLess(handler.credits.limit, 200)
        handler.longest_wait = 0.0
        handler.run(60)
        self.assertLess(handler.longest_wait, 4.0)

    def test_a_short_wait_time_of_the_runtime_is_kept(self):
        handler = Handler(lanes=2, seconds=0.1, wait=2.0)
        handler.run(60)
        self.assertLess(handler.longest_wait, 2.0)

    def test_every_message_gives_its_credit_back(self):
        handler = Handler(lanes=4, seconds=0.01)
        handler.run(10, backlog=1000)
        credits = handler.credits
        self.assertEqual(credits.at_hand, 0)
        self.assertEqual((credits.unused, handler.granted), (credits.limit, credits.limit))

    def test_a_withdrawn_message_gives_its_credit_back_and_is_no_work(self):
        handler = Handler(lanes=4, seconds=1)
        handler.credits.received(8, 0.0)
        handler.granted = 0
        for _ in range(8):
            handler.credits.ended(0.001, finished=False)
        self.assertEqual((handler.granted, handler.credits.limit), (8, 8))

    def test_a_runtime_that_sends_too_much_is_served_and_gets_its_credits_back(self):
        handler = Handler(lanes=1, seconds=1, window=4)
        handler.credits.received(10, 0.0)
        for _ in range(10):
            handler.credits.ended(0.5, finished=True)
        self.assertEqual(handler.granted, 10 + handler.credits.limit)
        self.assertEqual(handler.credits.limit, 4)
