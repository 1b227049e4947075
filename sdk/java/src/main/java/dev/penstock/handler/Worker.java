package dev.penstock.handler;

import dev.penstock.handler.Call.Attempt;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.function.Consumer;

/** Performs attempts. Whatever the handler does is a verdict. */
final class Worker {
    private final Schedule schedule;
    private final Engine engine;
    private final Answers answers;
    private final Consumer<Throwable> onBroken;

    Worker(Schedule schedule, Engine engine, Answers answers, Consumer<Throwable> onBroken) {
        this.schedule = schedule;
        this.engine = engine;
        this.answers = answers;
        this.onBroken = onBroken;
    }

    /** Performs an attempt, and those that follow on this thread. */
    void work(Attempt first) {
        Attempt attempt = first;
        while (attempt != null) {
            attempt = perform(attempt);
        }
    }

    /** Performs an attempt. Returns the next one for this thread. */
    private Attempt perform(Attempt attempt) {
        try {
            CompletableFuture<Void> written = answers.begin(attempt.calls);
            if (attempt.isCareful) {
                written.join();
            }
            // Left by an attempt that has ended in an odd way.
            Thread.interrupted();
            if (!schedule.start(attempt, Thread.currentThread())) {
                return finish(attempt, null);
            }
            Outcome outcome = invoke(attempt);
            return outcome.isLater ? null : finish(attempt, judge(attempt, outcome));
        } catch (Throwable error) {
            // Not of the handler: there is no memory, or the thread was stopped in between.
            return finish(attempt, Invoker.judgeThrown(attempt.messages(), error));
        }
    }

    /** What a handler returned or threw. */
    private record Outcome(Object returned, Throwable thrown, boolean isLater) {}

    private Outcome invoke(Attempt attempt) {
        Thread thread = Thread.currentThread();
        String name = thread.getName();
        ClassLoader loader = thread.getContextClassLoader();
        try {
            Object returned = engine.invoker().invoke(attempt.messages());
            if (engine.invoker().isAsync() && returned instanceof CompletionStage<?> stage) {
                await(attempt, stage);
                return new Outcome(null, null, true);
            }
            return new Outcome(returned, null, false);
        } catch (Throwable thrown) {
            return new Outcome(null, thrown, false);
        } finally {
            schedule.leave(attempt);
            // The next message gets the thread as this one got it.
            Thread.interrupted();
            if (thread.getContextClassLoader() != loader) {
                thread.setContextClassLoader(loader);
            }
            if (!thread.getName().equals(name)) {
                thread.setName(name);
            }
        }
    }

    /** Has an attempt end with its stage. */
    private void await(Attempt attempt, CompletionStage<?> stage) {
        boolean isEnding = schedule.await(attempt, stage);
        stage.whenComplete((value, error) -> {
            if (attempt.isJudged.compareAndSet(false, true)) {
                complete(attempt, new Outcome(value, error == null ? null : unwrap(error), false));
            }
        });
        if (isEnding) {
            cancel(stage);
        }
    }

    private void complete(Attempt attempt, Outcome outcome) {
        // Not on the program's thread, whose stack may be deep or which may be stopped.
        Runnable end = () -> work(finishJudged(attempt, judge(attempt, outcome)));
        try {
            engine.workers().execute(end);
        } catch (Throwable noThread) {
            end.run();
        }
    }

    private static Throwable unwrap(Throwable error) {
        boolean isWrapper = error instanceof CompletionException;
        return isWrapper && error.getCause() != null ? error.getCause() : error;
    }

    /** Cancels a stage, which may throw or have no way to be cancelled. */
    void cancel(CompletionStage<?> stage) {
        try {
            stage.toCompletableFuture().cancel(true);
        } catch (Throwable error) {
            engine.log().warn("the stage that the handler returned can't be cancelled", error);
        }
    }

    private List<Judgement> judge(Attempt attempt, Outcome outcome) {
        List<Message> messages = attempt.messages();
        Throwable thrown = outcome.thrown;
        List<Judgement> judged;
        try {
            judged = thrown == null ? engine.invoker().judge(messages, outcome.returned) : Invoker.judgeThrown(messages, thrown);
        } catch (Throwable hostile) {
            thrown = hostile;
            judged = Invoker.judgeThrown(messages, hostile);
        }
        if (attempt.isTimedOut && thrown != null && judged.get(0).kind() == Judgement.Kind.RETRY) {
            String reason = "the time of the attempt is over: " + judged.get(0).reason();
            judged = Collections.nCopies(messages.size(), Judgement.retry(reason));
        }
        // The end of work that was revoked is no failure.
        boolean isRevoked = attempt.isEnding && !attempt.isTimedOut;
        for (int index = 0; index < messages.size() && !isRevoked; index++) {
            if (!judged.get(index).passes()) {
                engine.log().failure(messages.get(index), judged.get(index), thrown);
            }
        }
        return judged;
    }

    private Attempt finish(Attempt attempt, List<Judgement> judged) {
        return attempt.isJudged.compareAndSet(false, true) ? finishJudged(attempt, judged) : null;
    }

    private Attempt finishJudged(Attempt attempt, List<Judgement> judged) {
        try {
            return schedule.finish(attempt, judged);
        } catch (Throwable error) {
            // The schedule may have lost count, as without memory: another stream has another.
            onBroken.accept(error);
            return null;
        }
    }
}
