package dev.penstock.handler;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Calls a handler of one of the kinds, and judges what it returned. */
interface Invoker {
    /** Returns what the handler returns, which may be of any class. */
    Object invoke(List<Message> messages) throws Throwable;

    /** Returns true if the handler returns a stage. */
    default boolean isAsync() {
        return false;
    }

    /** Returns true if a call takes several messages. */
    default boolean isBatch() {
        return false;
    }

    static Invoker of(Handler handler) {
        return messages -> handler.handle(messages.get(0));
    }

    static Invoker ofAsync(AsyncHandler handler) {
        return new Invoker() {
            @Override
            public Object invoke(List<Message> messages) throws Throwable {
                return handler.handle(messages.get(0));
            }

            @Override
            public boolean isAsync() {
                return true;
            }
        };
    }

    static Invoker ofBatches(BatchHandler handler) {
        return new Invoker() {
            @Override
            public Object invoke(List<Message> messages) throws Throwable {
                return handler.handle(messages);
            }

            @Override
            public boolean isBatch() {
                return true;
            }
        };
    }

    /** Judges what the handler returned for messages. */
    default List<Judgement> judge(List<Message> messages, Object returned) {
        if (!isBatch()) {
            return List.of(judge(messages.get(0), returned, "the handler"));
        }
        if (!(returned instanceof List<?> list)) {
            return all(messages, Judgement.retry("the handler returned " + describe(returned) + "; it must return a list of verdicts"));
        }
        Object[] verdicts = list.toArray();
        if (verdicts.length != messages.size()) {
            return all(messages, Judgement.retry("the handler returned " + verdicts.length + " verdicts on " + messages.size() + " messages"));
        }
        List<Judgement> judged = new ArrayList<>(verdicts.length);
        for (int index = 0; index < verdicts.length; index++) {
            judged.add(judge(messages.get(index), verdicts[index], "verdict " + index + " of the handler's list"));
        }
        return judged;
    }

    private static Judgement judge(Message message, Object returned, String what) {
        Judgement success = message.close();
        if (!(returned instanceof Verdict verdict)) {
            return Judgement.retry((what.startsWith("the") ? what + " returned " : what + " is ") + describe(returned) + "; it must be a Verdict, such as Verdict.done()");
        }
        return verdict instanceof Verdict.Done ? success : Judgement.of(verdict);
    }

    /** Judges messages whose handler threw. */
    static List<Judgement> judgeThrown(List<Message> messages, Throwable thrown) {
        messages.forEach(Message::close);
        return all(messages, Judgement.ofThrown(thrown));
    }

    private static List<Judgement> all(List<Message> messages, Judgement judged) {
        messages.forEach(Message::close);
        return Collections.nCopies(messages.size(), judged);
    }

    private static String describe(Object returned) {
        return returned == null ? "null" : "an object of " + returned.getClass().getName();
    }
}
