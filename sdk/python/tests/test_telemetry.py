"""Spans around calls, with OpenTelemetry's API alone."""

import asyncio
import sys
import unittest
from unittest import mock

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from penstock import Server, Skip, _telemetry
from penstock.testing import deliver, message

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


class Recording(NonRecordingSpan):
    """A span that notes what happens to it."""

    def __init__(self, **options):
        parent = trace.get_current_span(options["context"]).get_span_context()
        super().__init__(SpanContext(parent.trace_id or 5, 6, False, TraceFlags(1)))
        self.options, self.events = options, []

    def end(self, end_time=None):
        self.events.append("end")

    def record_exception(self, exception, *_, **__):
        self.events.append(type(exception).__name__)

    def set_status(self, status, description=None):
        self.events.append(status.status_code.name)


class Spans(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.spans = []
        tracer = mock.Mock()
        tracer.start_span = lambda name, **options: self.start(name, **options)
        patch = mock.patch.object(_telemetry.trace, "get_tracer", lambda name: tracer)
        patch.start()
        self.addCleanup(patch.stop)
        configured = mock.patch.object(_telemetry, "_is_configured", lambda: self.configured)
        self.configured = True
        configured.start()
        self.addCleanup(configured.stop)

    def start(self, name, **options):
        self.spans.append(Recording(name=name, **options))
        return self.spans[-1]

    async def test_a_call_continues_the_trace_of_its_message(self):
        found = []

        def look():
            found.append(trace.get_current_span().get_span_context().trace_id)

        async def on_loop(one):
            await asyncio.sleep(0)
            look()

        async def later(one):
            look()

        for handle in (on_loop, lambda one: look(), lambda one: later(one)):
            one = message(
                topic="orders", partition=3, offset=42, headers=[PARENT], group="shop"
            )
            [outcome] = await deliver(handle, one)
            self.assertEqual(outcome.name, "done")
        self.assertEqual(found, [TRACE] * 3)
        self.assertEqual([span.events for span in self.spans], [["end"]] * 3)
        options = self.spans[0].options
        self.assertEqual(
            (options["name"], options["kind"].name), ("process orders", "CONSUMER")
        )
        self.assertEqual(options["attributes"]["messaging.kafka.offset"], 42)
        self.assertEqual(options["attributes"]["messaging.consumer.group.name"], "shop")
        self.assertFalse(trace.get_current_span().get_span_context().is_valid)

    async def test_an_error_is_recorded_and_a_verdict_is_none(self):
        def fail(one):
            raise OSError("no database")

        async def fail_later(one):
            raise OSError("no database")

        def skip(one):
            raise Skip("old")

        for handle in (fail, fail_later, skip):
            await deliver(handle, message())
        failed = ["OSError", "ERROR", "end"]
        self.assertEqual([span.events for span in self.spans], [failed, failed, ["end"]])

    async def test_a_batch_links_to_the_traces_of_its_messages(self):
        await deliver(lambda found: None, message(headers=[PARENT]), message(), batch_size=2)
        [span] = self.spans
        self.assertEqual([link.context.trace_id for link in span.options["links"]], [TRACE])

    async def test_a_program_without_traces_has_spans_only_for_messages_with_headers(self):
        self.configured = False
        await deliver(lambda one: None, message(), message(headers=[PARENT]))
        await deliver(lambda found: None, message(), message(), batch_size=2)
        self.assertEqual([span.get_span_context().trace_id for span in self.spans], [TRACE])

    async def test_it_can_be_switched_off(self):
        await deliver(lambda one: None, message(), telemetry=False)
        self.assertEqual(self.spans, [])


class Absent(unittest.IsolatedAsyncioTestCase):
    async def test_without_the_api_there_are_no_spans(self):
        program = (
            "import sys; sys.modules['opentelemetry'] = None\n"
            "from penstock import testing\n"
            "print(testing.run(lambda one: None, testing.message())[0].name)\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        self.assertEqual(out.decode().strip(), "done")
        with mock.patch.object(_telemetry, "IS_AVAILABLE", False):
            with self.assertRaisesRegex(ValueError, r"penstock-python\[telemetry\]"):
                Server(lambda one: None, telemetry=True)
