package dev.penstock.handler;

import java.io.PrintWriter;
import java.io.Writer;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;

/**
 * The handler's log. It logs at most ten failures a second: an outage has every message fail,
 * and the runtime counts them.
 */
final class Log {
    private static final int MAX_FAILURES = 10;
    private static final int MAX_SHOWN = 1000;

    private final Logger logger;
    private long second;
    private int count;
    private int suppressed;

    Log(Logger logger) {
        this.logger = logger;
    }

    void info(String text) {
        write(Level.INFO, text, null);
    }

    void warn(String text, Throwable error) {
        write(Level.WARNING, text, error);
    }

    void error(String text, Throwable error) {
        write(Level.ERROR, text, error);
    }

    private void write(Level level, String text, Throwable error) {
        guard("the logger", () -> logger.log(level, text, error));
    }

    /** Logs a verdict other than done, with what was thrown, if anything was. */
    void failure(Message message, Judgement judged, Throwable thrown) {
        String more;
        synchronized (this) {
            long now = System.nanoTime() / 1_000_000_000L;
            if (now != second) {
                second = now;
                count = 0;
            }
            if (count == MAX_FAILURES) {
                suppressed++;
                return;
            }
            count++;
            more = suppressed > 0 ? "; " + suppressed + " failures before this one were not logged" : "";
            suppressed = 0;
        }
        String reason = judged.reason().substring(0, Math.min(MAX_SHOWN, judged.reason().length()));
        String text = "a message failed (" + message.position() + ", attempt " + message.attempt() + "): "
                + judged.label() + ": " + reason + more;
        // A verdict is a decision, and needs no stack.
        boolean isDecision = thrown == null || thrown instanceof VerdictException;
        Throwable shown = thrown instanceof VerdictException ? thrown.getCause() : thrown;
        write(isDecision ? Level.WARNING : Level.ERROR, text, printable(shown));
    }

    /** Returns what a logger can print: the methods of an exception may throw. */
    private static Throwable printable(Throwable thrown) {
        if (thrown == null) {
            return null;
        }
        try {
            thrown.printStackTrace(new PrintWriter(Writer.nullWriter()));
            return thrown;
        } catch (Throwable hostile) {
            Throwable shown = new IllegalStateException(Judgement.textOf(thrown));
            shown.setStackTrace(hostile.getStackTrace());
            return shown;
        }
    }

    /** Calls code of the program that is no handler. An error there ends nothing. */
    void guard(String what, Runnable call) {
        try {
            call.run();
        } catch (Throwable error) {
            try {
                System.err.println("penstock: " + what + " failed: " + Judgement.textOf(error));
            } catch (Throwable hostile) {
                // There is nobody left to tell.
            }
        }
    }
}
