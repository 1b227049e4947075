package dev.penstock.handler;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import sun.misc.Signal;
import sun.misc.SignalHandler;

/**
 * Stops a server at the first SIGTERM or SIGINT, and ends the process at the second. A
 * shutdown hook can't do that: the JVM ignores signals once its hooks run.
 */
final class Signals implements AutoCloseable {
    private final List<Runnable> undo = new ArrayList<>();

    private Signals() {}

    static Signals watch(HandlerServer server) {
        Signals signals = new Signals();
        AtomicInteger count = new AtomicInteger();
        SignalHandler handler = signal -> {
            if (count.incrementAndGet() > 1) {
                server.log().error("SIG" + signal.getName() + " again: the process ends at once", null);
                Runtime.getRuntime().halt(128 + signal.getNumber());
            }
            server.log().info("SIG" + signal.getName() + ": stopping; a second signal ends the process at once");
            server.stop();
        };
        for (String name : List.of("TERM", "INT")) {
            try {
                Signal signal = new Signal(name);
                SignalHandler before = Signal.handle(signal, handler);
                signals.undo.add(() -> Signal.handle(signal, before));
            } catch (IllegalArgumentException | LinkageError error) {
                server.log().warn("SIG" + name + " can't be caught (" + Judgement.textOf(error)
                        + "); start the JVM without -Xrs and with the module jdk.unsupported, or call stop()", null);
            }
        }
        return signals;
    }

    @Override
    public void close() {
        undo.forEach(Runnable::run);
    }
}
