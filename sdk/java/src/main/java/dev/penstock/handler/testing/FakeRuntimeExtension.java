package dev.penstock.handler.testing;

import dev.penstock.handler.Handler;
import dev.penstock.handler.HandlerServer;
import java.util.function.Supplier;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * Gives each test of JUnit 5 a {@link FakeRuntime} as a parameter, and stops it afterwards.
 *
 * <pre>{@code
 * @RegisterExtension
 * final FakeRuntimeExtension extension = FakeRuntimeExtension.of(Orders::handle);
 *
 * @Test
 * void aNegativeAmountIsDeadLettered(FakeRuntime runtime) {
 *     TestVerdict verdict = runtime.handle(TestMessage.of("-1"));
 *     assertEquals(TestVerdict.Outcome.DEAD_LETTER, verdict.outcome());
 * }
 * }</pre>
 */
public final class FakeRuntimeExtension implements BeforeEachCallback, AfterEachCallback, ParameterResolver {
    private final Supplier<FakeRuntime> runtimes;
    private FakeRuntime runtime;

    private FakeRuntimeExtension(Supplier<FakeRuntime> runtimes) {
        this.runtimes = runtimes;
    }

    /** Returns an extension for a handler, with defaults. */
    public static FakeRuntimeExtension of(Handler handler) {
        return new FakeRuntimeExtension(() -> new FakeRuntime(handler));
    }

    /** Returns an extension for a handler with options. */
    public static FakeRuntimeExtension of(HandlerServer.Builder<?> options, FakeRuntime.Config config) {
        return new FakeRuntimeExtension(() -> new FakeRuntime(options, config));
    }

    @Override
    public void beforeEach(ExtensionContext context) {
        runtime = runtimes.get();
    }

    @Override
    public void afterEach(ExtensionContext context) {
        runtime.close();
    }

    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
        return parameter.getParameter().getType() == FakeRuntime.class;
    }

    @Override
    public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
        return runtime;
    }
}
