package dev.penstock.handler;

import dev.penstock.handler.testing.FakeRuntime;
import dev.penstock.handler.testing.FakeRuntime.Sent;
import dev.penstock.handler.testing.TestMessage;
import dev.penstock.handler.testing.TestVerdict.Outcome;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** What tests share. */
final class Tests {
    private Tests() {}

    static FakeRuntime runtime(FakeRuntime.Config config, HandlerServer.Builder<?> options) {
        return new FakeRuntime(options.logger(new CapturedLog()), config);
    }

    static FakeRuntime runtime(FakeRuntime.Mode mode, int concurrency, Handler handler) {
        return runtime(FakeRuntime.Config.DEFAULT.withMode(mode), HandlerServer.of(handler).concurrency(concurrency));
    }

    /** Returns a message for each key, with its position as the value; an empty key is none. */
    static TestMessage[] keyed(String... keys) {
        TestMessage[] messages = new TestMessage[keys.length];
        for (int index = 0; index < keys.length; index++) {
            messages[index] = TestMessage.of(String.valueOf(index)).withKey(keys[index].isEmpty() ? null : keys[index]);
        }
        return messages;
    }

    static TestMessage[] plain(int count) {
        String[] keys = new String[count];
        java.util.Arrays.fill(keys, "");
        return keyed(keys);
    }

    static List<Outcome> outcomes(List<Sent> sent) {
        return sent.stream().map(one -> one.verdict().outcome()).toList();
    }

    /** Waits for a latch, as a handler that blocks does. */
    static void await(CountDownLatch latch) throws InterruptedException {
        if (!latch.await(20, TimeUnit.SECONDS)) {
            throw new AssertionError("waited for a latch");
        }
    }
}
