package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;

import dev.penstock.handler.testing.FakeRuntime;
import dev.penstock.handler.testing.FakeRuntimeExtension;
import dev.penstock.handler.testing.TestMessage;
import dev.penstock.handler.testing.TestVerdict.Outcome;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.extension.RegisterExtension;

/** The extension for JUnit 5 gives each test a runtime of its own, and stops it. */
class ExtensionTest {
    private final AtomicInteger calls = new AtomicInteger();

    @RegisterExtension
    final FakeRuntimeExtension extension = FakeRuntimeExtension.of(message -> {
        calls.incrementAndGet();
        return Verdict.deadLetter("negative amount");
    });

    private FakeRuntime seen;

    @RepeatedTest(2)
    void aTestHasARuntime(FakeRuntime runtime) {
        seen = runtime;
        assertEquals(Outcome.DEAD_LETTER, runtime.handle(TestMessage.of("-1")).outcome());
        assertEquals(1, calls.get());
    }

    @AfterEach
    void itIsTheSameForTheWholeTest(FakeRuntime runtime) {
        assertEquals(seen, runtime);
    }
}
