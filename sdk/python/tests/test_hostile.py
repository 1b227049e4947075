"""Handlers that misbehave. None may lose a message, hang, or harm other messages."""

import asyncio
import logging
import sys
import threading
import time
import unittest
from unittest import mock

from penstock import DeadLetter, Fail, Retry, Skip
from penstock.testing import Runtime, message

BAD = 4
COUNT = 12


class RustPanic(BaseException):
    """As pydantic and polars raise it."""


class Mute(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class Unreadable(type):
    def __instancecheck__(cls, instance):
        raise RuntimeError("no questions")


class Odd(Exception, metaclass=Unreadable):
    pass


def deep():
    return deep()


def flood(bad):
    for _ in range(20):
        bad.produce("out", bytes(1 << 20))


def group(*errors):
    return BaseExceptionGroup("several", errors)


def throw(error):
    raise error


async def cancel_itself(bad):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def swallow_its_cancellation(bad):
    asyncio.current_task().cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return Skip("cancelled")


async def await_a_cancelled_future(bad):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def fail_in_groups(bad):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deny())


async def deny():
    raise DeadLetter("denied")


# Name, function, outcome, part of the reason, part of the log. An async function runs on the
# loop only; others run on the loop and in threads.
TABLE = [
    ("an error", lambda bad: throw(ValueError("no")), "retry", "ValueError: no", "throw"),
    (
        "a Rust panic",
        lambda bad: throw(RustPanic("panic")),
        "retry",
        "RustPanic: panic",
        "throw",
    ),
    ("GeneratorExit", lambda bad: throw(GeneratorExit()), "retry", "GeneratorExit", "throw"),
    ("StopIteration", lambda bad: throw(StopIteration(5)), "retry", "StopIteration", "throw"),
    (
        "CancelledError",
        lambda bad: throw(asyncio.CancelledError()),
        "retry",
        "Cancelled",
        "throw",
    ),
    ("no memory", lambda bad: throw(MemoryError()), "retry", "MemoryError", "throw"),
    ("endless recursion", lambda bad: deep(), "retry", "RecursionError", "deep"),
    ("SystemExit", lambda bad: sys.exit("bye"), "retry", "SystemExit: bye", "SystemExit"),
    ("Ctrl-C", lambda bad: throw(KeyboardInterrupt()), "retry", "KeyboardInterrupt", "throw"),
    (
        "exit in a group",
        lambda bad: throw(group(SystemExit(3))),
        "retry",
        "SystemExit",
        "throw",
    ),
    ("a mute error", lambda bad: throw(Mute()), "retry", "Mute", "Mute"),
    (
        "a group of verdicts",
        lambda bad: throw(group(Skip("a"), Fail("b"))),
        "fail",
        "b",
        "fail: b",
    ),
    (
        "a mixed group",
        lambda bad: throw(group(Skip("a"), OSError("b"))),
        "retry",
        "OSError: b",
        "b",
    ),
    ("a group in tasks", fail_in_groups, "dead_letter", "denied", "dead_letter: denied"),
    ("a huge reason", lambda bad: throw(Fail("x" * (64 << 20))), "fail", "x…", "x…"),
    ("a wrong value", lambda bad: True, "fail", "a value of type bool", "type bool"),
    ("a generator", lambda bad: (part for part in "ab"), "fail", "use return", "use return"),
    ("too many records", flood, "fail", "records take", ""),
    ("a record of text", lambda bad: bad.produce("out", "x"), "retry", "TypeError", "_bytes"),
    ("its own cancellation", cancel_itself, "retry", "CancelledError", "cancel_itself"),
    (
        "a swallowed cancellation",
        swallow_its_cancellation,
        "skip",
        "cancelled",
        "skip: cancelled",
    ),
    ("a cancelled future", await_a_cancelled_future, "retry", "CancelledError", "await future"),
]


class Table(unittest.IsolatedAsyncioTestCase):
    async def misbehaves(self, bad_call, outcome, reason, logged, order, threads):
        begun = set()

        def handle(found):
            begun.add(found.offset)
            if found.offset == BAD:
                return bad_call(found)

        with self.assertLogs("penstock", "DEBUG") as logs:
            logging.getLogger("penstock").debug("begin")
            async with Runtime(handle, order=order, threads=threads, concurrency=3) as runtime:
                keys = ["a", "b", None]
                runtime.send(
                    message(b"{}", key=keys[offset % 3], offset=offset)
                    for offset in range(1, COUNT + 1)
                )
                await runtime.settled(COUNT)
                # Its lanes are still there.
                runtime.send(message(b"{}", offset=COUNT + offset) for offset in range(1, 4))
                await runtime.settled(COUNT + 3)
        self.assertIn(logged, "\n".join(logs.output))
        found = {each.message.offset: each for each in runtime.outcomes}
        self.assertEqual(sorted(found), list(range(1, COUNT + 4)), "each has one verdict")
        bad = found.pop(BAD)
        self.assertEqual(bad.name, outcome)
        self.assertIn(reason, bad.reason)
        for offset, each in found.items():
            expected = "done" if offset in begun else "release"
            self.assertEqual(each.name, expected, f"{offset} is innocent")
        if order == "any":
            self.assertEqual(len(begun), COUNT + 3)

    async def test_each_in_each_order_on_the_loop_and_in_threads(self):
        for name, bad_call, outcome, reason, logged in TABLE:
            places = (False,) if asyncio.iscoroutinefunction(bad_call) else (False, True)
            for threads in places:
                for order in ("any", "key", "batch"):
                    with self.subTest(name, order=order, threads=threads):
                        await self.misbehaves(bad_call, outcome, reason, logged, order, threads)


class Others(unittest.IsolatedAsyncioTestCase):
    async def test_an_exception_that_can_not_be_examined_has_a_verdict(self):
        for threads in (False, True):
            handle = lambda found: throw(ValueError("x"))  # noqa: E731
            async with Runtime(
                handle, threads=threads, permanent=Odd, concurrency=1
            ) as runtime:
                await runtime.deliver(message(), message())
                await runtime.settled(2)
            for outcome in runtime.outcomes:
                self.assertEqual(outcome.name, "retry")
                self.assertIn("no questions", outcome.reason)

    async def test_a_log_that_raises_ends_no_lane(self):
        for threads in (False, True):
            with mock.patch("penstock._handler.log.error", side_effect=SystemError("full")):
                handle = lambda found: throw(ValueError("x"))  # noqa: E731
                async with Runtime(handle, threads=threads, concurrency=1) as runtime:
                    await runtime.deliver(message(), message())
                    await runtime.settled(2)
            self.assertEqual([found.name for found in runtime.outcomes], ["retry"] * 2)

    async def test_records_of_a_task_that_was_left_behind_come_too_late(self):
        errors, left = [], []

        async def handle(found):
            async def late():
                await ended.wait()
                try:
                    found.produce("out", b"late")
                except RuntimeError as error:
                    errors.append(str(error))

            left.append(asyncio.create_task(late()))

        ended = asyncio.Event()
        async with Runtime(handle) as runtime:
            await runtime.deliver(message())
            [outcome] = await runtime.settled(1)
            ended.set()
            await left[0]
        self.assertEqual((outcome.name, outcome.records), ("done", ()))
        self.assertIn("has its verdict", errors[0])

    async def test_a_call_that_ignores_its_cancellation_gives_no_verdict(self):
        go, ends = asyncio.Event(), []

        async def handle(found):
            if found.offset == 1:
                while not go.is_set():
                    try:
                        await go.wait()
                    except asyncio.CancelledError:
                        ends.append("ignored")

        async with Runtime(handle, order="key", concurrency=2) as runtime:
            [number] = runtime.send([message(key="a", offset=1)])
            await runtime.until(lambda heard: number in heard.begun)
            runtime.cancel(number, reason="timed_out")
            # The same message again waits for the call; another does not.
            runtime.send([message(key="a", offset=2), message(key="b", offset=3)])
            await runtime.settled(1)
            self.assertEqual(runtime.outcomes[0].message.offset, 3)
            go.set()
            await runtime.settled(2)
        self.assertEqual(ends, ["ignored"])
        self.assertEqual([found.message.offset for found in runtime.outcomes], [3, 2])

    async def test_all_tasks_may_be_cancelled_by_a_handler_of_a_call(self):
        async def handle(found):
            if found.offset == 1:
                for task in asyncio.all_tasks():
                    if "Loop" in repr(task.get_coro()) and task is not asyncio.current_task():
                        task.cancel()

        async with Runtime(handle, concurrency=8) as runtime:
            runtime.send(message(offset=offset) for offset in range(1, 9))
            await runtime.settled(8)
        self.assertTrue({found.name for found in runtime.outcomes} <= {"done", "retry"})

    async def test_steps_of_the_clock_harm_nothing(self):
        for step in (-86_400, 86_400):
            real, steps = time.time, []

            def handle(found, steps=steps, step=step):
                # Once, in the middle of a batch.
                if found.offset == 3:
                    steps.append(step)

            def clock(real=real, steps=steps):
                return real() + sum(steps)

            with mock.patch("time.time", clock):
                async with Runtime(handle, threads=False, concurrency=1, timeout=5) as runtime:
                    runtime.send(message(offset=offset) for offset in range(1, 7))
                    await runtime.settled(6)
                    runtime.send(message(offset=offset) for offset in range(7, 9))
                    await runtime.settled(8)
            self.assertEqual([found.name for found in runtime.outcomes], ["done"] * 8)

    async def test_a_runtime_that_reads_nothing_gets_no_more_calls(self):
        begun, blocked = [], asyncio.Event()

        class Deaf(Runtime):
            async def _take(self, answer):
                if self.heard.welcome:
                    blocked.set()
                    await asyncio.Event().wait()
                await super()._take(answer)

        async def handle(found):
            begun.append(found.offset)

        async with Deaf(handle, concurrency=2) as runtime:
            runtime.send(message(offset=offset) for offset in range(100))
            async with asyncio.timeout(30):
                await blocked.wait()
        self.assertEqual(begun, [])

    async def test_no_thread_stays_when_a_stream_ends(self):
        before = set(threading.enumerate())
        async with Runtime(lambda found: None, concurrency=4) as runtime:
            runtime.send(message(offset=offset) for offset in range(100))
            await runtime.settled(100)
        for thread in set(threading.enumerate()) - before:
            await asyncio.to_thread(thread.join, 30)
            self.assertFalse(thread.is_alive())

    async def test_a_machine_without_more_threads_is_served_by_fewer(self):
        real, started = threading.Thread.start, []

        def start(thread):
            if thread.name.startswith("penstock-"):
                if started:
                    raise RuntimeError("can't start new thread")
                started.append(thread)
            real(thread)

        with mock.patch("threading.Thread.start", start), self.assertLogs("penstock") as logs:
            async with Runtime(lambda found: None, concurrency=4) as runtime:
                runtime.send(message(offset=offset) for offset in range(20))
                await runtime.settled(20)
        self.assertIn("1 threads handle messages", logs.output[0])

    async def test_delays_and_reasons_of_any_kind_are_sent(self):
        for delay in ("soon", None, float("nan"), -5, 1e400):
            found = Retry("busy")
            found.delay = delay
            found.reason = {"a": object}
            async with Runtime(lambda _, found=found: found) as runtime:
                await runtime.deliver(message())
                [outcome] = await runtime.settled(1)
            self.assertEqual(outcome.name, "retry")
