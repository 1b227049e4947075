package dev.penstock.handler;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * A record to produce in the transaction that commits a message's offset
 * ({@code commit: Transactional}).
 *
 * @param topic an existing topic
 * @param partition null: the key selects the partition
 * @param key null: no key
 * @param value null: a tombstone
 * @param headers in their order
 * @param timestamp null: now
 */
public record ProducedRecord(
        String topic, Integer partition, byte[] key, byte[] value, List<Header> headers, Instant timestamp) {
    /** Copies the headers. The other fields are checked by {@link Message#produce}. */
    public ProducedRecord {
        headers = headers == null ? List.of() : Collections.unmodifiableList(new ArrayList<>(headers));
    }

    /** Returns a record; a null value makes a tombstone. */
    public static ProducedRecord of(String topic, byte[] value) {
        return new ProducedRecord(topic, null, null, value, List.of(), null);
    }

    /** Returns a record whose value is text in UTF-8. */
    public static ProducedRecord of(String topic, String value) {
        return of(topic, value.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns a copy with another partition. */
    public ProducedRecord withPartition(int other) {
        return new ProducedRecord(topic, other, key, value, headers, timestamp);
    }

    /** Returns a copy with another key. */
    public ProducedRecord withKey(byte[] other) {
        return new ProducedRecord(topic, partition, other, value, headers, timestamp);
    }

    /** Returns a copy whose key is text in UTF-8. */
    public ProducedRecord withKey(String other) {
        return withKey(other.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns a copy with one header more. */
    public ProducedRecord withHeader(String name, byte[] data) {
        List<Header> more = new ArrayList<>(headers);
        more.add(new Header(name, data));
        return new ProducedRecord(topic, partition, key, value, more, timestamp);
    }

    /** Returns a copy with one header more, whose value is text in UTF-8. */
    public ProducedRecord withHeader(String name, String text) {
        return withHeader(name, text.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns a copy with another timestamp. */
    public ProducedRecord withTimestamp(Instant other) {
        return new ProducedRecord(topic, partition, key, value, headers, other);
    }
}
