package dev.penstock.handler.testing;

import com.google.protobuf.InvalidProtocolBufferException;
import dev.penstock.handler.Handler;
import dev.penstock.handler.HandlerServer;
import dev.penstock.handler.HandlerStream;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import penstock.handler.v1.HandlerOuterClass.Batch;
import penstock.handler.v1.HandlerOuterClass.Cancel;
import penstock.handler.v1.HandlerOuterClass.Extension;
import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.FromRuntime;
import penstock.handler.v1.HandlerOuterClass.Hello;
import penstock.handler.v1.HandlerOuterClass.Order;
import penstock.handler.v1.HandlerOuterClass.Range;
import penstock.handler.v1.HandlerOuterClass.Verdict;
import penstock.handler.v1.HandlerOuterClass.Welcome;

/**
 * A runtime in memory, with a stream to a handler. It reports answers of the handler that
 * break the contract. Each wait ends with an error after ten seconds.
 *
 * <pre>{@code
 * TestVerdict verdict = FakeRuntime.handle(handler, TestMessage.of("{\"amount\": -1}"));
 * assertEquals(TestVerdict.Outcome.DEAD_LETTER, verdict.outcome());
 * }</pre>
 */
public final class FakeRuntime implements AutoCloseable {
    private static final long MAX_WAIT = 10_000;

    private final HandlerServer server;
    private final Config config;
    // The monitor of this object guards all that follows.
    private HandlerStream stream;
    private int connection;
    private Map<Long, Sent> sent = new HashMap<>();
    private long nextId = 1;
    private Welcome welcome;
    private int credits;
    private boolean hasEnded;
    private String error;
    private final List<String> breaches = new ArrayList<>();

    /** The order of a consumer, as its mode decides. */
    public enum Mode {
        /** Mode Fast: any order. */
        FAST(0),
        /** Mode InOrder: one after the other. */
        IN_ORDER(1),
        /** Mode KeyOrdered: those of a key one after the other. */
        KEY_ORDERED(2),
        /** An order that this SDK does not know. */
        UNKNOWN(77);

        private final int order;

        Mode(int order) {
            this.order = order;
        }
    }

    /** Why the runtime withdraws deliveries. */
    public enum Reason {
        /** The partition was assigned to another consumer. */
        REVOKED(Cancel.Reason.REASON_REVOKED),
        /** The attempt took longer than its timeout. */
        TIMED_OUT(Cancel.Reason.REASON_TIMED_OUT),
        /** The delivery did not begin in time. */
        NOT_BEGUN(Cancel.Reason.REASON_NOT_BEGUN);

        private final Cancel.Reason reason;

        Reason(Cancel.Reason reason) {
            this.reason = reason;
        }
    }

    /**
     * The limits of the consumer.
     *
     * @param mode the order
     * @param timeout the time of an attempt
     * @param maxTimeout the time of an attempt with its extensions
     * @param waitTime the time in which a message must begin
     */
    public record Config(Mode mode, Duration timeout, Duration maxTimeout, Duration waitTime) {
        /** Mode Fast, ten seconds for an attempt, a minute to wait. */
        public static final Config DEFAULT = new Config(Mode.FAST, Duration.ofSeconds(10), Duration.ofSeconds(10), Duration.ofMinutes(1));

        /** Returns a copy with another mode. */
        public Config withMode(Mode other) {
            return new Config(other, timeout, maxTimeout, waitTime);
        }

        /** Returns a copy with another time for an attempt, also with its extensions. */
        public Config withTimeout(Duration other) {
            return new Config(mode, other, other, waitTime);
        }

        /** Returns a copy with another time for an attempt with its extensions. */
        public Config withMaxTimeout(Duration other) {
            return new Config(mode, timeout, other, waitTime);
        }

        /** Returns a copy with another time to wait. */
        public Config withWaitTime(Duration other) {
            return new Config(mode, timeout, maxTimeout, other);
        }
    }

    /** A message that was sent. The runtime's monitor guards it. */
    public final class Sent {
        private final long id;
        private final TestMessage message;
        private final List<Duration> extensions = new ArrayList<>();
        private boolean hasBegun;
        private TestVerdict verdict;

        private Sent(long id, TestMessage message) {
            this.id = id;
            this.message = message;
        }

        /** Returns the message. */
        public TestMessage message() {
            return message;
        }

        /** Waits for the verdict, and returns it. */
        public TestVerdict verdict() {
            until("the verdict on " + message.offset(), this::isSettled);
            return verdict;
        }

        /** Waits until the handler has begun the message or settled it. */
        public Sent begun() {
            until("the beginning of " + message.offset(), () -> hasBegun || verdict != null);
            return this;
        }

        /** Returns true if the handler has reported that it begins the message. */
        public boolean hasBegun() {
            synchronized (FakeRuntime.this) {
                return hasBegun;
            }
        }

        /** Returns true if there is a verdict. */
        public boolean isSettled() {
            synchronized (FakeRuntime.this) {
                return verdict != null;
            }
        }

        /** Returns the extensions that the handler has sent. */
        public List<Duration> extensions() {
            synchronized (FakeRuntime.this) {
                return List.copyOf(extensions);
            }
        }
    }

    /** Opens a stream to a handler, with defaults. */
    public FakeRuntime(Handler handler) {
        this(HandlerServer.of(handler), Config.DEFAULT);
    }

    /** Opens a stream to a handler with options. */
    public FakeRuntime(HandlerServer.Builder<?> options, Config config) {
        server = options.build();
        this.config = config;
        connect();
    }

    /** Has a handler process one message, and returns its verdict. */
    public static TestVerdict handle(Handler handler, TestMessage message) {
        try (FakeRuntime runtime = new FakeRuntime(handler)) {
            return runtime.handle(message);
        }
    }

    /** Has the handler process one message, and returns its verdict. */
    public TestVerdict handle(TestMessage message) {
        return send(message).get(0).verdict();
    }

    private void connect() {
        HandlerStream opened;
        synchronized (this) {
            int number = ++connection;
            sent = new HashMap<>();
            nextId = 1;
            welcome = null;
            credits = 0;
            hasEnded = false;
            error = null;
            stream = opened = server.accept(new Side(number));
        }
        opened.receive(FromRuntime.newBuilder()
                .setHello(Hello.newBuilder()
                        .setVersion(2)
                        .setConsumer("kafka_consumer.test")
                        .setGroup("test")
                        .setOrderValue(config.mode.order)
                        .setTimeoutMs(config.timeout.toMillis())
                        .setMaxTimeoutMs(config.maxTimeout.toMillis())
                        .setWaitMs(config.waitTime.toMillis()))
                .build());
    }

    private final class Side implements HandlerStream.Peer {
        private final int number;

        Side(int number) {
            this.number = number;
        }

        @Override
        public void send(FromHandler answer) throws IOException {
            FromHandler copied;
            try {
                copied = FromHandler.parseFrom(answer.toByteArray());
            } catch (InvalidProtocolBufferException broken) {
                throw new IOException(broken);
            }
            synchronized (FakeRuntime.this) {
                if (number != connection) {
                    throw new IOException("the stream is lost");
                }
                take(copied);
                FakeRuntime.this.notifyAll();
            }
        }

        @Override
        public void end(String text) {
            synchronized (FakeRuntime.this) {
                if (number == connection) {
                    hasEnded = true;
                    error = text;
                    FakeRuntime.this.notifyAll();
                }
            }
        }
    }

    /** Loses the stream, and opens another one while calls of the first may run. */
    public void reconnect() {
        current().lose();
        connect();
    }

    /** Loses the stream. */
    public void lose() {
        synchronized (this) {
            connection++;
        }
        current().lose();
    }

    /** Ends the runtime's side of the stream: it sends nothing more. */
    public void halfClose() {
        current().drain();
    }

    private synchronized HandlerStream current() {
        return stream;
    }

    /** Sends messages as one batch, whatever the credits. */
    public List<Sent> send(TestMessage... messages) {
        return sendBy(System.currentTimeMillis() + config.waitTime.toMillis(), messages);
    }

    /** Sends messages with the last moment at which they may begin, in milliseconds since 1970. */
    public List<Sent> sendBy(long beginByMs, TestMessage... messages) {
        List<Sent> all = new ArrayList<>();
        Batch.Builder batch = Batch.newBuilder().setBeginByMs(beginByMs);
        HandlerStream to;
        synchronized (this) {
            batch.setFirstId(nextId);
            for (TestMessage message : messages) {
                Sent one = new Sent(nextId++, message);
                sent.put(one.id, one);
                all.add(one);
                batch.addRuns(message.encode());
            }
            credits -= messages.length;
            to = stream;
        }
        to.receive(FromRuntime.newBuilder().setBatch(batch).build());
        return all;
    }

    /** Sends messages in batches for which there are credits. */
    public List<Sent> feed(TestMessage... messages) {
        List<Sent> all = new ArrayList<>();
        while (all.size() < messages.length) {
            until("credits", () -> credits > 0);
            int count = Math.min(credits(), messages.length - all.size());
            TestMessage[] some = java.util.Arrays.copyOfRange(messages, all.size(), all.size() + count);
            all.addAll(send(some));
        }
        return all;
    }

    /** Withdraws deliveries. */
    public void cancel(Reason reason, Sent... deliveries) {
        Cancel.Builder cancel = Cancel.newBuilder().setReason(reason.reason);
        for (Sent one : deliveries) {
            cancel.addDeliveries(Range.newBuilder().setFirstId(one.id).setCount(1));
        }
        current().receive(FromRuntime.newBuilder().setCancel(cancel).build());
    }

    /** Returns the number of messages that the handler takes now. */
    public synchronized int credits() {
        return credits;
    }

    /** Waits for the handler's description of itself, and returns it. */
    public Welcome welcome() {
        until("welcome", () -> welcome != null);
        return welcome;
    }

    /** Begins the stop of the handler, as SIGTERM does. */
    public void stop() {
        server.stop();
    }

    /**
     * Waits until the handler has ended the stream.
     *
     * @return why it has; null if it ended in order
     */
    public String ended() {
        until("the end of the stream", () -> hasEnded);
        return error;
    }

    /** Stops the handler, waits for the end of the stream, and reports breaches of the contract. */
    @Override
    public void close() {
        server.stop();
        try {
            server.awaitStopped();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        check();
    }

    /** Waits until a condition holds, which is checked at each answer and each ten milliseconds. */
    public synchronized void until(String what, BooleanSupplier condition) {
        long end = System.nanoTime() + MAX_WAIT * 1_000_000;
        while (!condition.getAsBoolean()) {
            long left = (end - System.nanoTime()) / 1_000_000;
            if (left <= 0) {
                throw new AssertionError("waited for " + what, new TimeoutException(MAX_WAIT + " ms"));
            }
            try {
                wait(Math.min(left, 10));
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
                throw new AssertionError("interrupted while waiting for " + what, interrupted);
            }
        }
        check();
    }

    private synchronized void check() {
        if (!breaches.isEmpty()) {
            throw new AssertionError("the handler's answers break the contract: " + String.join("; ", breaches));
        }
    }

    private void take(FromHandler answer) {
        if (answer.hasWelcome()) {
            expect(welcome == null, "a second welcome");
            welcome = answer.getWelcome();
        }
        expect(welcome != null, "an answer before welcome");
        for (Range range : answer.getBegunList()) {
            each(range.getFirstId(), range.getCount(), one -> {
                expect(!one.hasBegun && one.verdict == null, one.id + " begins twice");
                one.hasBegun = true;
            });
        }
        for (Extension extension : answer.getExtensionsList()) {
            each(extension.getDeliveries().getFirstId(), extension.getDeliveries().getCount(), one -> {
                expect(one.hasBegun, "an extension of " + one.id + ", which has not begun");
                one.extensions.add(Duration.ofMillis(extension.getTimeMs()));
            });
        }
        for (Verdict verdict : answer.getVerdictsList()) {
            each(verdict.getFirstId(), Math.max(1, verdict.getCount()), one -> settle(one, TestVerdict.decode(verdict)));
        }
        credits += answer.getCredits();
    }

    private void settle(Sent one, TestVerdict verdict) {
        expect(one.verdict == null, "a second verdict on " + one.id);
        boolean isRelease = verdict.outcome() == TestVerdict.Outcome.RELEASE;
        expect(!isRelease || !one.hasBegun, one.id + " has begun and is released");
        one.verdict = verdict;
    }

    private void each(long firstId, long count, Consumer<Sent> take) {
        for (long id = firstId; id < firstId + count; id++) {
            Sent one = sent.get(id);
            expect(one != null, "an answer to " + id + ", which was not sent");
            if (one != null) {
                take.accept(one);
            }
        }
    }

    private void expect(boolean is, String breach) {
        if (!is) {
            breaches.add(breach);
        }
    }
}
