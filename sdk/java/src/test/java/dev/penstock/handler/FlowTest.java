package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

class FlowTest {
    private static final long MS = 1_000_000;

    /** Finishes messages at a rate; returns how many are granted and not given back in the end. */
    private static long run(Flow flow, int count, long nanosEach) {
        long granted = flow.grant();
        long now = 0;
        flow.work(true, now);
        for (int index = 0; index < count; index++) {
            now += nanosEach;
            flow.finish(1, now);
            flow.giveBack();
            granted += flow.grant() - 1;
        }
        return granted;
    }

    @Test
    void itStartsWithOneForEachCall() {
        assertEquals(16, new Flow(16, 2000, 0).grant());
        assertEquals(3, new Flow(16, 3, 0).grant());
    }

    @Test
    void itFollowsTheRateOfTwoSeconds() {
        assertEquals(200, run(new Flow(2, 2000, 0), 1000, 10 * MS));
        assertEquals(2, run(new Flow(2, 2000, 0), 20, 5000 * MS));
    }

    @Test
    void itKeepsWithinTheWindow() {
        assertEquals(2000, run(new Flow(16, 2000, 0), 5000, 1000));
    }

    @Test
    void itAtMostDoublesWithTheMessagesThatWereFinished() {
        assertEquals(2 + 2 * 10, run(new Flow(2, 2000, 0), 10, 1000));
    }

    @Test
    void aShortWaitShortensTheHorizon() {
        assertEquals(25, run(new Flow(2, 2000, 1000 * MS), 1000, 10 * MS));
    }

    @Test
    void timeWithoutWorkDoesNotCount() {
        Flow flow = new Flow(1, 2000, 0);
        long granted = flow.grant();
        for (int index = 0; index < 1000; index++) {
            long start = index * 60_000 * MS;
            flow.work(true, start);
            flow.finish(1, start + 10 * MS);
            flow.work(false, start + 10 * MS);
            flow.giveBack();
            granted += flow.grant() - 1;
        }
        assertEquals(200, granted);
    }
}
