package dev.penstock.handler;

import java.time.Duration;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/** Decides what becomes of a message. */
public sealed interface Verdict {
    /** The message was handled. */
    record Done() implements Verdict {}

    /**
     * The attempt failed in a way that may pass. The runtime tries again while attempts are
     * left.
     *
     * @param reason shown in logs and dead letters
     * @param delay the minimum delay before the next attempt; {@code backoff.max} limits it
     */
    record Retry(String reason, Duration delay) implements Verdict {
        /** Checks the delay. */
        public Retry {
            reason = Objects.requireNonNullElse(reason, "");
            if (delay == null || delay.isNegative()) {
                throw new IllegalArgumentException("the delay of a retry is " + delay + "; it must be at least 0");
            }
        }
    }

    /**
     * The message is not to be handled: logged, counted as skipped, and committed past.
     *
     * @param reason shown in logs
     */
    record Skip(String reason) implements Verdict {
        /** Replaces null by an empty reason. */
        public Skip {
            reason = Objects.requireNonNullElse(reason, "");
        }
    }

    /**
     * The message goes to the dead-letter topic at once.
     *
     * @param reason shown in logs and the dead letter
     */
    record DeadLetter(String reason) implements Verdict {
        /** Replaces null by an empty reason. */
        public DeadLetter {
            reason = Objects.requireNonNullElse(reason, "");
        }
    }

    /**
     * The message can't be handled, and another attempt would not help.
     *
     * @param reason shown in logs and dead letters
     */
    record Fail(String reason) implements Verdict {
        /** Replaces null by an empty reason. */
        public Fail {
            reason = Objects.requireNonNullElse(reason, "");
        }
    }

    /** Returns {@link Done}. */
    static Verdict done() {
        return Judgement.DONE_VERDICT;
    }

    /** Returns {@link Retry} without a minimum delay. */
    static Verdict retry(String reason) {
        return new Retry(reason, Duration.ZERO);
    }

    /** Returns {@link Retry}. */
    static Verdict retry(String reason, Duration delay) {
        return new Retry(reason, delay);
    }

    /** Returns {@link Skip}. */
    static Verdict skip(String reason) {
        return new Skip(reason);
    }

    /** Returns {@link DeadLetter}. */
    static Verdict deadLetter(String reason) {
        return new DeadLetter(reason);
    }

    /** Returns {@link Fail}. */
    static Verdict fail(String reason) {
        return new Fail(reason);
    }

    /** Returns the same verdict for each of the messages, for a {@link BatchHandler}. */
    static List<Verdict> all(Collection<Message> messages, Verdict verdict) {
        return Collections.nCopies(messages.size(), verdict);
    }

    /** Returns an exception that carries this verdict, for code that can't return it. */
    default VerdictException asException() {
        return new VerdictException(this, null);
    }

    /** Returns an exception that carries this verdict and has a cause, which is logged. */
    default VerdictException asException(Throwable cause) {
        return new VerdictException(this, cause);
    }
}
