package dev.penstock.handler;

import java.nio.charset.StandardCharsets;
import java.util.List;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.Done;
import penstock.handler.v1.HandlerOuterClass.Record;

/** The verdict on a delivery as it is sent. */
record Judgement(Kind kind, String reason, long delayMs, List<Record> produced) {
    enum Kind {
        DONE,
        RETRY,
        SKIP,
        DEAD_LETTER,
        FAIL,
        RELEASE
    }

    static final Verdict DONE_VERDICT = new Verdict.Done();
    static final Judgement DONE = new Judgement(Kind.DONE, "", 0, List.of());

    private static final int MAX_REASON = 16 * 1024;
    private static final int MAX_CAUSES = 32;
    private static final long MAX_DELAY = Integer.MAX_VALUE * 1000L;

    static Judgement done(List<Record> produced) {
        return produced.isEmpty() ? DONE : new Judgement(Kind.DONE, "", 0, List.copyOf(produced));
    }

    static Judgement release(String reason, long delayMs) {
        return new Judgement(Kind.RELEASE, reason, delayMs, List.of());
    }

    static Judgement retry(String reason) {
        return new Judgement(Kind.RETRY, clean(reason), 0, List.of());
    }

    static Judgement of(Verdict verdict) {
        if (verdict instanceof Verdict.Retry retry) {
            long delay = retry.delay().getSeconds() > MAX_DELAY / 1000 ? MAX_DELAY : retry.delay().toMillis();
            return new Judgement(Kind.RETRY, clean(retry.reason()), delay, List.of());
        } else if (verdict instanceof Verdict.Skip skip) {
            return new Judgement(Kind.SKIP, clean(skip.reason()), 0, List.of());
        } else if (verdict instanceof Verdict.DeadLetter deadLetter) {
            return new Judgement(Kind.DEAD_LETTER, clean(deadLetter.reason()), 0, List.of());
        } else if (verdict instanceof Verdict.Fail fail) {
            return new Judgement(Kind.FAIL, clean(fail.reason()), 0, List.of());
        }
        return DONE;
    }

    /**
     * Returns the judgement of what a handler threw: that of the outermost verdict among the
     * exception and its causes, else retry.
     */
    static Judgement ofThrown(Throwable thrown) {
        VerdictException found = findVerdict(thrown);
        if (found != null && !(found.verdict() instanceof Verdict.Done)) {
            Judgement judged = of(found.verdict());
            return found == thrown ? judged : new Judgement(judged.kind, textOf(thrown), judged.delayMs, List.of());
        }
        return new Judgement(Kind.RETRY, textOf(thrown), 0, List.of());
    }

    static VerdictException findVerdict(Throwable thrown) {
        try {
            Throwable one = thrown;
            for (int count = 0; one != null && count < MAX_CAUSES; count++) {
                if (one instanceof VerdictException found) {
                    return found;
                }
                one = one.getCause();
            }
        } catch (Throwable hostile) {
            // Its cause can't be asked for.
            return null;
        }
        return null;
    }

    /** Returns the text of an exception, whatever its methods do. */
    static String textOf(Throwable thrown) {
        if (thrown == null) {
            return "the handler threw nothing";
        }
        try {
            return clean(String.valueOf(thrown.toString()));
        } catch (Throwable hostile) {
            return thrown.getClass().getName() + ", whose methods throw " + hostile.getClass().getName();
        }
    }

    /** Returns a text that can be sent, and not too long. */
    static String clean(String text) {
        String shown = text.length() > MAX_REASON ? text.substring(0, MAX_REASON) + "…" : text;
        // Halves of characters, which UTF-8 can't express, become question marks.
        return new String(shown.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8);
    }

    boolean passes() {
        return kind == Kind.DONE || kind == Kind.SKIP;
    }

    /** Returns the name in logs and hooks. */
    String label() {
        return switch (kind) {
            case DONE -> "done";
            case RETRY -> "retry";
            case SKIP -> "skip";
            case DEAD_LETTER -> "deadLetter";
            case FAIL -> "fail";
            case RELEASE -> "release";
        };
    }

    HandlerOuterClass.Verdict encode(long id) {
        HandlerOuterClass.Verdict.Builder encoded = HandlerOuterClass.Verdict.newBuilder().setFirstId(id).setCount(1);
        switch (kind) {
            case DONE -> encoded.setDone(Done.newBuilder().addAllProduce(produced));
            case RETRY -> encoded.getRetryBuilder().setReason(reason).setDelayMs(delayMs);
            case SKIP -> encoded.getSkipBuilder().setReason(reason);
            case DEAD_LETTER -> encoded.getDeadLetterBuilder().setReason(reason);
            case FAIL -> encoded.getFailBuilder().setReason(reason);
            case RELEASE -> encoded.getReleaseBuilder().setReason(reason).setDelayMs(delayMs);
        }
        return encoded.build();
    }
}
