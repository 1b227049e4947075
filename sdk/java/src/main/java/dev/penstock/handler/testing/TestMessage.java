package dev.penstock.handler.testing;

import com.google.protobuf.ByteString;
import dev.penstock.handler.Header;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.Delivery;
import penstock.handler.v1.HandlerOuterClass.Run;

/**
 * A message to send to a handler.
 *
 * @param topic the topic
 * @param partition the partition
 * @param offset the offset
 * @param key null: no key
 * @param value null: a tombstone
 * @param headers in their order
 * @param attempt the number of the attempt, from 1
 * @param timestamp null: none
 */
public record TestMessage(
        String topic, int partition, long offset, byte[] key, byte[] value, List<Header> headers, int attempt, Instant timestamp) {
    private static final AtomicLong OFFSETS = new AtomicLong();

    /** Copies the headers. */
    public TestMessage {
        headers = List.copyOf(headers);
    }

    /**
     * Returns a message at its first attempt, in partition 0 of the topic {@code test}. Each has
     * another offset.
     *
     * @param value text; null makes a tombstone
     */
    public static TestMessage of(String value) {
        return new TestMessage("test", 0, OFFSETS.getAndIncrement(), null, bytes(value), List.of(), 1, Instant.now());
    }

    private static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    /** Returns a copy with another topic. */
    public TestMessage withTopic(String other) {
        return new TestMessage(other, partition, offset, key, value, headers, attempt, timestamp);
    }

    /** Returns a copy with another partition. */
    public TestMessage withPartition(int other) {
        return new TestMessage(topic, other, offset, key, value, headers, attempt, timestamp);
    }

    /** Returns a copy with another offset. */
    public TestMessage withOffset(long other) {
        return new TestMessage(topic, partition, other, key, value, headers, attempt, timestamp);
    }

    /** Returns a copy with another key; null is none. */
    public TestMessage withKey(String other) {
        return new TestMessage(topic, partition, offset, bytes(other), value, headers, attempt, timestamp);
    }

    /** Returns a copy with another value; null makes a tombstone. */
    public TestMessage withValue(byte[] other) {
        return new TestMessage(topic, partition, offset, key, other, headers, attempt, timestamp);
    }

    /** Returns a copy with one header more. */
    public TestMessage withHeader(String name, String text) {
        List<Header> more = new ArrayList<>(headers);
        more.add(new Header(name, bytes(text)));
        return new TestMessage(topic, partition, offset, key, value, more, attempt, timestamp);
    }

    /** Returns a copy at another attempt. */
    public TestMessage withAttempt(int other) {
        return new TestMessage(topic, partition, offset, key, value, headers, other, timestamp);
    }

    Run encode() {
        Delivery.Builder delivery = Delivery.newBuilder().setOffset(offset).setAttempt(attempt);
        if (key != null) {
            delivery.setKey(ByteString.copyFrom(key));
        }
        if (value != null) {
            delivery.setValue(ByteString.copyFrom(value));
        }
        if (timestamp != null) {
            delivery.setTimestampMs(timestamp.toEpochMilli());
        }
        for (Header header : headers) {
            HandlerOuterClass.Header.Builder one = delivery.addHeadersBuilder().setName(header.name());
            if (header.value() != null) {
                one.setValue(ByteString.copyFrom(header.value()));
            }
        }
        return Run.newBuilder().setTopic(topic).setPartition(partition).setEpoch(1).addDeliveries(delivery).build();
    }
}
