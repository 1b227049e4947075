package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import dev.penstock.handler.opentelemetry.Tracing;
import dev.penstock.handler.testing.FakeRuntime;
import dev.penstock.handler.testing.TestMessage;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.sdk.testing.junit5.OpenTelemetryExtension;
import io.opentelemetry.sdk.trace.data.SpanData;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;

class TracingTest {
    private static final String TRACE = "0af7651916cd43dd8448eb211c80319c";

    @RegisterExtension
    static final OpenTelemetryExtension TELEMETRY = OpenTelemetryExtension.create();

    private List<SpanData> spans(Handler handler, TestMessage message) {
        HandlerServer.Builder<Handler> options = HandlerServer.of(handler).intercept(Tracing.interceptor(TELEMETRY.getOpenTelemetry()));
        try (FakeRuntime runtime = Tests.runtime(FakeRuntime.Config.DEFAULT, options)) {
            runtime.handle(message);
        }
        return TELEMETRY.getSpans();
    }

    @Test
    void aSpanContinuesTheTraceOfTheProducer() {
        String[] current = new String[1];
        SpanData span = spans(message -> {
            current[0] = Span.current().getSpanContext().getTraceId();
            return Verdict.done();
        }, TestMessage.of("").withHeader("traceparent", "00-" + TRACE + "-b7ad6b7169203331-01")).get(0);
        assertEquals("process test", span.getName());
        assertEquals(SpanKind.CONSUMER, span.getKind());
        assertEquals(TRACE, span.getTraceId());
        assertEquals("b7ad6b7169203331", span.getParentSpanId());
        assertEquals(TRACE, current[0]);
    }

    @Test
    void aFailureIsRecordedAndADecisionIsNot() {
        SpanData failed = spans(message -> {
            throw new IllegalStateException("busy");
        }, TestMessage.of("")).get(0);
        assertEquals(StatusCode.ERROR, failed.getStatus().getStatusCode());
        assertEquals(1, failed.getEvents().size());
        assertFalse(failed.getParentSpanContext().isValid());
        TELEMETRY.clearSpans();
        SpanData decided = spans(message -> {
            throw Verdict.skip("old").asException();
        }, TestMessage.of("")).get(0);
        assertEquals(StatusCode.UNSET, decided.getStatus().getStatusCode());
        assertEquals(List.of(), decided.getEvents());
    }
}
