package dev.penstock.handler;

import com.google.protobuf.ByteString;
import java.time.Instant;
import java.util.regex.Pattern;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.Record;

/** Records as the contract has them. */
final class Records {
    private static final Pattern TOPIC = Pattern.compile("(?!\\.{1,2}$)[a-zA-Z0-9._-]{1,249}");

    private Records() {}

    static Record encode(ProducedRecord record) {
        if (record == null) {
            throw new IllegalArgumentException("the record is null");
        }
        check(record);
        Record.Builder encoded = Record.newBuilder().setTopic(record.topic());
        if (record.partition() != null) {
            encoded.setPartition(record.partition());
        }
        if (record.key() != null) {
            encoded.setKey(ByteString.copyFrom(record.key()));
        }
        if (record.value() != null) {
            encoded.setValue(ByteString.copyFrom(record.value()));
        }
        if (record.timestamp() != null) {
            encoded.setTimestampMs(record.timestamp().toEpochMilli());
        }
        for (Header header : record.headers()) {
            HandlerOuterClass.Header.Builder one = encoded.addHeadersBuilder().setName(Judgement.clean(header.name()));
            if (header.value() != null) {
                one.setValue(ByteString.copyFrom(header.value()));
            }
        }
        return encoded.build();
    }

    private static void check(ProducedRecord record) {
        String topic = record.topic();
        if (topic == null || !TOPIC.matcher(topic).matches()) {
            String shown = topic == null ? "null" : topic.substring(0, Math.min(60, topic.length()));
            throw new IllegalArgumentException(shown + " is no name of a topic");
        }
        if (record.partition() != null && record.partition() < 0) {
            throw new IllegalArgumentException("there is no partition " + record.partition());
        }
        if (record.timestamp() != null && record.timestamp().isBefore(Instant.EPOCH)) {
            throw new IllegalArgumentException("the timestamp " + record.timestamp() + " is before 1970");
        }
        if (record.headers().contains(null)) {
            throw new IllegalArgumentException("a header of the record is null");
        }
    }
}
