package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.penstock.handler.testing.FakeRuntime;
import dev.penstock.handler.testing.FakeRuntime.Config;
import dev.penstock.handler.testing.FakeRuntime.Mode;
import dev.penstock.handler.testing.FakeRuntime.Reason;
import dev.penstock.handler.testing.TestMessage;
import dev.penstock.handler.testing.TestVerdict;
import dev.penstock.handler.testing.TestVerdict.Outcome;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Whatever a handler does is a verdict, and stops no other message. */
@SuppressWarnings({"removal", "deprecation", "unchecked", "rawtypes"})
class HostileTest {
    /** What a handler does, the verdict, and what the reason and the log contain. */
    record Row(String name, HandlerServer.Builder<?> options, Outcome outcome, String reason, String log) {
        @Override
        public String toString() {
            return name;
        }
    }

    private static final String STACK = "HostileTest.java";

    private static HandlerServer.Builder<?> sync(Handler hostile) {
        return HandlerServer.of(message -> isHostile(message) ? hostile.handle(message) : hospitable());
    }

    /** The next message gets its thread as if nothing had happened. */
    private static Verdict hospitable() {
        Thread thread = Thread.currentThread();
        assertEquals(false, thread.isInterrupted());
        assertTrue(thread.getName().startsWith("penstock-handler-"), thread.getName());
        assertTrue(thread.getContextClassLoader() != null);
        return Verdict.done();
    }

    private static HandlerServer.Builder<?> async(AsyncHandler hostile) {
        return HandlerServer.ofAsync(message ->
                isHostile(message) ? hostile.handle(message) : CompletableFuture.completedStage(Verdict.done()));
    }

    private static HandlerServer.Builder<?> batch(BatchHandler hostile) {
        return HandlerServer.ofBatches(messages ->
                isHostile(messages.get(0)) ? hostile.handle(messages) : Verdict.all(messages, Verdict.done())).batchSize(1);
    }

    private static boolean isHostile(Message message) {
        return "hostile".equals(message.keyText());
    }

    /** An exception whose methods throw. */
    static final class Unspeakable extends RuntimeException {
        private static final long serialVersionUID = 1;

        @Override
        public String getMessage() {
            throw new IllegalStateException("no message");
        }

        @Override
        public Throwable getCause() {
            throw new StackOverflowError();
        }
    }

    /** An exception whose text is null. */
    static final class Textless extends Exception {
        private static final long serialVersionUID = 1;

        @Override
        public String toString() {
            return null;
        }
    }

    /** A class that can't be initialised. */
    static final class Broken {
        static final int VALUE = Integer.parseInt("broken");

        private Broken() {}
    }

    private static int recurse(int depth) {
        return recurse(depth + 1) + recurse(depth + 2);
    }

    private static <T extends Throwable> void sneak(Throwable error) throws T {
        throw (T) error;
    }

    private static Throwable circle() {
        Exception first = new Exception("first");
        first.initCause(new Exception("second", first));
        return first;
    }

    /** A stage that does what its methods are asked. */
    private abstract static class OddStage extends CompletableFuture<Verdict> {}

    static List<Row> rows() {
        List<Row> rows = new ArrayList<>();
        String retries = "java.lang.IllegalStateException: busy";
        rows.add(new Row("it returns done", sync(message -> Verdict.done()), Outcome.DONE, "", ""));
        rows.add(new Row("it returns a verdict", sync(message -> Verdict.deadLetter("negative")), Outcome.DEAD_LETTER, "negative", "negative"));
        rows.add(new Row("it throws a verdict", sync(message -> { throw Verdict.skip("old").asException(); }), Outcome.SKIP, "old", ""));
        rows.add(new Row("its verdict is a cause", sync(message -> { throw new IOException("order 7", Verdict.fail("no amount").asException()); }), Outcome.FAIL, "java.io.IOException: order 7", STACK));
        rows.add(new Row("it throws done", sync(message -> { throw Verdict.done().asException(); }), Outcome.RETRY, "VerdictException", ""));
        rows.add(new Row("it throws an unchecked exception", sync(message -> { throw new IllegalStateException("busy"); }), Outcome.RETRY, retries, STACK));
        rows.add(new Row("it throws a checked exception", sync(message -> { throw new IOException("busy"); }), Outcome.RETRY, "java.io.IOException: busy", STACK));
        rows.add(new Row("it throws a checked exception as an unchecked one", sync(message -> { HostileTest.<RuntimeException>sneak(new Exception("sneaky")); return null; }), Outcome.RETRY, "java.lang.Exception: sneaky", STACK));
        rows.add(new Row("it throws null", sync(message -> { throw null; }), Outcome.RETRY, "java.lang.NullPointerException", STACK));
        rows.add(new Row("it throws InterruptedException", sync(message -> { throw new InterruptedException("by hand"); }), Outcome.RETRY, "by hand", STACK));
        rows.add(new Row("it interrupts its thread", sync(message -> { Thread.currentThread().interrupt(); Thread.sleep(1); return Verdict.done(); }), Outcome.RETRY, "InterruptedException", STACK));
        rows.add(new Row("it leaves its thread interrupted", sync(message -> { Thread.currentThread().interrupt(); return Verdict.done(); }), Outcome.DONE, "", ""));
        rows.add(new Row("it changes its thread", sync(message -> { Thread.currentThread().setName("mine"); Thread.currentThread().setContextClassLoader(null); return Verdict.done(); }), Outcome.DONE, "", ""));
        rows.add(new Row("it throws OutOfMemoryError", sync(message -> { throw new OutOfMemoryError("heap"); }), Outcome.RETRY, "java.lang.OutOfMemoryError: heap", STACK));
        rows.add(new Row("it asks for too much memory", sync(message -> { Object all = new long[Integer.MAX_VALUE]; return all == null ? null : Verdict.done(); }), Outcome.RETRY, "java.lang.OutOfMemoryError", "OutOfMemoryError"));
        rows.add(new Row("it recurses without end", sync(message -> { recurse(0); return Verdict.done(); }), Outcome.RETRY, "java.lang.StackOverflowError", STACK));
        rows.add(new Row("it misses a class", sync(message -> { throw new NoClassDefFoundError("Missing"); }), Outcome.RETRY, "java.lang.NoClassDefFoundError: Missing", STACK));
        rows.add(new Row("its class can't be initialised", sync(message -> Verdict.skip("" + Broken.VALUE)), Outcome.RETRY, "java.lang.", STACK));
        rows.add(new Row("its assertion fails", sync(message -> { throw new AssertionError("no"); }), Outcome.RETRY, "java.lang.AssertionError: no", STACK));
        rows.add(new Row("it stops its thread", sync(message -> { Thread.currentThread().stop(); return Verdict.done(); }), Outcome.RETRY, "java.lang.ThreadDeath", STACK));
        rows.add(new Row("its exception throws", sync(message -> { throw new Unspeakable(); }), Outcome.RETRY, "Unspeakable, whose methods throw java.lang.IllegalStateException", "Unspeakable, whose methods throw"));
        rows.add(new Row("its exception has no text", sync(message -> { throw new Textless(); }), Outcome.RETRY, "null", STACK));
        rows.add(new Row("its causes are a circle", sync(message -> { HostileTest.<RuntimeException>sneak(circle()); return null; }), Outcome.RETRY, "first", STACK));
        rows.add(new Row("it returns null", sync(message -> null), Outcome.RETRY, "the handler returned null; it must be a Verdict", "returned null"));
        rows.add(new Row("it returns another object", sync(message -> (Verdict) foreign()), Outcome.RETRY, "ClassCastException", STACK));
        rows.add(new Row("its reason is huge", sync(message -> Verdict.retry("a".repeat(4 << 20))), Outcome.RETRY, "aaa…", "aaa"));
        rows.add(new Row("its reason is null", sync(message -> Verdict.fail(null)), Outcome.FAIL, "", "fail: "));
        rows.add(new Row("its reason is half a character", sync(message -> Verdict.fail("a\ud800b")), Outcome.FAIL, "a?b", "a?b"));
        rows.add(new Row("its delay is endless", sync(message -> Verdict.retry("later", Duration.ofSeconds(Long.MAX_VALUE))), Outcome.RETRY, "later", "later"));
        rows.add(new Row("its delay is negative", sync(message -> Verdict.retry("later", Duration.ofSeconds(-1))), Outcome.RETRY, "the delay of a retry is PT-1S; it must be at least 0", STACK));
        rows.add(new Row("its topic is no topic", sync(message -> { ignore(() -> message.produce(ProducedRecord.of("a b", "x"))); return Verdict.done(); }), Outcome.FAIL, "a b is no name of a topic", "a b is no name"));
        rows.add(new Row("its record is null", sync(message -> { ignore(() -> message.produce(null)); return Verdict.done(); }), Outcome.FAIL, "the record is null", "the record is null"));
        rows.add(new Row("its record has a null header", sync(message -> { ignore(() -> message.produce(new ProducedRecord("a", null, null, null, Arrays.asList((Header) null), null))); return Verdict.done(); }), Outcome.FAIL, "a header of the record is null", "header"));
        rows.add(new Row("it floods produce", sync(message -> { for (int i = 0; i < 20_000; i++) { ignore(() -> message.produce(ProducedRecord.of("a", new byte[1024]))); } return Verdict.done(); }), Outcome.FAIL, "the records of one message exceed 15 MiB", "15 MiB"));
        rows.add(new Row("it changes its message", sync(message -> { Arrays.fill(message.key(), (byte) 0); Arrays.fill(message.value(), (byte) 0); return Verdict.done(); }), Outcome.DONE, "", ""));
        rows.add(new Row("it keeps its message", sync(message -> { new Thread(() -> ignore(() -> message.extend(Duration.ofHours(1)))).start(); return Verdict.done(); }), Outcome.DONE, "", ""));
        rows.add(new Row("it blocks until it is interrupted", sync(message -> { new CountDownLatch(1).await(); return Verdict.done(); }), Outcome.RETRY, "the time of the attempt is over: java.lang.InterruptedException", STACK));
        rows.add(new Row("it extends without end", sync(message -> { while (!message.extend(Duration.ofHours(1)).isZero()) { Thread.onSpinWait(); } return Verdict.retry("over"); }), Outcome.RETRY, "over", "over"));
        rows.addAll(asyncRows());
        rows.addAll(batchRows());
        return rows;
    }

    private static List<Row> asyncRows() {
        List<Row> rows = new ArrayList<>();
        rows.add(new Row("async: it is done", async(message -> CompletableFuture.completedFuture(Verdict.done())), Outcome.DONE, "", ""));
        rows.add(new Row("async: it is done later", async(message -> CompletableFuture.supplyAsync(Verdict::done)), Outcome.DONE, "", ""));
        rows.add(new Row("async: it throws", async(message -> { throw new IOException("busy"); }), Outcome.RETRY, "java.io.IOException: busy", STACK));
        rows.add(new Row("async: it fails", async(message -> CompletableFuture.failedFuture(new IOException("busy"))), Outcome.RETRY, "java.io.IOException: busy", STACK));
        rows.add(new Row("async: it fails later", async(message -> CompletableFuture.supplyAsync(() -> { throw new IllegalStateException("busy"); })), Outcome.RETRY, "java.lang.IllegalStateException: busy", STACK));
        rows.add(new Row("async: it fails with a verdict", async(message -> CompletableFuture.supplyAsync(() -> { throw Verdict.skip("old").asException(); })), Outcome.SKIP, "old", ""));
        rows.add(new Row("async: its failure has no cause", async(message -> CompletableFuture.failedFuture(new CompletionException("bare", null))), Outcome.RETRY, "bare", STACK));
        rows.add(new Row("async: an error on a pool", async(message -> CompletableFuture.supplyAsync(() -> { throw new StackOverflowError(); })), Outcome.RETRY, "StackOverflowError", STACK));
        rows.add(new Row("async: it is cancelled", async(message -> { CompletableFuture<Verdict> stage = new CompletableFuture<>(); stage.cancel(true); return stage; }), Outcome.RETRY, "CancellationException", STACK));
        rows.add(new Row("async: it returns no stage", async(message -> null), Outcome.RETRY, "the handler returned null", "returned null"));
        rows.add(new Row("async: it completes with null", async(message -> CompletableFuture.completedFuture(null)), Outcome.RETRY, "the handler returned null", "returned null"));
        rows.add(new Row("async: it completes with another object", async(message -> (CompletionStage) CompletableFuture.completedFuture("done")), Outcome.RETRY, "the handler returned an object of java.lang.String; it must be a Verdict", "java.lang.String"));
        rows.add(new Row("async: its stage throws", async(message -> new OddStage() {
            @Override
            public CompletableFuture<Verdict> whenComplete(java.util.function.BiConsumer<? super Verdict, ? super Throwable> action) {
                throw new IllegalStateException("odd");
            }
        }), Outcome.RETRY, "odd", STACK));
        rows.add(new Row("async: its stage completes twice", async(message -> new OddStage() {
            @Override
            public CompletableFuture<Verdict> whenComplete(java.util.function.BiConsumer<? super Verdict, ? super Throwable> action) {
                action.accept(Verdict.skip("first"), null);
                action.accept(Verdict.done(), null);
                return this;
            }
        }), Outcome.SKIP, "first", ""));
        rows.add(new Row("async: it never ends", async(message -> new CompletableFuture<>()), Outcome.RETRY, "the time of the attempt is over: java.util.concurrent.CancellationException", "CancellationException"));
        rows.add(new Row("async: it blocks before it returns", async(message -> { new CountDownLatch(1).await(); return null; }), Outcome.RETRY, "InterruptedException", STACK));
        return rows;
    }

    private static List<Row> batchRows() {
        List<Row> rows = new ArrayList<>();
        rows.add(new Row("batch: all are done", batch(messages -> Verdict.all(messages, Verdict.done())), Outcome.DONE, "", ""));
        rows.add(new Row("batch: it throws", batch(messages -> { throw new IOException("busy"); }), Outcome.RETRY, "java.io.IOException: busy", STACK));
        rows.add(new Row("batch: it returns null", batch(messages -> null), Outcome.RETRY, "the handler returned null; it must return a list of verdicts", "null"));
        rows.add(new Row("batch: too few verdicts", batch(messages -> List.of()), Outcome.RETRY, "the handler returned 0 verdicts on 1 messages", "0 verdicts"));
        rows.add(new Row("batch: too many verdicts", batch(messages -> List.of(Verdict.done(), Verdict.done())), Outcome.RETRY, "the handler returned 2 verdicts on 1 messages", "2 verdicts"));
        rows.add(new Row("batch: a verdict is null", batch(messages -> Arrays.asList((Verdict) null)), Outcome.RETRY, "verdict 0 of the handler's list is null", "null"));
        rows.add(new Row("batch: a verdict is another object", batch(messages -> (List) List.of("done")), Outcome.RETRY, "verdict 0 of the handler's list is an object of java.lang.String", "String"));
        rows.add(new Row("batch: its list throws", batch(messages -> new java.util.AbstractList<Verdict>() {
            @Override
            public Verdict get(int index) {
                throw new IllegalStateException("odd");
            }

            @Override
            public int size() {
                return 1;
            }
        }), Outcome.RETRY, "odd", STACK));
        rows.add(new Row("batch: it changes its list of messages", batch(messages -> { messages.clear(); return List.of(); }), Outcome.RETRY, "java.lang.UnsupportedOperationException", "HostileTest"));
        return rows;
    }

    private static Object foreign() {
        return "done";
    }

    private static void ignore(Runnable call) {
        try {
            call.run();
        } catch (RuntimeException ignored) {
            // As a careless handler does.
        }
    }

    static Stream<Arguments> table() {
        return Stream.of(Mode.FAST, Mode.KEY_ORDERED, Mode.IN_ORDER)
                .flatMap(mode -> rows().stream().map(row -> Arguments.of(row, mode)));
    }

    @ParameterizedTest(name = "{0}, {1}")
    @MethodSource("table")
    void whateverAHandlerDoesIsAVerdict(Row row, Mode mode) {
        CapturedLog log = new CapturedLog();
        // With one call at a time, a lane that is lost is noticed.
        HandlerServer.Builder<?> options = row.options.concurrency(1).logger(log);
        Config config = Config.DEFAULT.withMode(mode).withTimeout(Duration.ofMillis(200));
        try (FakeRuntime runtime = new FakeRuntime(options, config)) {
            for (int round = 0; round < 2; round++) {
                // The second one waits for the thread of the first.
                List<FakeRuntime.Sent> sent = runtime.send(TestMessage.of("x").withKey("hostile"), TestMessage.of("y").withKey("other"));
                TestVerdict verdict = sent.get(0).verdict();
                boolean isReleased = mode == Mode.IN_ORDER && row.outcome != Outcome.DONE && row.outcome != Outcome.SKIP;
                assertEquals(isReleased ? Outcome.RELEASE : Outcome.DONE, sent.get(1).verdict().outcome());
                assertEquals(row.outcome, verdict.outcome(), verdict.reason());
                assertTrue(verdict.reason().contains(row.reason), verdict.reason());
                assertTrue(verdict.reason().length() < 20_000);
                assertEquals(List.of(), verdict.produced());
                assertEquals(Outcome.DONE, runtime.handle(TestMessage.of("y").withKey("other")).outcome());
            }
        }
        assertTrue(log.text().contains(row.log), log.text());
    }

    @Test
    void aThreadThatAnotherStopsIsAVerdict() throws Exception {
        CompletableFuture<Thread> thread = new CompletableFuture<>();
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 1, message -> {
            if (message.text().equals("hostile")) {
                thread.complete(Thread.currentThread());
                new CountDownLatch(1).await();
            }
            return Verdict.done();
        })) {
            FakeRuntime.Sent sent = runtime.send(TestMessage.of("hostile")).get(0);
            thread.get().stop();
            assertEquals("java.lang.ThreadDeath", sent.verdict().reason());
            assertEquals(Outcome.DONE, runtime.handle(TestMessage.of("")).outcome());
        }
    }

    @Test
    void aFactoryWithoutThreadsReleasesTheMessages() {
        HandlerServer.Builder<?> options = HandlerServer.of(message -> Verdict.done()).threads(task -> {
            throw new OutOfMemoryError("unable to create native thread");
        });
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, options)) {
            TestVerdict verdict = runtime.handle(TestMessage.of(""));
            assertEquals(Outcome.RELEASE, verdict.outcome());
            assertEquals(Duration.ofSeconds(1), verdict.delay());
        }
    }

    @Test
    void aCallThatIgnoresItsEndHoldsItsKey() throws Exception {
        CountDownLatch hold = new CountDownLatch(1);
        CountDownLatch ignored = new CountDownLatch(1);
        CountDownLatch atWork = new CountDownLatch(1);
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 2, message -> {
            if (message.text().equals("0")) {
                atWork.countDown();
            }
            while (message.text().equals("0") && hold.getCount() > 0) {
                try {
                    hold.await();
                } catch (InterruptedException again) {
                    ignored.countDown();
                }
            }
            return Verdict.done();
        })) {
            List<FakeRuntime.Sent> sent = runtime.send(Tests.keyed("a", "a", "b"));
            assertEquals(Outcome.DONE, sent.get(2).verdict().outcome());
            Tests.await(atWork);
            runtime.cancel(Reason.TIMED_OUT, sent.get(0));
            Tests.await(ignored);
            assertEquals(Outcome.DONE, runtime.handle(TestMessage.of("x").withKey("b")).outcome());
            assertEquals(false, sent.get(1).hasBegun());
            hold.countDown();
            assertEquals(Outcome.DONE, sent.get(1).verdict().outcome());
            assertEquals(false, sent.get(0).isSettled());
        }
    }

    @Test
    void hooksAndLogsThatThrowStopNothing() {
        System.Logger odd = new System.Logger() {
            @Override
            public String getName() {
                return "odd";
            }

            @Override
            public boolean isLoggable(Level level) {
                return true;
            }

            @Override
            public void log(Level level, java.util.ResourceBundle bundle, String text, Throwable thrown) {
                throw new StackOverflowError();
            }

            @Override
            public void log(Level level, java.util.ResourceBundle bundle, String format, Object... parameters) {
                throw new StackOverflowError();
            }
        };
        HandlerServer.Builder<?> options = HandlerServer.of(message -> Verdict.fail("no")).logger(odd).onSettled((message, verdict) -> {
            throw new AssertionError("hook");
        });
        java.io.PrintStream errors = System.err;
        System.setErr(new java.io.PrintStream(java.io.OutputStream.nullOutputStream()));
        try (FakeRuntime runtime = new FakeRuntime(options, Config.DEFAULT)) {
            assertEquals(List.of(Outcome.FAIL, Outcome.FAIL), Tests.outcomes(runtime.send(Tests.plain(2))));
        } finally {
            System.setErr(errors);
        }
    }
}
