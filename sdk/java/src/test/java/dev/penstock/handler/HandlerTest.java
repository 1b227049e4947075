package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.penstock.handler.testing.FakeRuntime;
import dev.penstock.handler.testing.FakeRuntime.Config;
import dev.penstock.handler.testing.FakeRuntime.Mode;
import dev.penstock.handler.testing.FakeRuntime.Reason;
import dev.penstock.handler.testing.FakeRuntime.Sent;
import dev.penstock.handler.testing.TestMessage;
import dev.penstock.handler.testing.TestVerdict;
import dev.penstock.handler.testing.TestVerdict.Outcome;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import penstock.handler.v1.HandlerOuterClass.Feature;
import penstock.handler.v1.HandlerOuterClass.Order;

class HandlerTest {
    private static final Outcome DONE = Outcome.DONE;
    private static final Outcome RELEASE = Outcome.RELEASE;
    private static final Outcome RETRY = Outcome.RETRY;

    @Test
    void theFirstAnswerSaysWhoTheHandlerIs() {
        try (FakeRuntime runtime = new FakeRuntime(message -> Verdict.done())) {
            assertEquals(2, runtime.welcome().getVersion());
            assertEquals("penstock-java", runtime.welcome().getSdkName());
            assertEquals(HandlerServer.VERSION, runtime.welcome().getSdkVersion());
            assertEquals(List.of(Order.ORDER_UNSPECIFIED, Order.ORDER_BATCH, Order.ORDER_KEY), runtime.welcome().getOrdersList());
            assertEquals(List.of(Feature.FEATURE_BEGUN, Feature.FEATURE_EXTEND, Feature.FEATURE_CANCEL), runtime.welcome().getFeaturesList());
        }
    }

    @Test
    void anOrderThatIsNotKnownIsRefusedWithTheRemedy() {
        try (FakeRuntime runtime = Tests.runtime(Mode.UNKNOWN, 1, message -> Verdict.done())) {
            assertEquals("penstock-java", runtime.welcome().getSdkName());
            String error = runtime.ended();
            assertTrue(error.contains("does not know the order 77 that consumer kafka_consumer.test needs; update the SDK"), error);
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"FAST", "KEY_ORDERED", "IN_ORDER"})
    void messagesOfAKeyKeepTheirOrderInEveryMode(Mode mode) {
        Set<String> at = ConcurrentHashMap.newKeySet();
        Map<String, Integer> last = new ConcurrentHashMap<>();
        try (FakeRuntime runtime = Tests.runtime(mode, 16, message -> {
            int value = Integer.parseInt(message.text());
            assertTrue(at.add(message.keyText()), "two at the same time");
            Integer before = last.put(message.keyText(), value);
            assertTrue(before == null || before < value, "out of order");
            Thread.yield();
            at.remove(message.keyText());
            return Verdict.done();
        })) {
            TestMessage[] messages = Tests.keyed("a", "b", "a", "c", "b", "a", "a", "b");
            List<Sent> sent = new ArrayList<>(runtime.send(java.util.Arrays.copyOf(messages, 3)));
            sent.addAll(runtime.send(java.util.Arrays.copyOfRange(messages, 3, 8)));
            assertEquals(Collections.nCopies(8, DONE), Tests.outcomes(sent));
        }
    }

    @Test
    void inOrderNothingOfABatchBeginsBehindAFailure() {
        List<String> begun = new CopyOnWriteArrayList<>();
        try (FakeRuntime runtime = Tests.runtime(Mode.IN_ORDER, 16, message -> {
            begun.add(message.text());
            return switch (begun.size()) {
                case 2 -> Verdict.skip("old");
                case 4 -> Verdict.fail("no amount");
                default -> Verdict.done();
            };
        })) {
            List<Sent> sent = runtime.send(Tests.keyed("a", "a", "b", "", "", "c"));
            assertEquals(List.of(DONE, Outcome.SKIP, DONE, Outcome.FAIL, RELEASE, RELEASE), Tests.outcomes(sent));
            assertEquals(List.of("0", "1", "2", "3"), begun);
            assertEquals(DONE, runtime.handle(TestMessage.of("")).outcome());
        }
    }

    @Test
    void nothingOfAKeyBeginsBehindAFailureInItsBatch() {
        try (FakeRuntime runtime = Tests.runtime(Mode.KEY_ORDERED, 16, message -> switch (message.text()) {
            case "0" -> Verdict.skip("old");
            case "1", "7" -> Verdict.retry("busy");
            default -> Verdict.done();
        })) {
            TestMessage[] messages = Tests.keyed("a", "a", "b", "a", "a", "a", "", "x", "x", "");
            messages[5] = messages[5].withPartition(1);
            List<Outcome> wanted = List.of(Outcome.SKIP, RETRY, DONE, RELEASE, RELEASE, DONE, DONE, RETRY, RELEASE, DONE);
            assertEquals(wanted, Tests.outcomes(runtime.send(messages)));
        }
    }

    @Test
    void aCancelledMessageOfAKeyHoldsBackThoseBehindItInItsBatch() {
        try (FakeRuntime runtime = Tests.runtime(Mode.KEY_ORDERED, 16, message -> {
            if (message.text().equals("0")) {
                new CountDownLatch(1).await();
            }
            return Verdict.done();
        })) {
            List<Sent> sent = runtime.send(Tests.keyed("a", "a"));
            sent.get(0).begun();
            runtime.cancel(Reason.TIMED_OUT, sent.get(0));
            assertEquals(RELEASE, sent.get(1).verdict().outcome());
            assertFalse(sent.get(0).isSettled());
        }
    }

    @Test
    void begunIsReportedWhenACallStarts() {
        CountDownLatch hold = new CountDownLatch(1);
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 2, message -> {
            Tests.await(hold);
            return Verdict.done();
        })) {
            List<Sent> sent = runtime.send(Tests.plain(3));
            sent.get(0).begun();
            sent.get(1).begun();
            assertFalse(sent.get(2).hasBegun());
            hold.countDown();
            assertEquals(List.of(DONE, DONE, DONE), Tests.outcomes(sent));
        }
    }

    @Test
    void aStopFinishesWhatRunsAndReleasesTheRestAtOnce() {
        CountDownLatch hold = new CountDownLatch(1);
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 2, message -> {
            Tests.await(hold);
            return Verdict.done();
        })) {
            List<Sent> sent = runtime.send(Tests.keyed("", "", "", "a", "a"));
            sent.get(0).begun();
            sent.get(1).begun();
            runtime.stop();
            assertEquals(List.of(RELEASE, RELEASE, RELEASE), Tests.outcomes(sent.subList(2, 5)));
            hold.countDown();
            assertEquals(List.of(DONE, DONE), Tests.outcomes(sent.subList(0, 2)));
            assertNull(runtime.ended());
        }
    }

    @Test
    void aStopDoesNotWaitBeyondTheDeadline() {
        CountDownLatch hold = new CountDownLatch(1);
        CapturedLog log = new CapturedLog();
        FakeRuntime runtime = new FakeRuntime(
                HandlerServer.ofAsync(message -> new CompletableFuture<Verdict>() {
                    @Override
                    public boolean cancel(boolean mayInterrupt) {
                        hold.countDown();
                        return false;
                    }
                }).logger(log),
                Config.DEFAULT.withTimeout(Duration.ofMillis(50)));
        runtime.send(TestMessage.of("")).get(0).begun();
        runtime.close();
        assertEquals(0, hold.getCount());
        assertTrue(log.text().contains("1 calls did not end although their time is over"), log.text());
    }

    @Test
    void whenTheRuntimeEndsItsSideWhatItSentIsDoneFirst() {
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 2, message -> Verdict.done())) {
            List<Sent> sent = runtime.send(Tests.keyed("", "a", "a", "a", ""));
            runtime.halfClose();
            assertNull(runtime.ended());
            assertEquals(Collections.nCopies(5, DONE), Tests.outcomes(sent));
        }
    }

    @Test
    void aStreamThatIsLostBeforeHelloHoldsNothingBack() {
        HandlerServer server = HandlerServer.of(message -> Verdict.done()).logger(new CapturedLog()).build();
        List<String> ends = new CopyOnWriteArrayList<>();
        HandlerStream stream = server.accept(new HandlerStream.Peer() {
            @Override
            public void send(penstock.handler.v1.HandlerOuterClass.FromHandler answer) {}

            @Override
            public void end(String error) {
                ends.add(String.valueOf(error));
            }
        });
        stream.lose();
        assertEquals(List.of("null"), ends);
        stream.lose();
        server.stop();
        assertEquals(1, ends.size());
    }

    @Test
    void aStreamThatDoesNotBeginWithHelloIsRefused() {
        HandlerServer server = HandlerServer.of(message -> Verdict.done()).logger(new CapturedLog()).build();
        List<String> ends = new CopyOnWriteArrayList<>();
        server.accept(new HandlerStream.Peer() {
            @Override
            public void send(penstock.handler.v1.HandlerOuterClass.FromHandler answer) {}

            @Override
            public void end(String error) {
                ends.add(error);
            }
        }).receive(penstock.handler.v1.HandlerOuterClass.FromRuntime.newBuilder()
                .setBatch(penstock.handler.v1.HandlerOuterClass.Batch.newBuilder().setFirstId(1))
                .build());
        assertEquals(List.of("the first message on the stream is not hello"), ends);
    }

    @Test
    void workThatIsRevokedIsNotLoggedAsAFailure() {
        CapturedLog log = new CapturedLog();
        CountDownLatch atWork = new CountDownLatch(1);
        HandlerServer.Builder<?> options = HandlerServer.of(message -> {
            atWork.countDown();
            new CountDownLatch(1).await();
            return Verdict.done();
        }).logger(log);
        try (FakeRuntime runtime = new FakeRuntime(options, Config.DEFAULT)) {
            Sent sent = runtime.send(TestMessage.of("")).get(0);
            assertTrue(atWork.await(10, java.util.concurrent.TimeUnit.SECONDS));
            runtime.cancel(Reason.REVOKED, sent);
        } catch (InterruptedException interrupted) {
            throw new AssertionError(interrupted);
        }
        assertFalse(log.text().contains("a message failed"), log.text());
    }

    @Test
    void aStopAfterTheEndReportsNothing() {
        CapturedLog log = new CapturedLog();
        try (FakeRuntime runtime = new FakeRuntime(HandlerServer.of(message -> Verdict.done()).logger(log), Config.DEFAULT)) {
            runtime.handle(TestMessage.of(""));
            runtime.stop();
            assertNull(runtime.ended());
            runtime.stop();
            runtime.halfClose();
        }
        assertFalse(log.text().contains("did not end"), log.text());
    }

    @Test
    void whatDidNotBeginInTimeIsReleased() {
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 16, message -> Verdict.done())) {
            long past = System.currentTimeMillis() - 1000;
            assertEquals(List.of(RELEASE, RELEASE), Tests.outcomes(runtime.sendBy(past, Tests.keyed("", "a"))));
        }
        // As the runtime says, and when the clock has gone back.
        for (long[] times : new long[][] {{60_000, 30}, {30, 60_000}}) {
            CountDownLatch hold = new CountDownLatch(1);
            Config config = Config.DEFAULT.withWaitTime(Duration.ofMillis(times[0]));
            try (FakeRuntime runtime = Tests.runtime(config, HandlerServer.of(message -> {
                Tests.await(hold);
                return Verdict.done();
            }).concurrency(1))) {
                List<Sent> first = runtime.sendBy(System.currentTimeMillis() + 60_000, TestMessage.of("").withKey("a"));
                first.get(0).begun();
                List<Sent> sent = runtime.sendBy(System.currentTimeMillis() + times[1], Tests.keyed("a", ""));
                assertEquals(List.of(RELEASE, RELEASE), Tests.outcomes(sent));
                hold.countDown();
                assertEquals(List.of(DONE), Tests.outcomes(first));
            }
        }
    }

    @Test
    void cancellationReachesTheCallsThatAreNamedAndReturnsTheCredits() throws Exception {
        CountDownLatch hold = new CountDownLatch(1);
        CountDownLatch atWork = new CountDownLatch(2);
        CompletableFuture<Boolean> interrupted = new CompletableFuture<>();
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 2, message -> {
            atWork.countDown();
            if (message.text().equals("0")) {
                try {
                    new CountDownLatch(1).await();
                } catch (InterruptedException end) {
                    interrupted.complete(message.isCancelled() && message.remaining().orElseThrow().isZero());
                    throw end;
                }
            }
            Tests.await(hold);
            return Verdict.done();
        })) {
            List<Sent> sent = runtime.send(Tests.plain(5));
            // A report alone does not say that the handler has been called.
            Tests.await(atWork);
            int before = runtime.credits();
            runtime.cancel(Reason.REVOKED, sent.get(0), sent.get(2), sent.get(4));
            assertTrue(interrupted.get());
            hold.countDown();
            assertEquals(List.of(DONE, DONE), Tests.outcomes(List.of(sent.get(1), sent.get(3))));
            runtime.until("the credits", () -> runtime.credits() >= before + 5);
            for (int index : new int[] {0, 2, 4}) {
                assertFalse(sent.get(index).isSettled());
            }
        }
    }

    @Test
    void cancellationReachesTheFutureOfAnAsyncCall() throws Exception {
        CompletableFuture<Verdict> work = new CompletableFuture<>();
        CountDownLatch atWork = new CountDownLatch(1);
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, HandlerServer.ofAsync(message -> {
            atWork.countDown();
            return work;
        }))) {
            Sent sent = runtime.send(TestMessage.of("")).get(0);
            Tests.await(atWork);
            runtime.cancel(Reason.REVOKED, sent);
            assertThrows(java.util.concurrent.CancellationException.class, work::join);
        }
    }

    @Test
    void cancelledMessagesDoNotFillTheMemory() {
        CountDownLatch hold = new CountDownLatch(1);
        Config config = Config.DEFAULT.withWaitTime(Duration.ofSeconds(30));
        try (FakeRuntime runtime = Tests.runtime(config, HandlerServer.of(message -> {
            Tests.await(hold);
            return Verdict.done();
        }).concurrency(1))) {
            runtime.send(TestMessage.of("").withKey("a")).get(0).begun();
            int before = runtime.credits();
            for (int round = 0; round < 1000; round++) {
                runtime.cancel(Reason.NOT_BEGUN, runtime.send(Tests.keyed("a", "")).toArray(Sent[]::new));
            }
            runtime.until("the credits", () -> runtime.credits() == before);
            hold.countDown();
        }
    }

    @Test
    void extendMovesTheDeadlineWithinItsLimit() {
        List<Duration> given = new CopyOnWriteArrayList<>();
        Config config = Config.DEFAULT.withTimeout(Duration.ofMillis(400)).withMaxTimeout(Duration.ofMillis(1000));
        try (FakeRuntime runtime = Tests.runtime(config, HandlerServer.of(message -> {
            given.add(message.extend(Duration.ofMillis(10)));
            given.add(message.extend(Duration.ofMillis(600)));
            given.add(message.extend(Duration.ofMinutes(1)));
            new CountDownLatch(1).await();
            return Verdict.done();
        }))) {
            long began = System.nanoTime();
            Sent sent = runtime.send(TestMessage.of("")).get(0);
            assertEquals(RETRY, sent.verdict().outcome());
            assertTrue(System.nanoTime() - began >= 990_000_000L);
            assertEquals(2, sent.extensions().size());
            assertTrue(given.get(0).toMillis() > 200 && given.get(0).toMillis() <= 400, given.toString());
            assertTrue(given.get(1).toMillis() >= 599 && given.get(2).toMillis() > 600 && given.get(2).toMillis() <= 1000, given.toString());
        }
    }

    @Test
    void aNewStreamBeginsWhenTheCallsOfTheOldOneHaveEnded() throws Exception {
        CountDownLatch hold = new CountDownLatch(1);
        CountDownLatch started = new CountDownLatch(1);
        CountDownLatch interrupted = new CountDownLatch(1);
        AtomicBoolean isAtWork = new AtomicBoolean();
        try (FakeRuntime runtime = Tests.runtime(Mode.FAST, 16, message -> {
            assertFalse(isAtWork.get(), "two at the same time");
            if (message.text().equals("first")) {
                isAtWork.set(true);
                started.countDown();
                while (hold.getCount() > 0) {
                    try {
                        hold.await();
                    } catch (InterruptedException lost) {
                        interrupted.countDown();
                    }
                }
                isAtWork.set(false);
            }
            return Verdict.done();
        })) {
            runtime.send(TestMessage.of("first").withKey("a"));
            Tests.await(started);
            runtime.reconnect();
            Tests.await(interrupted);
            runtime.welcome();
            List<Sent> early = runtime.send(TestMessage.of("second").withKey("a"));
            // Its time passes while nothing may begin; it would be done otherwise.
            List<Sent> late = runtime.sendBy(System.currentTimeMillis() + 100, TestMessage.of("third").withKey("b"));
            assertEquals(List.of(RELEASE), Tests.outcomes(late));
            assertEquals(-2, runtime.credits());
            assertFalse(early.get(0).hasBegun());
            hold.countDown();
            assertEquals(List.of(DONE), Tests.outcomes(early));
        }
    }

    @Test
    void recordsComeWithTheirMessageAndAreCopied() {
        byte[] value = {'1'};
        TestVerdict verdict = FakeRuntime.handle(message -> {
            message.produce(ProducedRecord.of("totals", value)
                    .withKey(message.key())
                    .withPartition(2)
                    .withTimestamp(Instant.ofEpochMilli(5))
                    .withHeader("a", "x")
                    .withHeader("b", (byte[]) null));
            message.produce(ProducedRecord.of("gone", (byte[]) null));
            value[0] = 0;
            return Verdict.done();
        }, TestMessage.of("{}").withKey("customer-7"));
        assertEquals(2, verdict.produced().size());
        ProducedRecord first = verdict.produced().get(0);
        assertEquals("totals", first.topic());
        assertEquals(2, first.partition());
        assertArrayEquals("customer-7".getBytes(), first.key());
        assertArrayEquals(new byte[] {'1'}, first.value());
        assertEquals(Instant.ofEpochMilli(5), first.timestamp());
        assertEquals("x", first.headers().get(0).text());
        assertNull(first.headers().get(1).value());
        assertNull(verdict.produced().get(1).value());
    }

    @Test
    void theRecordsOfAFailureAreNotProducedNorThoseThatComeLate() throws Exception {
        CompletableFuture<Message> kept = new CompletableFuture<>();
        TestVerdict verdict = FakeRuntime.handle(message -> {
            message.produce(ProducedRecord.of("totals", "1"));
            kept.complete(message);
            return Verdict.retry("busy");
        }, TestMessage.of(""));
        assertEquals(List.of(), verdict.produced());
        assertThrows(SettledException.class, () -> kept.get().produce(ProducedRecord.of("late", "1")));
        assertEquals(Duration.ZERO, kept.get().extend(Duration.ofSeconds(1)));
        assertTrue(kept.get().isCancelled());
    }

    @Test
    void aMessageHasWhatTheProducerSent() {
        TestMessage sent = TestMessage.of(null).withKey("").withOffset(42).withPartition(3).withTopic("orders")
                .withHeader("traceparent", "00-a").withHeader("b", null).withHeader("traceparent", "00-c").withAttempt(2);
        List<Message> seen = new CopyOnWriteArrayList<>();
        FakeRuntime.handle(message -> {
            seen.add(message);
            return Verdict.done();
        }, sent);
        Message message = seen.get(0);
        assertEquals("test/orders/3/42", message.idempotencyKey());
        assertNull(message.value());
        assertNull(message.text());
        assertEquals(0, message.key().length);
        assertEquals(2, message.attempt());
        assertEquals(1, message.epoch());
        assertEquals(sent.timestamp().toEpochMilli(), message.timestamp().orElseThrow().toEpochMilli());
        assertEquals(3, message.headers().size());
        assertEquals("00-c", message.header("traceparent").orElseThrow().text());
        assertEquals(Map.of("traceparent", "00-c"), message.textHeaders());
        assertTrue(message.header("c").isEmpty());
    }

    @Test
    void interceptorsWrapTheFirstOutermost() {
        List<String> calls = new CopyOnWriteArrayList<>();
        HandlerServer.Builder<Handler> options = HandlerServer.of(message -> Verdict.retry("busy", Duration.ofMillis(1500)));
        for (String name : List.of("a", "b")) {
            options.intercept(next -> message -> {
                calls.add(name);
                return next.handle(message);
            });
        }
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, options)) {
            assertEquals(new TestVerdict(RETRY, "busy", Duration.ofMillis(1500), List.of()), runtime.handle(TestMessage.of("")));
        }
        assertEquals(List.of("a", "b"), calls);
    }

    @Test
    void wrongOptionsAreErrorsThatNameOptionValueAndRemedy() {
        HandlerServer.Builder<Handler> options = HandlerServer.of(message -> Verdict.done());
        Map<String, Runnable> wrong = Map.of(
                "the option concurrency is 0; it must be a number from 1 to 16777216", () -> options.concurrency(0),
                "the option window is -1; it must be a number from 1 to 16777216", () -> options.window(-1),
                "the option batchSize is 999999999; it must be a number from 1 to 16777216", () -> options.batchSize(999_999_999),
                "the option port is 65536; it must be a number from 0 to 65535", () -> options.port(65536),
                "the option socket is null; leave it out", () -> options.socket(null),
                "the option threads is null; leave it out", () -> options.threads(null),
                "interceptor 0 returned null; it must return a handler",
                () -> HandlerServer.of(message -> Verdict.done()).intercept(next -> null).build(),
                "the options socket (/a) and port (1) are both set; choose one",
                () -> HandlerServer.of(message -> Verdict.done()).socket(java.nio.file.Path.of("/a")).port(1).build());
        wrong.forEach((text, call) -> {
            String message = assertThrows(IllegalArgumentException.class, call::run).getMessage();
            assertTrue(message.contains(text), message);
        });
        assertThrows(NullPointerException.class, () -> HandlerServer.of(null));
    }

    @Test
    void eachDeliveryReturnsItsCreditWithinTheWindow() {
        for (Mode mode : List.of(Mode.FAST, Mode.KEY_ORDERED, Mode.IN_ORDER)) {
            Config config = Config.DEFAULT.withMode(mode);
            try (FakeRuntime runtime = Tests.runtime(config, HandlerServer.of(message ->
                    message.text().equals("0") ? Verdict.retry("busy") : Verdict.done()).window(3))) {
                for (int round = 0; round < 20; round++) {
                    Tests.outcomes(runtime.send(Tests.keyed("a", "a", "", "a")));
                    Tests.outcomes(runtime.sendBy(System.currentTimeMillis() - 1000, Tests.keyed("a", "")));
                }
                runtime.until("credits", () -> runtime.credits() >= (mode == Mode.IN_ORDER ? 1 : 3));
                assertTrue(runtime.credits() <= 3, String.valueOf(runtime.credits()));
            }
        }
    }

    @Test
    void aBatchHandlerTakesWhatWaitsInTheModesOrder() {
        for (Mode mode : List.of(Mode.FAST, Mode.KEY_ORDERED, Mode.IN_ORDER)) {
            CountDownLatch hold = new CountDownLatch(1);
            List<List<String>> calls = new CopyOnWriteArrayList<>();
            try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT.withMode(mode), HandlerServer.ofBatches(messages -> {
                Tests.await(hold);
                calls.add(messages.stream().map(Message::text).toList());
                return messages.stream().map(message -> message.text().equals("2") ? Verdict.retry("busy") : Verdict.done()).toList();
            }).batchSize(4).concurrency(1))) {
                Sent first = runtime.send(TestMessage.of("first")).get(0).begun();
                List<Sent> sent = runtime.send(Tests.keyed("a", "a", "b", "b", "c", "c"));
                hold.countDown();
                assertEquals(DONE, first.verdict().outcome());
                List<Outcome> outcomes = Tests.outcomes(sent);
                switch (mode) {
                    case FAST -> assertEquals(List.of(DONE, DONE, RETRY, DONE, DONE, DONE), outcomes);
                    case KEY_ORDERED -> {
                        assertEquals(List.of(DONE, DONE, RETRY, RELEASE, DONE, DONE), outcomes);
                        assertEquals(List.of("0", "2", "4"), calls.get(1));
                    }
                    default -> {
                        assertEquals(List.of(DONE, DONE, RETRY, RETRY, RELEASE, RELEASE), outcomes);
                        assertEquals(List.of("0", "1", "2", "3"), calls.get(1));
                        assertEquals(2, calls.size());
                    }
                }
            }
        }
    }

    @Test
    void asyncCallsRunAtTheSameTimeUpToTheLimit() {
        List<CompletableFuture<Verdict>> stages = new CopyOnWriteArrayList<>();
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, HandlerServer.ofAsync(message -> {
            CompletableFuture<Verdict> stage = new CompletableFuture<>();
            stages.add(stage);
            return stage;
        }).concurrency(3))) {
            List<Sent> sent = runtime.send(Tests.plain(5));
            for (int count = 3; count <= 5; count++) {
                int begun = count;
                runtime.until("calls", () -> sent.stream().filter(Sent::hasBegun).count() == begun && stages.size() == begun);
                stages.get(count - 3).complete(Verdict.done());
            }
            stages.get(3).complete(Verdict.done());
            stages.get(4).complete(Verdict.done());
            assertEquals(Collections.nCopies(5, DONE), Tests.outcomes(sent));
        }
    }

    @Test
    void failuresAreLoggedWithTheirStacksAndAFloodInPart() {
        CapturedLog log = new CapturedLog();
        HandlerServer.Builder<?> options = HandlerServer.of(message -> {
            throw new IllegalStateException("busy");
        }).logger(log);
        try (FakeRuntime runtime = new FakeRuntime(options, Config.DEFAULT)) {
            Tests.outcomes(runtime.send(Tests.plain(1000)));
        }
        List<String> failures = log.entries.stream().filter(entry -> entry.contains("a message failed (test/0/")).toList();
        assertTrue(failures.size() >= 10 && failures.size() < 500, String.valueOf(failures.size()));
        assertTrue(failures.get(0).contains("attempt 1): retry: java.lang.IllegalStateException: busy"), failures.get(0));
        assertTrue(failures.get(0).contains("HandlerTest.java"), failures.get(0));
    }

    @Test
    void threadsOfTheProgramsFactoryCallTheHandler() {
        AtomicInteger count = new AtomicInteger();
        List<String> names = new CopyOnWriteArrayList<>();
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, HandlerServer.of(message -> {
            names.add(Thread.currentThread().getName());
            return Verdict.done();
        }).threads(task -> {
            Thread thread = new Thread(task, "mine-" + count.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        }))) {
            assertEquals(DONE, runtime.handle(TestMessage.of("")).outcome());
        }
        assertEquals(List.of("mine-1"), names);
    }

    @Test
    void aHookHearsOfEachVerdict() throws InterruptedException {
        List<String> heard = new CopyOnWriteArrayList<>();
        CountDownLatch skipped = new CountDownLatch(1);
        HandlerServer.Builder<?> options = HandlerServer.of(message -> Verdict.skip("old"))
                .onSettled((message, verdict) -> {
                    heard.add(verdict);
                    if (verdict.equals("skip")) {
                        skipped.countDown();
                    }
                });
        try (FakeRuntime runtime = Tests.runtime(Config.DEFAULT, options)) {
            runtime.handle(TestMessage.of(""));
            // Its time may be over before the handler begins.
            runtime.sendBy(1, TestMessage.of("")).get(0).verdict();
            // The runtime may have a verdict a moment before the hook.
            Tests.await(skipped);
        }
        assertTrue(Set.of("skip", "release").containsAll(heard), heard.toString());
    }
}
