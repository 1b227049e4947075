package dev.penstock.handler;

import com.google.protobuf.ByteString;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import penstock.handler.v1.HandlerOuterClass.Delivery;
import penstock.handler.v1.HandlerOuterClass.Record;
import penstock.handler.v1.HandlerOuterClass.Run;

/** One Kafka message, delivered once. */
public final class Message {
    private static final int MAX_PRODUCED = 15 * 1024 * 1024;

    private final String group;
    private final Run run;
    private final Delivery delivery;
    private volatile Call call;
    private byte[] key;
    private byte[] value;
    private List<Header> headers;
    // These are guarded by produced.
    private final List<Record> produced = new ArrayList<>(0);
    private long size;
    private boolean isSettled;
    private RuntimeException refused;

    Message(String group, Run run, Delivery delivery) {
        this.group = group;
        this.run = run;
        this.delivery = delivery;
        key = delivery.hasKey() ? delivery.getKey().toByteArray() : null;
        value = delivery.hasValue() ? delivery.getValue().toByteArray() : null;
    }

    void attach(Call one) {
        call = one;
    }

    /** Returns the consumer group. */
    public String group() {
        return group;
    }

    /** Returns the topic. */
    public String topic() {
        return run.getTopic();
    }

    /** Returns the partition. */
    public int partition() {
        return run.getPartition();
    }

    /** Counts the partition assignments of the runtime. */
    public long epoch() {
        return run.getEpoch();
    }

    /** Returns the offset. */
    public long offset() {
        return delivery.getOffset();
    }

    /** Returns the timestamp; empty if the message has none. */
    public Optional<Instant> timestamp() {
        return delivery.hasTimestampMs()
                ? Optional.of(Instant.ofEpochMilli(delivery.getTimestampMs()))
                : Optional.empty();
    }

    /** Returns the key; null where there is none. An empty one is not null. */
    public byte[] key() {
        return key;
    }

    /** Returns the key as text in UTF-8; null where there is none. */
    public String keyText() {
        return key == null ? null : new String(key, StandardCharsets.UTF_8);
    }

    /** Returns the value; null in a tombstone. */
    public byte[] value() {
        return value;
    }

    /** Returns the value as text in UTF-8; null in a tombstone. */
    public String text() {
        return value == null ? null : new String(value, StandardCharsets.UTF_8);
    }

    /** Returns the headers in the message's order; a name may occur more than once. */
    public synchronized List<Header> headers() {
        if (headers == null) {
            List<Header> all = new ArrayList<>(delivery.getHeadersCount());
            delivery.getHeadersList().forEach(header ->
                    all.add(new Header(header.getName(), header.hasValue() ? header.getValue().toByteArray() : null)));
            headers = Collections.unmodifiableList(all);
        }
        return headers;
    }

    /** Returns the last header of a name. */
    public Optional<Header> header(String name) {
        return headers().stream().filter(header -> header.name().equals(name)).reduce((first, last) -> last);
    }

    /**
     * Returns the headers as text, the last one of each name. It serves as a carrier for
     * OpenTelemetry's propagators, as it has {@code traceparent} where the producer sent it.
     */
    public Map<String, String> textHeaders() {
        Map<String, String> all = new LinkedHashMap<>();
        headers().stream().filter(header -> header.value() != null).forEach(header -> all.put(header.name(), header.text()));
        return all;
    }

    /** Returns the number of this attempt, from 1. */
    public int attempt() {
        return delivery.getAttempt();
    }

    /**
     * Returns {@code GROUP/TOPIC/PARTITION/OFFSET}, which identifies the message for good: it
     * is the same at every attempt and in every process.
     */
    public String idempotencyKey() {
        return group + "/" + topic() + "/" + partition() + "/" + offset();
    }

    /**
     * Returns true if the time of the attempt is over or the message was withdrawn: a verdict
     * has no effect then.
     */
    public boolean isCancelled() {
        Call one = call;
        return one != null && one.isEnding();
    }

    /** Returns the time that is left for this attempt; empty if it is not limited. */
    public Optional<Duration> remaining() {
        Call one = call;
        return one == null ? Optional.empty() : one.remaining();
    }

    /**
     * Gives the attempt at least this time from now on, within {@code handler.maxTimeout} of
     * the manifest.
     *
     * @param time more than zero
     * @return the time that the attempt has, which may be less; zero if it is over
     */
    public Duration extend(Duration time) {
        if (time.isNegative() || time.isZero()) {
            throw new IllegalArgumentException(time + " is no time to extend an attempt by; it must be more than 0");
        }
        Call one = call;
        return one == null ? time : one.extend(time);
    }

    /**
     * Adds a record to the transaction that commits this message's offset. The record is
     * copied. If it is refused, the message fails even if the handler catches the exception.
     *
     * @param record the record
     * @throws SettledException if the handler has returned
     * @throws IllegalArgumentException if the records of this message are too large
     */
    public void produce(ProducedRecord record) {
        synchronized (produced) {
            if (isSettled) {
                throw new SettledException();
            }
            if (refused != null) {
                throw refused;
            }
            try {
                Record encoded = Records.encode(record);
                size += encoded.getSerializedSize() + 16L;
                if (size > MAX_PRODUCED) {
                    throw new IllegalArgumentException("the records of one message exceed " + (MAX_PRODUCED >> 20) + " MiB");
                }
                produced.add(encoded);
            } catch (RuntimeException error) {
                refused = error;
                produced.clear();
                throw error;
            }
        }
    }

    /** Ends the time for produce, and returns what a handler's success stands for. */
    Judgement close() {
        synchronized (produced) {
            isSettled = true;
            if (refused != null) {
                return Judgement.of(Verdict.fail(String.valueOf(refused.getMessage())));
            }
            return Judgement.done(produced);
        }
    }

    ByteString keyBytes() {
        return delivery.hasKey() ? delivery.getKey() : null;
    }

    String position() {
        return topic() + "/" + partition() + "/" + offset();
    }

    @Override
    public String toString() {
        return "Message[" + idempotencyKey() + ", attempt " + attempt() + "]";
    }
}
