package dev.penstock.handler.testing;

import dev.penstock.handler.Header;
import dev.penstock.handler.ProducedRecord;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.Record;
import penstock.handler.v1.HandlerOuterClass.Verdict;

/**
 * The verdict that a runtime has received.
 *
 * @param outcome the kind of verdict
 * @param reason shown in logs and dead letters
 * @param delay the minimum delay before the message is sent again
 * @param produced the records that are committed with the message
 */
public record TestVerdict(Outcome outcome, String reason, Duration delay, List<ProducedRecord> produced) {
    /** The kinds of verdicts. */
    public enum Outcome {
        /** Handled. */
        DONE,
        /** Tried again while attempts are left. */
        RETRY,
        /** Not to be handled. */
        SKIP,
        /** To the dead-letter topic. */
        DEAD_LETTER,
        /** Will not pass. */
        FAIL,
        /** Not attempted, and sent again. */
        RELEASE
    }

    static TestVerdict decode(Verdict verdict) {
        return switch (verdict.getOutcomeCase()) {
            case DONE -> new TestVerdict(Outcome.DONE, "", Duration.ZERO,
                    verdict.getDone().getProduceList().stream().map(TestVerdict::decode).toList());
            case RETRY -> of(Outcome.RETRY, verdict.getRetry().getReason(), verdict.getRetry().getDelayMs());
            case SKIP -> of(Outcome.SKIP, verdict.getSkip().getReason(), 0);
            case DEAD_LETTER -> of(Outcome.DEAD_LETTER, verdict.getDeadLetter().getReason(), 0);
            case FAIL -> of(Outcome.FAIL, verdict.getFail().getReason(), 0);
            case RELEASE -> of(Outcome.RELEASE, verdict.getRelease().getReason(), verdict.getRelease().getDelayMs());
            case OUTCOME_NOT_SET -> throw new IllegalStateException("a verdict without an outcome");
        };
    }

    private static TestVerdict of(Outcome outcome, String reason, long delayMs) {
        return new TestVerdict(outcome, reason, Duration.ofMillis(delayMs), List.of());
    }

    private static ProducedRecord decode(Record record) {
        List<Header> headers = new ArrayList<>();
        for (HandlerOuterClass.Header header : record.getHeadersList()) {
            headers.add(new Header(header.getName(), header.hasValue() ? header.getValue().toByteArray() : null));
        }
        return new ProducedRecord(
                record.getTopic(),
                record.hasPartition() ? record.getPartition() : null,
                record.hasKey() ? record.getKey().toByteArray() : null,
                record.hasValue() ? record.getValue().toByteArray() : null,
                headers,
                record.hasTimestampMs() ? Instant.ofEpochMilli(record.getTimestampMs()) : null);
    }
}
