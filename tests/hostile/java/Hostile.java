import dev.penstock.handler.Handler;
import dev.penstock.handler.HandlerServer;
import dev.penstock.handler.Header;
import dev.penstock.handler.Message;
import dev.penstock.handler.ProducedRecord;
import dev.penstock.handler.Verdict;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.lang.ProcessBuilder.Redirect;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;

/**
 * A handler that does what the header {@code behaviour} of a message says, and nothing without
 * one. With --list it prints the behaviours. Each call writes partition, offset and attempt to
 * HOSTILE_JOURNAL.
 */
public final class Hostile {
    private static final Map<String, Handler> BEHAVIOURS = new TreeMap<>();
    private static final List<Object> KEPT = Collections.synchronizedList(new ArrayList<>());

    private Hostile() {}

    /** An exception whose text can't be read. */
    private static final class Unreadable extends RuntimeException {
        private static final long serialVersionUID = 1;

        @Override
        public String getMessage() {
            throw new IllegalStateException("no text");
        }
    }

    private static int recurse() {
        return recurse() + 1;
    }

    /** Sends a signal to this process. */
    private static void signal(String name) throws IOException, InterruptedException {
        new ProcessBuilder("kill", "-" + name, String.valueOf(ProcessHandle.current().pid())).start().waitFor();
    }

    private static Verdict die(String name) throws IOException, InterruptedException {
        signal(name);
        return waitForever();
    }

    private static Verdict waitForever() throws InterruptedException {
        new CountDownLatch(1).await();
        return Verdict.done();
    }

    /** Leaves a thread at work. */
    private static Verdict leave(Runnable work) {
        Thread thread = new Thread(work, "left");
        thread.setDaemon(true);
        thread.start();
        return Verdict.done();
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException interrupted) {
            // Ignored, as a careless handler does.
        }
    }

    private static void errors() {
        BEHAVIOURS.put("raise", message -> {
            throw new IOException("no database");
        });
        BEHAVIOURS.put("panic", message -> {
            throw new Error("no database");
        });
        BEHAVIOURS.put("throw-nothing", message -> {
            throw new Exception();
        });
        BEHAVIOURS.put("unreadable-error", message -> {
            throw new Unreadable();
        });
        BEHAVIOURS.put("recurse", message -> Verdict.skip("" + recurse()));
        BEHAVIOURS.put("allocate-too-much", message -> {
            KEPT.add(new long[Integer.MAX_VALUE]);
            return Verdict.done();
        });
    }

    private static void verdicts() {
        BEHAVIOURS.put("return-retry", message -> Verdict.retry("still busy"));
        BEHAVIOURS.put("return-skip", message -> Verdict.skip("a test message"));
        BEHAVIOURS.put("return-dead-letter", message -> {
            throw Verdict.deadLetter("a negative amount").asException();
        });
        BEHAVIOURS.put("return-fail", message -> Verdict.fail("no such order"));
        BEHAVIOURS.put("wrapped-verdict", message -> {
            throw new IOException("a negative amount", Verdict.deadLetter("not this one").asException());
        });
        BEHAVIOURS.put("huge-reason", message -> Verdict.fail("x".repeat(8 << 20)));
        BEHAVIOURS.put("reason-with-lines", message -> Verdict.fail("first\r\nsecond\0 \u001b[31mred"));
        BEHAVIOURS.put("reason-empty", message -> Verdict.fail(null));
        BEHAVIOURS.put("endless-delay", message -> Verdict.retry("much later", Duration.ofSeconds(Long.MAX_VALUE)));
        BEHAVIOURS.put("produce", message -> {
            message.produce(ProducedRecord.of("out", "1"));
            return Verdict.done();
        });
    }

    private static void time() {
        BEHAVIOURS.put("take-too-long", message -> {
            Thread.sleep(3000);
            return Verdict.done();
        });
        BEHAVIOURS.put("ignore-cancel", message -> {
            for (long end = System.nanoTime() + 4_000_000_000L; System.nanoTime() < end;) {
                pause(100);
            }
            return Verdict.done();
        });
        BEHAVIOURS.put("answer-too-late", message -> {
            // Until it is interrupted; the SDK's clock and the runtime's end within moments
            // of each other.
            pause(60_000);
            pause(500);
            return Verdict.done();
        });
        BEHAVIOURS.put("wait-forever", message -> waitForever());
    }

    private static void remains() {
        BEHAVIOURS.put("outlive", message -> leave(() -> {
            for (int count = 0; count < 2000; count++) {
                pause(1);
            }
        }));
        BEHAVIOURS.put("background-error", message -> leave(() -> {
            pause(100);
            throw new IllegalStateException("in the background");
        }));
        BEHAVIOURS.put("flood-output", message -> {
            for (int count = 0; count < 2000; count++) {
                System.err.println("flood ".repeat(170));
            }
            return Verdict.done();
        });
        BEHAVIOURS.put("leak", message -> {
            byte[] kept = new byte[32 << 20];
            Arrays.fill(kept, (byte) 'x');
            KEPT.add(kept);
            return Verdict.done();
        });
        BEHAVIOURS.put("start-a-process", message -> {
            new ProcessBuilder("sleep", "30").redirectError(Redirect.INHERIT).start();
            return Verdict.done();
        });
    }

    private static Verdict exit(int code) {
        System.exit(code);
        return Verdict.done();
    }

    private static void ends() {
        BEHAVIOURS.put("exit-with-0", message -> exit(0));
        BEHAVIOURS.put("exit-with-1", message -> exit(1));
        BEHAVIOURS.put("abort", message -> die("ABRT"));
        BEHAVIOURS.put("kill-itself", message -> die("KILL"));
        BEHAVIOURS.put("segfault", message -> die("SEGV"));
        BEHAVIOURS.put("exit-and-stay-away", message -> exit(75));
        BEHAVIOURS.put("terminate-itself", message -> {
            signal("TERM");
            return Verdict.done();
        });
        BEHAVIOURS.put("exit-later", message -> leave(() -> {
            pause(20);
            exit(1);
        }));
        BEHAVIOURS.put("freeze", message -> {
            new ProcessBuilder("sh", "-c", "sleep 3; kill -CONT " + ProcessHandle.current().pid()).start();
            signal("STOP");
            return Verdict.done();
        });
    }

    private static Verdict handle(OutputStream journal, Message message) throws Exception {
        String line = message.partition() + " " + message.offset() + " " + message.attempt() + "\n";
        journal.write(line.getBytes(StandardCharsets.UTF_8));
        Optional<String> name = message.header("behaviour").map(Header::text);
        Optional<Integer> times = message.header("times").map(header -> Integer.valueOf(header.text()));
        if (name.isEmpty() || times.isPresent() && message.attempt() > times.get()) {
            // Some are at work whenever another one ends the process.
            pause(3);
            return Verdict.done();
        }
        return BEHAVIOURS.get(name.get()).handle(message);
    }

    /** Lists the behaviours, or serves. */
    public static void main(String[] arguments) throws Exception {
        errors();
        verdicts();
        time();
        remains();
        ends();
        if (List.of(arguments).contains("--list")) {
            BEHAVIOURS.keySet().forEach(System.out::println);
            return;
        }
        try (OutputStream journal = new FileOutputStream(System.getenv("HOSTILE_JOURNAL"), true)) {
            HandlerServer.of(message -> handle(journal, message)).serve();
        }
    }
}
