package dev.penstock.handler;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import penstock.handler.v1.HandlerOuterClass.Batch;
import penstock.handler.v1.HandlerOuterClass.Cancel;
import penstock.handler.v1.HandlerOuterClass.Delivery;
import penstock.handler.v1.HandlerOuterClass.Feature;
import penstock.handler.v1.HandlerOuterClass.FromRuntime;
import penstock.handler.v1.HandlerOuterClass.Hello;
import penstock.handler.v1.HandlerOuterClass.Order;
import penstock.handler.v1.HandlerOuterClass.Range;
import penstock.handler.v1.HandlerOuterClass.Run;
import penstock.handler.v1.HandlerOuterClass.Welcome;

/** One stream, from hello to its end. */
final class Session implements HandlerStream {
    static final String SDK_NAME = "penstock-java";
    /** More is as good as no limit. */
    static final long MAX_NANOS = TimeUnit.DAYS.toNanos(10_000);

    private static final int PROTOCOL = 2;

    private final HandlerServer server;
    private final Engine engine;
    private final Peer peer;
    /** Completes when no call of this stream or an earlier one runs. */
    final CompletableFuture<Void> free = new CompletableFuture<>();

    // The monitor of this object guards these.
    private String group = "";
    private Answers answers;
    private Schedule schedule;
    private boolean isOver;

    Session(HandlerServer server, Engine engine, Peer peer) {
        this.server = server;
        this.engine = engine;
        this.peer = peer;
    }

    /** Returns a time of the contract in nanoseconds. */
    static long nanos(long ms) {
        return ms < 0 || ms > MAX_NANOS / 1_000_000 ? MAX_NANOS : ms * 1_000_000;
    }

    static Welcome welcome() {
        return Welcome.newBuilder()
                .setVersion(PROTOCOL)
                .setSdkName(SDK_NAME)
                .setSdkVersion(HandlerServer.VERSION)
                .addAllOrders(List.of(Order.ORDER_UNSPECIFIED, Order.ORDER_BATCH, Order.ORDER_KEY))
                .addAllFeatures(List.of(Feature.FEATURE_BEGUN, Feature.FEATURE_EXTEND, Feature.FEATURE_CANCEL))
                .setMaxMessageBytes(Integer.MAX_VALUE)
                .build();
    }

    @Override
    public void receive(FromRuntime message) {
        Schedule current = schedule();
        switch (message.getMessageCase()) {
            case HELLO -> greet(message.getHello());
            case BATCH, CANCEL -> {
                if (current == null) {
                    refuse("the first message on the stream is not hello");
                } else if (message.hasBatch()) {
                    Batch batch = message.getBatch();
                    current.add(batch.getFirstId(), batch.getBeginByMs(), decode(batch));
                } else {
                    boolean isTimedOut = message.getCancel().getReason() == Cancel.Reason.REASON_TIMED_OUT;
                    for (Range range : message.getCancel().getDeliveriesList()) {
                        current.cancel(range.getFirstId(), range.getCount(), isTimedOut);
                    }
                }
            }
            // A later version of the protocol.
            case MESSAGE_NOT_SET -> {}
        }
    }

    private synchronized Schedule schedule() {
        return schedule;
    }

    private List<Message> decode(Batch batch) {
        List<Message> messages = new ArrayList<>();
        for (Run run : batch.getRunsList()) {
            // Without its deliveries, which each message would keep in memory otherwise.
            Run bare = run.toBuilder().clearDeliveries().build();
            for (Delivery delivery : run.getDeliveriesList()) {
                messages.add(new Message(group, bare, delivery));
            }
        }
        return messages;
    }

    private void greet(Hello hello) {
        if (schedule() != null) {
            refuse("there is a second hello on the stream");
            return;
        }
        Order order = hello.getOrder();
        if (order == Order.UNRECOGNIZED) {
            refuseOrder(hello);
            return;
        }
        synchronized (this) {
            if (isOver) {
                return;
            }
            group = hello.getGroup();
            answers = new Answers(welcome(), peer);
            Schedule.Limits limits = new Schedule.Limits(
                    order, nanos(hello.getTimeoutMs()), nanos(hello.getMaxTimeoutMs()), nanos(hello.getWaitMs()));
            schedule = new Schedule(limits, engine, answers, error -> {
                engine.log().error("the handler's calls can't be followed any more; the stream ends", error);
                refuse("the handler has failed: " + Judgement.textOf(error));
            });
        }
        engine.log().info("the runtime has opened a stream (consumer " + hello.getConsumer() + ", group " + group + ", " + order + ")");
        Session earlier = server.replace(this);
        engine.internals().execute(answers::run);
        engine.internals().execute(() -> live(earlier));
    }

    /** Says who the handler is, so that the runtime can name it, and ends the stream. */
    private void refuseOrder(Hello hello) {
        String text = "the handler's SDK, " + SDK_NAME + " " + HandlerServer.VERSION + ", does not know the order "
                + hello.getOrderValue() + " that consumer " + hello.getConsumer()
                + " needs; update the SDK in the handler's image, or change spec.mode";
        Answers only = new Answers(welcome(), peer);
        only.close();
        engine.internals().execute(() -> {
            only.run();
            refuse(text);
        });
    }

    /**
     * Lets calls begin when those of earlier streams have ended: a key is never handled twice
     * at the same time. Ends the stream when its own have.
     */
    private void live(Session earlier) {
        if (earlier != null) {
            CompletableFuture.anyOf(earlier.free, schedule.quiet).join();
        }
        if (server.isStopping()) {
            schedule.stop();
        }
        schedule.open();
        schedule.quiet.join();
        answers.close();
        answers.ended().join();
        end(null);
        if (earlier != null) {
            earlier.free.join();
        }
        free.complete(null);
    }

    private void refuse(String text) {
        engine.log().error("refused the runtime's stream: " + text, null);
        abandon();
        end(text);
    }

    /** Begins nothing more, lets calls that run finish, and ends the stream. */
    void stop() {
        Schedule current = schedule();
        if (current == null) {
            end(null);
        } else {
            current.stop();
        }
    }

    @Override
    public void drain() {
        Schedule current = schedule();
        if (current == null) {
            end(null);
        } else {
            current.drain();
        }
    }

    @Override
    public void lose() {
        abandon();
        if (schedule() == null) {
            end(null);
        }
    }

    /** Answers nothing more, and withdraws the calls. */
    private void abandon() {
        Schedule current = schedule();
        if (current != null) {
            answers.end();
            current.abort();
        }
    }

    /** Returns the number of calls that run. */
    int left() {
        Schedule current = schedule();
        return current == null ? 0 : current.left();
    }

    private void end(String error) {
        boolean wasOpen;
        synchronized (this) {
            if (isOver) {
                return;
            }
            isOver = true;
            wasOpen = schedule != null;
        }
        if (!wasOpen) {
            free.complete(null);
        }
        server.forget(this);
        engine.log().guard("the end of the stream", () -> peer.end(error));
        if (wasOpen) {
            engine.log().info("the stream has ended");
        }
    }
}
