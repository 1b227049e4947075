package dev.penstock.handler;

/**
 * Decides how many credits to grant: so many that the messages in the handler can be finished
 * within the horizon, at the rate of late. It starts with one for each call that can run, and
 * at most doubles with the messages that were finished. The schedule guards it.
 */
final class Flow {
    // In nanoseconds: the time in which a handler should finish the messages that it holds,
    // and the time with work over which the rate is measured.
    private static final long HORIZON = 2_000_000_000L;
    private static final long MEASURED = 250_000_000L;

    private final int floor;
    private final int window;
    private final long horizon;
    private long granted;
    private long returned;
    private long finished;
    // Time without work does not count: a quiet minute says nothing about the rate.
    private boolean isBusy;
    private long busySince;
    private long busy;
    private long count;
    private double rate;

    /** Creates a flow; no wait is 0. */
    Flow(int slots, int window, long waitNanos) {
        floor = Math.min(slots, window);
        this.window = window;
        horizon = waitNanos > 0 ? Math.min(HORIZON, waitNanos / 4) : HORIZON;
    }

    /** Notes whether there is work. */
    void work(boolean is, long now) {
        if (is && !isBusy) {
            busySince = now;
        } else if (!is && isBusy) {
            busy += now - busySince;
        }
        isBusy = is;
    }

    /** Notes that messages were finished. */
    void finish(int messages, long now) {
        finished += messages;
        count += messages;
        if (isBusy) {
            busy += now - busySince;
            busySince = now;
        }
        if (busy < MEASURED) {
            return;
        }
        double measured = (double) count / busy;
        rate = rate > 0 ? (rate + measured) / 2 : measured;
        busy = count = 0;
    }

    /** Notes that a message has left the handler. */
    void giveBack() {
        returned++;
    }

    /** Returns the number of credits to grant now. */
    int grant() {
        long more = Math.max(0, target() - (granted - returned));
        granted += more;
        return (int) more;
    }

    private long target() {
        double known = rate;
        if (known == 0 && count > 0) {
            known = (double) count / Math.max(busy, 1000);
        }
        // The first few are too few to tell.
        long doubled = floor + 2 * finished;
        double wanted = Math.min(Math.ceil(known * horizon), Math.min(doubled, window));
        return Math.max(floor, (long) wanted);
    }
}
