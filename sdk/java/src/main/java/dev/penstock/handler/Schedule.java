package dev.penstock.handler;

import com.google.protobuf.ByteString;
import dev.penstock.handler.Call.Attempt;
import dev.penstock.handler.Call.Deliveries;
import dev.penstock.handler.Call.Line;
import dev.penstock.handler.Call.State;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import penstock.handler.v1.HandlerOuterClass.Order;

/**
 * Decides which deliveries of a stream begin when. Its monitor guards all that changes; it is
 * held neither while code of the program runs nor while an answer is written. The monitor of
 * the answers is taken within it.
 */
final class Schedule {
    static final String UNSETTLED = "not attempted: an earlier message in order is unsettled";
    static final String EXPIRED = "not attempted: it waited in the handler for too long";
    static final String STOPPING = "not attempted: the handler stops";

    // Calls that take less time on average do not wait until the report that they begin is
    // written, once so many were measured.
    private static final long SHORT_CALL = 200_000;
    private static final int KNOWN_CALLS = 1000;
    /** The time, in milliseconds, before a message that no thread could be had for comes again. */
    private static final long NO_THREAD_DELAY = 1000;
    /** The time in which a handler should end once it is cancelled, in seconds. */
    private static final long MAX_LINGER = 10;

    /**
     * The time, in nanoseconds, that the runtime has to withdraw a call whose time is over: its
     * clock decides. Then the call is interrupted without that.
     */
    private static final long GRACE = 200_000_000;
    /** The time, in nanoseconds, that an interrupted call has to end before a stop leaves it. */
    private static final long MAX_END = 500_000_000;

    private final Order order;
    private final int slots;
    private final int batchSize;
    private final long timeout;
    private final long maxTimeout;
    private final long wait;
    private final Engine engine;
    private final Answers answers;
    private final Flow flow;
    private final Worker worker;

    private final Map<Long, Deliveries> batches = new LinkedHashMap<>();
    private final Map<Object, Line> lines = new HashMap<>();
    /** Lines that can begin. */
    private final LinkedHashSet<Line> ready = new LinkedHashSet<>();

    private final LinkedHashSet<Attempt> running = new LinkedHashSet<>();
    private int active;
    private int waiting;
    private boolean isOpen;
    private boolean isClosed;
    private boolean isDraining;
    private boolean isWinding;
    private long calls;
    private long average;
    private List<Runnable> events = new ArrayList<>();
    private ScheduledFuture<?> sweep;
    private long sweepAt;

    /** Completes when no call is left, or the time of those that are left is over. */
    final CompletableFuture<Void> quiet = new CompletableFuture<>();

    /** The limits of a stream, times in nanoseconds; 0 is no limit. */
    record Limits(Order order, long timeout, long maxTimeout, long maxWait) {}

    Schedule(Limits limits, Engine engine, Answers answers, Consumer<Throwable> onBroken) {
        order = limits.order();
        timeout = limits.timeout();
        maxTimeout = limits.maxTimeout();
        wait = limits.maxWait();
        slots = order == Order.ORDER_BATCH ? 1 : engine.concurrency();
        batchSize = engine.invoker().isBatch() ? engine.batchSize() : 1;
        flow = new Flow(saturated(slots, batchSize), engine.window(), wait);
        this.engine = engine;
        this.answers = answers;
        worker = new Worker(this, engine, answers, onBroken);
    }

    private static int saturated(int slots, int size) {
        return (int) Math.min(Integer.MAX_VALUE, (long) slots * size);
    }

    /** Takes a batch. */
    void add(long firstId, long beginByMs, List<Message> messages) {
        synchronized (this) {
            if (isClosed || messages.isEmpty() || batches.containsKey(firstId)) {
                return;
            }
            long now = System.nanoTime();
            long beginBy = beginByMs > 0 ? beginByMs : Long.MAX_VALUE;
            long left = Math.min(wait > 0 ? wait : Session.MAX_NANOS, Session.nanos(Math.max(0, beginBy - System.currentTimeMillis())));
            Deliveries batch = new Deliveries(firstId, beginBy, now + left);
            batch.open = batch.waiting = messages.size();
            batches.put(firstId, batch);
            flow.work(true, now);
            long id = firstId;
            for (Message message : messages) {
                Call call = new Call(this, batch, id++, message, lineOf(message), placeOf(message));
                message.attach(call);
                batch.calls.add(call);
                call.line.queue.add(call);
                waiting++;
                offer(call.line);
            }
            sweepBy(batch.expiry);
            pump();
        }
        runEvents(false);
    }

    private Line lineOf(Message message) {
        Object name = order == Order.ORDER_BATCH ? "" : message.keyBytes();
        return name == null ? new Line(null) : lines.computeIfAbsent(name, Line::new);
    }

    private record Place(String topic, int partition, ByteString key) {}

    private Object placeOf(Message message) {
        if (order == Order.ORDER_BATCH) {
            return "";
        }
        return order == Order.ORDER_KEY && message.keyBytes() != null
                ? new Place(message.topic(), message.partition(), message.keyBytes())
                : null;
    }

    /** Makes a line ready, if there is something to begin. */
    private void offer(Line line) {
        if (line.isBusy) {
            return;
        }
        if (!line.queue.isEmpty()) {
            ready.add(line);
            return;
        }
        ready.remove(line);
        if (line.name != null) {
            lines.remove(line.name, line);
        }
    }

    /** Begins attempts while there are some and they may run. */
    private void pump() {
        while (true) {
            Attempt attempt = next();
            if (attempt == null) {
                return;
            }
            try {
                engine.workers().execute(() -> worker.work(attempt));
            } catch (Throwable error) {
                // There is no memory for a thread, or the program's factory gives none.
                events.add(() -> engine.log().error("no thread to call the handler; the message comes again", error));
                Judgement released = Judgement.release("not attempted: the handler has no thread", NO_THREAD_DELAY);
                end(attempt, null, released, System.nanoTime());
            }
        }
    }

    /** Returns the next attempt that may run; null if there is none. */
    private Attempt next() {
        if (!isOpen || isClosed || running.size() >= slots) {
            return null;
        }
        List<Call> taken = new ArrayList<>(1);
        while (taken.size() < batchSize && !ready.isEmpty()) {
            Line line = ready.iterator().next();
            ready.remove(line);
            int most = order == Order.ORDER_KEY ? 1 : batchSize - taken.size();
            line.isBusy = takeOf(line, taken, most);
            offer(line);
        }
        if (taken.isEmpty()) {
            grant(System.nanoTime());
            return null;
        }
        Attempt attempt = new Attempt(taken);
        for (Call call : taken) {
            call.state = State.RUNNING;
            call.attempt = attempt;
        }
        running.add(attempt);
        attempt.isCareful = batchSize > 1 || calls < KNOWN_CALLS || average >= SHORT_CALL || attempt.first().attempt() > 1;
        return attempt;
    }

    /** Takes calls from the head of a line, and releases those that must not begin. */
    private boolean takeOf(Line line, List<Call> taken, int most) {
        int count = 0;
        while (count < most && !line.queue.isEmpty()) {
            Call call = line.queue.iterator().next();
            if (order == Order.ORDER_BATCH && !taken.isEmpty() && taken.get(0).batch != call.batch) {
                break;
            }
            String refusal = refusal(call);
            if (refusal != null) {
                release(call, refusal);
                continue;
            }
            unqueue(call);
            active++;
            taken.add(call);
            count++;
        }
        return count > 0;
    }

    private String refusal(Call call) {
        if (call.place != null && call.batch.stopped.contains(call.place)) {
            return UNSETTLED;
        }
        return System.currentTimeMillis() > call.batch.beginBy || System.nanoTime() - call.batch.expiry > 0 ? EXPIRED : null;
    }

    /** Starts the time of an attempt. Returns false if its calls are void. */
    synchronized boolean start(Attempt attempt, Thread thread) {
        if (attempt.voided == attempt.calls.size()) {
            return false;
        }
        attempt.hasBegun = true;
        attempt.began = System.nanoTime();
        attempt.thread = thread;
        if (timeout > 0) {
            attempt.hasDeadline = true;
            attempt.deadline = attempt.began + timeout;
            sweepBy(attempt.deadline + GRACE);
        }
        return true;
    }

    /** Ends the part of an attempt on its thread, which is interrupted no more. */
    synchronized void leave(Attempt attempt) {
        attempt.thread = null;
    }

    /** Notes the stage that an attempt waits for. Returns true if it is to be cancelled. */
    synchronized boolean await(Attempt attempt, CompletionStage<?> stage) {
        attempt.stage = stage;
        attempt.thread = null;
        return attempt.isEnding;
    }

    /**
     * Takes the judgements of an attempt; none if the handler was not called. Returns the next
     * attempt for this thread.
     */
    Attempt finish(Attempt attempt, List<Judgement> judged) {
        Attempt next;
        synchronized (this) {
            long now = System.nanoTime();
            if (judged != null) {
                calls++;
                average += (now - attempt.began - average) / 32;
                flow.finish(attempt.calls.size(), now);
            }
            end(attempt, judged, null, now);
            next = next();
            pump();
        }
        runEvents(true);
        return next;
    }

    /** Ends an attempt, with a judgement on each call, one on all, or none. */
    private void end(Attempt attempt, List<Judgement> judged, Judgement onAll, long now) {
        if (!running.remove(attempt)) {
            return;
        }
        attempt.thread = null;
        attempt.stage = null;
        if (attempt.linger != null) {
            attempt.linger.cancel(false);
        }
        active -= attempt.calls.size();
        boolean isBehind = false;
        for (int index = 0; index < attempt.calls.size(); index++) {
            Call call = attempt.calls.get(index);
            call.line.isBusy = false;
            Judgement judgement = call.isVoid ? null : judged != null ? judged.get(index) : onAll;
            // A handler of batches has continued behind a failure, or not; the message comes again.
            over(call, isBehind && judgement != null ? Judgement.retry(UNSETTLED) : judgement);
            isBehind |= order == Order.ORDER_BATCH && (judgement == null || !judgement.passes());
        }
        attempt.calls.forEach(call -> offer(call.line));
        grant(now);
    }

    /** Ends a call, with a judgement if the runtime wants one. */
    private void over(Call call, Judgement judged) {
        Deliveries batch = call.batch;
        call.state = State.OVER;
        if (call.place != null && (judged == null || !judged.passes())) {
            batch.stopped.add(call.place);
        }
        if (judged != null) {
            answers.settle(call.id, judged);
            if (engine.onSettled() != null) {
                events.add(() -> engine.log().guard("onSettled", () -> engine.onSettled().accept(call.message, judged.label())));
            }
        }
        flow.giveBack();
        batch.open--;
        if (batch.open == 0) {
            batches.remove(batch.firstId);
        }
        checkIdle();
    }

    private boolean checkIdle() {
        if ((isClosed || isDraining) && waiting + active == 0) {
            if (sweep != null) {
                sweep.cancel(false);
            }
            quiet.complete(null);
            return true;
        }
        return false;
    }

    private void unqueue(Call call) {
        call.line.queue.remove(call);
        waiting--;
        call.batch.waiting--;
    }

    /** Gives back a call that waits. */
    private void release(Call call, String reason) {
        unqueue(call);
        over(call, Judgement.release(reason, 0));
        offer(call.line);
    }

    private void grant(long now) {
        flow.work(waiting + active > 0, now);
        if (isOpen && !isClosed && !isDraining) {
            answers.grant(flow.grant());
        }
    }

    /** Lets calls begin, and grants the first credits. */
    void open() {
        synchronized (this) {
            isOpen = true;
            grant(System.nanoTime());
            pump();
        }
        runEvents(false);
    }

    /** Has the schedule look at its times at a moment, if it would not do so before. */
    private void sweepBy(long when) {
        if (sweep != null && !sweep.isDone() && sweepAt - when <= 0) {
            return;
        }
        if (sweep != null) {
            sweep.cancel(false);
        }
        sweepAt = when;
        // A little later: what is due is then over.
        long delay = Math.max(0, when - System.nanoTime()) + 1_000_000;
        sweep = engine.timer().schedule(this::sweep, delay, TimeUnit.NANOSECONDS);
    }

    /** Releases what waits for too long, and ends attempts whose time is over. */
    private void sweep() {
        synchronized (this) {
            long now = System.nanoTime();
            sweep = null;
            Long next = null;
            for (Deliveries batch : List.copyOf(batches.values())) {
                if (batch.waiting > 0 && now - batch.expiry > 0) {
                    releaseWaiting(batch, EXPIRED);
                } else if (batch.waiting > 0 && (next == null || next - batch.expiry > 0)) {
                    next = batch.expiry;
                }
            }
            for (Attempt attempt : running) {
                if (!attempt.hasDeadline || attempt.isEnding) {
                    continue;
                }
                long end = attempt.deadline + GRACE;
                if (now - end >= 0) {
                    attempt.isTimedOut = true;
                    interrupt(attempt);
                } else if (next == null || next - end > 0) {
                    next = end;
                }
            }
            if (next != null) {
                sweepBy(next);
            }
            grant(now);
            pump();
        }
        runEvents(false);
    }

    private void releaseWaiting(Deliveries batch, String reason) {
        for (Call call : batch.calls) {
            if (call.state == State.WAITING) {
                release(call, reason);
            }
        }
    }

    /** Ends what an attempt does: its thread is interrupted, or its stage cancelled. */
    private void interrupt(Attempt attempt) {
        if (attempt.isEnding) {
            return;
        }
        attempt.isEnding = true;
        if (attempt.thread != null) {
            attempt.thread.interrupt();
        } else if (attempt.stage != null) {
            CompletionStage<?> stage = attempt.stage;
            events.add(() -> worker.cancel(stage));
        }
    }

    /** Withdraws deliveries. A count that is out of range reaches all. */
    void cancel(long firstId, long count, boolean isTimedOut) {
        synchronized (this) {
            long end = count < 0 || firstId + count < firstId ? Long.MAX_VALUE : firstId + count;
            for (Deliveries batch : List.copyOf(batches.values())) {
                long from = Math.max(firstId, batch.firstId);
                long to = Math.min(end, batch.firstId + batch.calls.size());
                for (long id = from; id < to; id++) {
                    withdraw(batch.calls.get((int) (id - batch.firstId)), isTimedOut);
                }
            }
            grant(System.nanoTime());
            pump();
        }
        runEvents(false);
    }

    private void withdraw(Call call, boolean isTimedOut) {
        if (call.state == State.WAITING) {
            unqueue(call);
            over(call, null);
            offer(call.line);
        } else if (call.state == State.RUNNING && !call.isVoid) {
            call.isVoid = true;
            Attempt attempt = call.attempt;
            attempt.voided++;
            if (attempt.voided == attempt.calls.size()) {
                attempt.isTimedOut |= isTimedOut;
                interrupt(attempt);
                attempt.linger = engine.timer().schedule(() -> reportLinger(attempt), MAX_LINGER, TimeUnit.SECONDS);
            }
        }
    }

    private void reportLinger(Attempt attempt) {
        Throwable stack = null;
        synchronized (this) {
            if (!running.contains(attempt)) {
                return;
            }
            if (attempt.thread != null) {
                stack = new Throwable("where the handler is");
                stack.setStackTrace(attempt.thread.getStackTrace());
            }
        }
        engine.log().warn("the handler does not end although it is cancelled (" + attempt.first().position()
                + "); it holds one of the calls that can run at the same time", stack);
    }

    /** Releases what waits and begins nothing more. */
    void stop() {
        synchronized (this) {
            isClosed = true;
            List.copyOf(batches.values()).forEach(batch -> releaseWaiting(batch, STOPPING));
            wind();
        }
        runEvents(false);
    }

    /** Ends once what waits was handled. */
    synchronized void drain() {
        isDraining = true;
        wind();
    }

    /** Ends the schedule of a stream that is lost. */
    void abort() {
        synchronized (this) {
            isClosed = true;
        }
        cancel(0, -1, false);
        synchronized (this) {
            wind();
        }
    }

    private void wind() {
        if (!checkIdle() && !isWinding && !quiet.isDone()) {
            isWinding = true;
            windOn();
        }
    }

    /** The runtime has cancelled calls whose time is over: they are not waited for. */
    private void windOn() {
        Iterator<Attempt> attempts = running.iterator();
        long now = System.nanoTime();
        long left = waiting > 0 ? 1_000_000_000L : 0;
        while (attempts.hasNext()) {
            Attempt attempt = attempts.next();
            left = Math.max(left, attempt.hasDeadline ? attempt.deadline + GRACE + MAX_END - now : 1_000_000_000L);
        }
        if (left > 0) {
            engine.timer().schedule(this::windAgain, left + 1_000_000, TimeUnit.NANOSECONDS);
            return;
        }
        int count = active;
        engine.log().error(count + " calls did not end although their time is over", null);
        quiet.complete(null);
    }

    private synchronized void windAgain() {
        if (!quiet.isDone()) {
            windOn();
        }
    }

    /** Returns the number of calls that run. */
    synchronized int left() {
        return active;
    }

    synchronized boolean isEnding(Call call) {
        return call.isVoid || call.state != State.RUNNING || call.attempt.isEnding
                || call.attempt.hasDeadline && System.nanoTime() - call.attempt.deadline >= 0;
    }

    synchronized Optional<Duration> remaining(Call call) {
        if (isEnding(call)) {
            return Optional.of(Duration.ZERO);
        }
        return call.attempt.hasDeadline
                ? Optional.of(Duration.ofNanos(Math.max(0, call.attempt.deadline - System.nanoTime())))
                : Optional.empty();
    }

    /** Moves the deadline of a call's attempt, and reports that. Returns the time that is left. */
    synchronized Duration extend(Call call, Duration time) {
        if (isEnding(call)) {
            return Duration.ZERO;
        }
        Attempt attempt = call.attempt;
        if (!attempt.hasDeadline) {
            return time;
        }
        long now = System.nanoTime();
        long wanted = time.getSeconds() >= Session.MAX_NANOS / 1_000_000_000L ? Session.MAX_NANOS : time.toNanos();
        long most = Math.max(0, attempt.began + Math.max(timeout, maxTimeout) - now);
        long given = Math.min(wanted, most);
        if (now + given - attempt.deadline > 0) {
            attempt.deadline = now + given;
            answers.extend(call.id, TimeUnit.NANOSECONDS.toMillis(given));
        }
        return Duration.ofNanos(attempt.deadline - now);
    }

    /** Calls hooks and stages, without the monitor. A worker does so itself. */
    private void runEvents(boolean isWorker) {
        List<Runnable> some;
        synchronized (this) {
            if (events.isEmpty()) {
                return;
            }
            some = events;
            events = new ArrayList<>();
        }
        if (isWorker) {
            some.forEach(Runnable::run);
        } else {
            engine.internals().execute(() -> some.forEach(Runnable::run));
        }
    }
}
