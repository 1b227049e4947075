package dev.penstock.handler;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.atomic.AtomicBoolean;

/** One delivery. The schedule's monitor guards the fields that change. */
final class Call {
    enum State {
        WAITING,
        RUNNING,
        OVER
    }

    final Schedule schedule;
    final Deliveries batch;
    final long id;
    final Message message;
    /** Its position in the order of its batch; null if it has none. */
    final Object place;

    final Line line;
    State state = State.WAITING;
    /** The runtime has withdrawn it while it ran: a verdict has no effect. */
    boolean isVoid;
    Attempt attempt;

    Call(Schedule schedule, Deliveries batch, long id, Message message, Line line, Object place) {
        this.schedule = schedule;
        this.batch = batch;
        this.id = id;
        this.message = message;
        this.line = line;
        this.place = place;
    }

    boolean isEnding() {
        return schedule.isEnding(this);
    }

    Optional<Duration> remaining() {
        return schedule.remaining(this);
    }

    Duration extend(Duration time) {
        return schedule.extend(this, time);
    }

    /** A batch as the runtime sent it. */
    static final class Deliveries {
        final long firstId;
        /** In milliseconds since 1970. */
        final long beginBy;
        /** In nanoseconds; the clock may go back, this does not. */
        final long expiry;

        final List<Call> calls = new ArrayList<>();
        /** Places of which nothing more may begin. */
        final Set<Object> stopped = new HashSet<>(0);

        int open;
        int waiting;

        Deliveries(long firstId, long beginBy, long expiry) {
            this.firstId = firstId;
            this.beginBy = beginBy;
            this.expiry = expiry;
        }
    }

    /** Messages that are handled one after the other. */
    static final class Line {
        /** Null for a message without a key, which has a line for itself. */
        final Object name;

        final LinkedHashSet<Call> queue = new LinkedHashSet<>(2);
        boolean isBusy;

        Line(Object name) {
            this.name = name;
        }
    }

    /** One call of the handler, with one message or several. */
    static final class Attempt {
        final List<Call> calls;
        /** True once its verdicts were taken; a stage may complete twice. */
        final AtomicBoolean isJudged = new AtomicBoolean();

        /**
         * It does not begin before the report of that is written. If the handler ends the
         * process, the runtime then knows which messages to blame. Very short calls save that,
         * unless the message has failed before.
         */
        boolean isCareful;

        boolean hasBegun;
        long began;
        boolean hasDeadline;
        long deadline;
        /** Its time is over, or all its calls are void. */
        boolean isEnding;

        boolean isTimedOut;
        int voided;
        Thread thread;
        CompletionStage<?> stage;
        ScheduledFuture<?> linger;

        Attempt(List<Call> calls) {
            this.calls = calls;
        }

        Message first() {
            return calls.get(0).message;
        }

        List<Message> messages() {
            return calls.stream().map(call -> call.message).toList();
        }
    }
}
