package dev.penstock.handler;

import com.google.protobuf.CodedOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.Done;
import penstock.handler.v1.HandlerOuterClass.Extension;
import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.Range;
import penstock.handler.v1.HandlerOuterClass.Welcome;

/** Gathers parts of the handler's answers. One thread sends them, one after the other. */
final class Answers {
    static final int MAX_ANSWER = 1024 * 1024;

    private final HandlerStream.Peer peer;
    private final CompletableFuture<Void> ended = new CompletableFuture<>();
    // The monitor of this object guards all that follows.
    private Welcome welcome;
    private int credits;
    private TreeSet<Long> begun = new TreeSet<>();
    private List<Extension> extensions = new ArrayList<>();
    private TreeSet<Long> done = new TreeSet<>();
    private List<HandlerOuterClass.Verdict> verdicts = new ArrayList<>();
    // Completes when the parts that are gathered now were written, or never will be.
    private CompletableFuture<Void> written = new CompletableFuture<>();
    private boolean isDirty = true;
    private boolean isClosing;
    private boolean isEnded;

    Answers(Welcome welcome, HandlerStream.Peer peer) {
        this.welcome = welcome;
        this.peer = peer;
    }

    synchronized void grant(int more) {
        if (more > 0) {
            credits += more;
            wake();
        }
    }

    /** Reports that calls begin. Returns what completes when the report is written. */
    synchronized CompletableFuture<Void> begin(List<Call> calls) {
        if (isEnded) {
            return CompletableFuture.completedFuture(null);
        }
        calls.forEach(call -> begun.add(call.id));
        wake();
        return written;
    }

    synchronized void settle(long id, Judgement judged) {
        // A verdict in the same answer implies that it has begun.
        begun.remove(id);
        if (judged == Judgement.DONE) {
            done.add(id);
        } else {
            verdicts.add(judged.encode(id));
        }
        wake();
    }

    synchronized void extend(long id, long ms) {
        extensions.add(Extension.newBuilder().setDeliveries(range(id, 1)).setTimeMs(ms).build());
        wake();
    }

    private void wake() {
        isDirty = true;
        notifyAll();
    }

    /** Sends nothing more, and lets those continue that wait for it. */
    void end() {
        CompletableFuture<Void> waiting;
        synchronized (this) {
            isEnded = true;
            waiting = written;
            notifyAll();
        }
        waiting.complete(null);
    }

    /** Has the sending end once all that was gathered is written. */
    synchronized void close() {
        isClosing = true;
        notifyAll();
    }

    /** Returns what completes when nothing is sent any more. */
    CompletableFuture<Void> ended() {
        return ended;
    }

    /** Sends answers until the end. */
    void run() {
        try {
            for (Part part = take(); part != null; part = take()) {
                for (FromHandler answer : part.answers) {
                    peer.send(answer);
                }
                part.written.complete(null);
            }
        } catch (Throwable lost) {
            // The stream is lost; its end is noticed where it is read.
            end();
        } finally {
            ended.complete(null);
        }
    }

    private record Part(List<FromHandler> answers, CompletableFuture<Void> written) {}

    /** Waits for parts, and takes them; null at the end. */
    private synchronized Part take() throws InterruptedException {
        while (!isDirty && !isClosing && !isEnded) {
            wait();
        }
        if (isEnded || !isDirty) {
            isEnded = true;
            written.complete(null);
            return null;
        }
        FromHandler.Builder first = FromHandler.newBuilder().addAllBegun(ranges(begun)).addAllExtensions(extensions);
        if (welcome != null) {
            first.setWelcome(welcome);
        }
        for (Range range : ranges(done)) {
            verdicts.add(HandlerOuterClass.Verdict.newBuilder()
                    .setFirstId(range.getFirstId())
                    .setCount(range.getCount())
                    .setDone(Done.getDefaultInstance())
                    .build());
        }
        Part part = new Part(cut(first, verdicts, credits), written);
        welcome = null;
        credits = 0;
        begun = new TreeSet<>();
        extensions = new ArrayList<>();
        done = new TreeSet<>();
        verdicts = new ArrayList<>();
        written = new CompletableFuture<>();
        isDirty = false;
        return part;
    }

    private static List<FromHandler> cut(FromHandler.Builder first, List<HandlerOuterClass.Verdict> verdicts, int credits) {
        List<FromHandler> all = new ArrayList<>();
        FromHandler.Builder last = first;
        int size = first.build().getSerializedSize();
        for (HandlerOuterClass.Verdict verdict : verdicts) {
            int more = CodedOutputStream.computeMessageSize(FromHandler.VERDICTS_FIELD_NUMBER, verdict);
            if (size > 0 && size + more > MAX_ANSWER) {
                all.add(last.build());
                last = FromHandler.newBuilder();
                size = 0;
            }
            last.addVerdicts(verdict);
            size += more;
        }
        all.add(last.setCredits(credits).build());
        all.removeIf(answer -> answer.getSerializedSize() == 0);
        return all;
    }

    private static List<Range> ranges(TreeSet<Long> ids) {
        List<Range> all = new ArrayList<>();
        long first = 0;
        long count = 0;
        for (long id : ids) {
            if (count > 0 && id != first + count) {
                all.add(range(first, count));
                count = 0;
            }
            first = count == 0 ? id : first;
            count++;
        }
        if (count > 0) {
            all.add(range(first, count));
        }
        return all;
    }

    private static Range range(long first, long count) {
        return Range.newBuilder().setFirstId(first).setCount(count).build();
    }
}
