import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;

/** Counts messages up to a number, and what they cost between the first and the last. */
final class Meter {
    private final long target;
    private final AtomicLong seen = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);
    private volatile Snapshot first;
    private volatile Snapshot last;

    private record Snapshot(long seen, long nanos, long cpuNanos) {
        static Snapshot of(long seen) {
            OperatingSystemMXBean system =
                    (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
            return new Snapshot(seen, System.nanoTime(), system.getProcessCpuTime());
        }
    }

    Meter(long target) {
        this.target = Math.max(target, 2);
    }

    void count(int messages) {
        long after = seen.addAndGet(messages);
        long before = after - messages;
        if (before == 0) {
            first = Snapshot.of(after);
        } else if (before < target && after >= target) {
            last = Snapshot.of(after);
            done.countDown();
        }
    }

    boolean isDone() {
        return done.getCount() == 0;
    }

    void await() throws InterruptedException {
        done.await();
    }

    /** As the bench reads it: the fields of its own Measure. */
    String json() throws IOException {
        return String.format(
                Locale.ROOT,
                "{\"messages\": %d, \"seconds\": %.9f, \"cpu_seconds\": %.9f, "
                        + "\"switches\": null, \"peak_rss_kib\": %s}",
                last.seen - first.seen,
                (last.nanos - first.nanos) / 1e9,
                (last.cpuNanos - first.cpuNanos) / 1e9,
                peak());
    }

    private static String peak() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return line.replaceAll("[^0-9]", "");
            }
        }
        throw new IOException("/proc/self/status has no VmHWM");
    }
}
