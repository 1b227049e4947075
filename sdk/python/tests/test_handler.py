"""Handlers of any shape: how they are called, and what their results mean."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
import unittest

from penstock import DeadLetter, Fail, Retry, Server, Skip
from penstock.testing import Runtime, deliver, message, run

LOOP_THREAD = threading.main_thread()


class Called:
    """Notes where calls run, and that they ended."""

    def __init__(self):
        self.threads = []

    async def handle(self, message):
        await asyncio.sleep(0)
        self.threads.append(threading.current_thread())

    def plain(self, message):
        self.threads.append(threading.current_thread())


class Instance:
    def __init__(self, called):
        self._called = called

    async def __call__(self, message):
        await self._called.handle(message)


class PlainInstance:
    def __init__(self, called):
        self._called = called

    def __call__(self, message):
        self._called.plain(message)


class OwnAwaitable:
    def __init__(self, work):
        self._work = work

    def __await__(self):
        return self._work.__await__()


def undecorated(function):
    """A decorator that hides the kind of its function."""

    def call(*arguments):
        return function(*arguments)

    return call


class Shapes(unittest.TestCase):
    def test_a_handler_that_is_async_in_any_shape_is_awaited(self):
        async def with_pool(pool, message):
            await called.handle(message)

        called = Called()
        executor = concurrent.futures.ThreadPoolExecutor(1)
        self.addCleanup(executor.shutdown)
        for handle in [
            called.handle,
            Instance(called),
            functools.partial(called.handle),
            functools.partial(functools.partial(with_pool, "pool")),
            functools.partial(Instance(called)),
            lambda message: called.handle(message),
            lambda message: with_pool("pool", message),
            undecorated(called.handle),
            undecorated(Instance(called)),
            lambda message: OwnAwaitable(called.handle(message)),
            functools.wraps(called.plain)(lambda message: called.handle(message)),
        ]:
            with self.subTest(handle=handle):
                called.threads.clear()
                [outcome] = run(handle, message())
                self.assertEqual((outcome.name, outcome.reason), ("done", ""))
                self.assertEqual(called.threads, [LOOP_THREAD])
        called.threads.clear()
        [outcome] = run(lambda message: executor.submit(called.plain, message), message())
        self.assertEqual((outcome.name, len(called.threads)), ("done", 1))

    def test_a_result_may_be_awaitable_again(self):
        called = Called()

        async def outer(message):
            return asyncio.create_task(called.handle(message))

        [outcome] = run(outer, message())
        self.assertEqual((outcome.name, len(called.threads)), ("done", 1))

        async def endless(message):
            return endless(message)

        with self.assertLogs("penstock", "ERROR"):
            [outcome] = run(endless, message())
        self.assertEqual(outcome.name, "retry")
        self.assertIn("never end", outcome.reason)

    def test_plain_functions_run_in_threads(self):
        called = Called()
        for handle in [
            called.plain,
            PlainInstance(called),
            functools.partial(called.plain),
            lambda message: called.plain(message),
            print if False else called.threads.append,
        ]:
            called.threads.clear()
            [outcome] = run(handle, message())
            self.assertEqual(outcome.name, "done")
            self.assertNotEqual(called.threads, [LOOP_THREAD])

    def test_the_place_of_calls_may_be_said(self):
        called = Called()
        [outcome] = run(called.plain, message(), threads=False)
        self.assertEqual((outcome.name, called.threads), ("done", [LOOP_THREAD]))

        def in_the_loop(message):
            return asyncio.get_running_loop().create_task(called.handle(message))

        called.threads.clear()
        [outcome] = run(in_the_loop, message(), threads=False)
        self.assertEqual((outcome.name, called.threads), ("done", [LOOP_THREAD]))

    def test_generators_and_classes_are_refused_at_the_start(self):
        def generator(message):
            yield

        async def async_generator(message):
            yield

        class Generator:
            def __call__(self, message):
                yield

        for handle in [
            generator,
            async_generator,
            Generator(),
            functools.partial(generator),
            functools.wraps(generator)(generator),
        ]:
            with self.assertRaisesRegex(TypeError, "is a generator: use return"):
                Server(handle)
        with self.assertRaisesRegex(TypeError, "is a class: pass an instance"):
            Server(Instance)
        with self.assertRaisesRegex(TypeError, "no function: None"):
            Server(None)

    def test_a_context_is_of_one_call(self):
        variable = contextvars.ContextVar("variable", default=0)
        found = []

        async def handle(message):
            plain(message)

        def plain(message):
            found.append(variable.get())
            variable.set(message.offset)

        for function in (handle, plain):
            run(function, *[message(offset=offset) for offset in range(1, 6)], concurrency=1)
        self.assertEqual(found, [0] * 10)


class Results(unittest.TestCase):
    def outcome(self, result):
        outcomes = []

        async def handle(message):
            return result

        for function in (handle, lambda message: result):
            with contextlib.suppress(AssertionError), self.assertLogs("penstock"):
                outcomes += run(function, message())
        [one, other] = outcomes
        self.assertEqual((one.name, one.reason), (other.name, other.reason))
        return one

    def test_a_returned_verdict_counts_as_a_raised_one(self):
        for verdict, name in [
            (Retry("busy", delay=2), "retry"),
            (Skip("busy"), "skip"),
            (DeadLetter("busy"), "dead_letter"),
            (Fail("busy"), "fail"),
        ]:
            outcome = self.outcome(verdict)
            self.assertEqual((outcome.name, outcome.reason), (name, "busy"))
        self.assertEqual(self.outcome(Retry("busy", delay=2)).delay, 2)
        self.assertEqual(self.outcome(Skip).name, "skip")

    def test_any_other_value_is_refused(self):
        for value in [
            0,
            False,
            True,
            "ok",
            b"",
            [],
            {},
            (),
            [None],
            object(),
            ValueError("x"),
            1.5,
        ]:
            with self.subTest(value=value):
                outcome = self.outcome(value)
                self.assertEqual(outcome.name, "fail")
                self.assertIn(f"a value of type {type(value).__name__}", outcome.reason)

    def test_a_generator_that_is_returned_is_refused(self):
        outcomes = run(lambda message: (part for part in ()), message())
        self.assertEqual(outcomes[0].name, "fail")
        self.assertIn("use return instead of yield", outcomes[0].reason)


class Logs(unittest.TestCase):
    def test_the_log_has_the_place_and_the_stack_of_a_failure(self):
        def deep():
            raise LookupError("no such customer")

        async def handle(message):
            deep()

        for function in (handle, lambda message: deep()):
            with self.assertLogs("penstock", "ERROR") as logs:
                run(function, message(topic="orders", partition=3, offset=42, group="shop"))
            [record] = logs.records
            self.assertEqual(
                record.getMessage(),
                "shop/orders/3/42, attempt 1: retry: LookupError: no such customer",
            )
            self.assertIn("in deep", logs.output[0])
            self.assertEqual(
                (record.topic, record.partition, record.offset, record.attempt),
                ("orders", 3, 42, 1),
            )

    def test_a_verdict_is_no_error(self):
        async def handle(message):
            raise Skip("a tombstone")

        with self.assertLogs("penstock", "INFO") as logs:
            run(handle, message())
        self.assertEqual([record.levelname for record in logs.records], ["INFO"])
        self.assertIsNone(logs.records[0].exc_info)


class Interceptors(unittest.TestCase):
    def test_the_first_interceptor_is_the_outermost(self):
        events = []

        def interceptor(name):
            def wrap(following):
                async def handle(message):
                    events.append(f"{name} before")
                    try:
                        return await following(message)
                    finally:
                        events.append(f"{name} after")

                return handle

            return wrap

        async def handle(message):
            events.append("call")
            raise Skip("old")

        [outcome] = run(handle, message(), interceptors=[interceptor("a"), interceptor("b")])
        self.assertEqual(outcome.name, "skip")
        self.assertEqual(events, ["a before", "b before", "call", "b after", "a after"])

    def test_a_plain_interceptor_serves_both_kinds(self):
        called = Called()

        def interceptor(following):
            return lambda message: following(message)

        for handle, on_loop in ((called.handle, True), (called.plain, False)):
            called.threads.clear()
            [outcome] = run(handle, message(), interceptors=[interceptor])
            self.assertEqual(outcome.name, "done")
            self.assertEqual(called.threads == [LOOP_THREAD], on_loop)

    def test_an_async_interceptor_around_a_plain_function_is_refused(self):
        def interceptor(following):
            async def handle(message):
                return following(message)

            return handle

        with self.assertRaisesRegex(TypeError, "block it: make the interceptor plain"):
            Server(lambda message: None, interceptors=[interceptor])

    def test_an_interceptor_may_give_the_verdict(self):
        def interceptor(following):
            return lambda message: Skip("a tombstone") if message.value is None else None

        [outcome] = run(lambda message: 5, message(None), interceptors=[interceptor])
        self.assertEqual((outcome.name, outcome.reason), ("skip", "a tombstone"))


class Batches(unittest.TestCase):
    def test_a_call_takes_messages_up_to_the_size(self):
        sizes = []

        def handle(messages):
            sizes.append(len(messages))

        outcomes = run(
            handle, *[message(offset=i) for i in range(10)], batch_size=4, concurrency=1
        )
        self.assertEqual([outcome.name for outcome in outcomes], ["done"] * 10)
        self.assertEqual(sizes, [4, 4, 2])

    def test_each_message_may_have_its_verdict(self):
        async def handle(messages):
            messages[2].produce("out", b"1")
            return [None, Skip("old"), None, Retry("busy", delay=1)]

        outcomes = run(handle, *[message(offset=i) for i in range(4)], batch_size=4)
        names = [outcome.name for outcome in outcomes]
        self.assertEqual(names, ["done", "skip", "done", "retry"])
        self.assertEqual(outcomes[2].records[0].value, b"1")

    def test_one_verdict_and_an_exception_are_for_all(self):
        def fail(messages):
            raise OSError("no database")

        for handle, name in ((fail, "retry"), (lambda messages: Skip("old"), "skip")):
            with (
                self.assertLogs("penstock", "DEBUG")
                if name == "retry"
                else contextlib.nullcontext()
            ):
                outcomes = run(handle, *[message(offset=i) for i in range(3)], batch_size=3)
            self.assertEqual([outcome.name for outcome in outcomes], [name] * 3)

    def test_a_list_that_does_not_fit_fails_all(self):
        for result in ([], [None], [None] * 4, ()):
            outcomes = run(lambda _, result=result: result, message(), message(), batch_size=2)
            self.assertEqual([outcome.name for outcome in outcomes], ["fail"] * 2)
            self.assertIn("verdicts for 2 messages", outcomes[0].reason)

    def test_a_value_in_a_list_is_a_verdict_or_none(self):
        outcomes = run(lambda _: [None, True], message(), message(), batch_size=2)
        self.assertEqual([outcome.name for outcome in outcomes], ["done", "fail"])

    def test_a_call_has_one_message_of_a_key(self):
        calls = []

        def handle(messages):
            calls.append([found.key for found in messages])

        keys = ["a", "a", "b", "c", "b", "a"]
        outcomes = run(handle, *[message(key=k) for k in keys], batch_size=4, order="key")
        self.assertEqual([outcome.name for outcome in outcomes], ["done"] * 6)
        for found in calls:
            self.assertEqual(len(found), len(set(found)))

    def test_in_order_a_call_gives_nothing_behind_a_failure(self):
        calls = []

        def handle(messages):
            calls.append([found.offset for found in messages])
            verdicts = [None] * len(messages)
            if 1 in calls[-1]:
                verdicts[1] = Retry("busy")
            return verdicts

        sent = [message(offset=offset) for offset in range(9)]
        outcomes = run(handle, *sent, batch_size=4, order="batch")
        self.assertEqual(calls, [[0, 1, 2, 3]])
        names = [outcome.name for outcome in outcomes]
        self.assertEqual(names, ["done"] + ["retry"] * 3 + ["release"] * 5)
        self.assertIn("an earlier message", outcomes[2].reason)


class Arguments(unittest.TestCase):
    def test_bad_arguments_are_refused_at_the_start(self):
        def handle(message):
            pass

        for options in [
            {"concurrency": 0},
            {"concurrency": 1.5},
            {"concurrency": True},
            {"window": 0},
            {"batch_size": 0},
            {"grace": -1},
            {"grace": float("nan")},
            {"address": "localhost"},
            {"address": "localhost:99999"},
            {"address": "unix:"},
            {"address": "unix:/" + "long" * 30},
        ]:
            with self.subTest(options=options), self.assertRaises(ValueError):
                Server(handle, **options)
        for options in [
            {"permanent": "ValueError"},
            {"permanent": [5]},
            {"permanent": ValueError("x")},
            {"lifespan": 5},
            {"interceptors": [lambda following: None]},
            {"no_such_option": 1},
        ]:
            with self.subTest(options=options), self.assertRaises(TypeError):
                Server(handle, **options)

    def test_one_permanent_class_needs_no_tuple(self):
        def handle(message):
            raise KeyError("id")

        with self.assertLogs("penstock", "ERROR"):
            [outcome] = run(handle, message(), permanent=KeyError)
        self.assertEqual(outcome.name, "fail")


class Lifespan(unittest.IsolatedAsyncioTestCase):
    async def test_it_lasts_from_before_the_first_message_to_after_the_last(self):
        events = []

        @contextlib.asynccontextmanager
        async def lifespan():
            events.append("start")
            yield {"pool": 1}
            events.append("stop")

        async def handle(message):
            events.append(message.state["pool"])

        outcomes = await deliver(handle, message(), lifespan=lifespan)
        self.assertEqual(outcomes[0].name, "done")
        self.assertEqual(events, ["start", 1, "stop"])

    async def test_a_lifespan_that_fails_is_the_servers_error(self):
        @contextlib.asynccontextmanager
        async def lifespan():
            raise OSError("no database")
            yield

        with self.assertRaisesRegex(OSError, "no database"):
            async with Runtime(lambda message: None, lifespan=lifespan):
                self.fail("it started")
        server = Server(lambda message: None, lifespan=lifespan, address="127.0.0.1:0")
        with self.assertRaisesRegex(OSError, "no database"):
            await server.start()
