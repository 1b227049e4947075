package dev.penstock.handler.opentelemetry;

import dev.penstock.handler.Handler;
import dev.penstock.handler.Message;
import dev.penstock.handler.VerdictException;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.TextMapGetter;
import java.util.Map;
import java.util.function.UnaryOperator;

/** Puts a span around each call, which continues the trace in the message's headers. */
public final class Tracing {
    private static final TextMapGetter<Map<String, String>> GETTER = new TextMapGetter<>() {
        @Override
        @SuppressWarnings("deprecation") // It has no default.
        public Iterable<String> keys(Map<String, String> carrier) {
            return carrier.keySet();
        }

        @Override
        public String get(Map<String, String> carrier, String key) {
            return carrier == null ? null : carrier.get(key);
        }
    };

    private Tracing() {}

    /**
     * Returns an interceptor for {@link dev.penstock.handler.HandlerServer.Builder#intercept}.
     *
     * @param openTelemetry has the propagator and the tracer
     */
    public static UnaryOperator<Handler> interceptor(OpenTelemetry openTelemetry) {
        Tracer tracer = openTelemetry.getTracer("dev.penstock.handler");
        return next -> message -> {
            Span span = start(openTelemetry, tracer, message);
            try (Scope scope = span.makeCurrent()) {
                return next.handle(message);
            } catch (VerdictException decision) {
                throw decision;
            } catch (Throwable error) {
                span.recordException(error);
                span.setStatus(StatusCode.ERROR);
                throw error;
            } finally {
                span.end();
            }
        };
    }

    private static Span start(OpenTelemetry openTelemetry, Tracer tracer, Message message) {
        Context parent = openTelemetry.getPropagators().getTextMapPropagator().extract(Context.root(), message.textHeaders(), GETTER);
        return tracer.spanBuilder("process " + message.topic())
                .setParent(parent)
                .setSpanKind(SpanKind.CONSUMER)
                .setAttribute("messaging.system", "kafka")
                .setAttribute("messaging.operation.type", "process")
                .setAttribute("messaging.operation.name", "process")
                .setAttribute("messaging.consumer.group.name", message.group())
                .setAttribute("messaging.destination.name", message.topic())
                .setAttribute("messaging.destination.partition.id", String.valueOf(message.partition()))
                .setAttribute("messaging.kafka.offset", message.offset())
                .startSpan();
    }
}
