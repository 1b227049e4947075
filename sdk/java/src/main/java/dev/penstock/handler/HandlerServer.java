package dev.penstock.handler;

import java.io.IOException;
import java.lang.System.Logger;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.UnaryOperator;

/**
 * Serves a handler to Penstock's runtime over gRPC.
 *
 * <pre>{@code
 * public static void main(String[] arguments) throws Exception {
 *     HandlerServer.of(message -> {
 *         System.out.println(message.idempotencyKey() + " " + message.text());
 *         return Verdict.done();
 *     }).concurrency(16).serve();
 * }
 * }</pre>
 */
public final class HandlerServer {
    /** The version of this SDK. The runtime logs it. */
    public static final String VERSION = "0.1.0";

    private final Builder<?> options;
    private final Engine engine;
    private final CountDownLatch stopping = new CountDownLatch(1);
    // The monitor of this object guards these.
    private final Set<Session> sessions = new LinkedHashSet<>();
    private Session last;

    private HandlerServer(Builder<?> options, Invoker invoker) {
        this.options = options;
        ScheduledThreadPoolExecutor timer = new ScheduledThreadPoolExecutor(1, daemons("penstock-timer"));
        timer.setRemoveOnCancelPolicy(true);
        engine = new Engine(
                invoker,
                options.concurrency,
                options.window,
                options.batchSize,
                new Log(options.logger),
                options.onSettled,
                pool(options.threads == null ? daemons("penstock-handler") : options.threads),
                pool(daemons("penstock-stream")),
                timer);
    }

    private static ExecutorService pool(ThreadFactory threads) {
        return new ThreadPoolExecutor(0, Integer.MAX_VALUE, 10, TimeUnit.SECONDS, new SynchronousQueue<>(), threads);
    }

    static ThreadFactory daemons(String name) {
        AtomicInteger count = new AtomicInteger();
        return task -> {
            Thread thread = new Thread(task, name + "-" + count.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        };
    }

    /** Returns a builder for a server that calls the handler for each message. */
    public static Builder<Handler> of(Handler handler) {
        return new Builder<>(handler, Invoker::of);
    }

    /** Returns a builder for a server whose handler completes its calls later. */
    public static Builder<AsyncHandler> ofAsync(AsyncHandler handler) {
        return new Builder<>(handler, Invoker::ofAsync);
    }

    /** Returns a builder for a server whose handler takes several messages in a call. */
    public static Builder<BatchHandler> ofBatches(BatchHandler handler) {
        return new Builder<>(handler, Invoker::ofBatches);
    }

    /** Serves a stream of another kind than gRPC, as for tests. */
    public HandlerStream accept(HandlerStream.Peer peer) {
        Session session = new Session(this, engine, peer);
        synchronized (this) {
            sessions.add(session);
        }
        if (isStopping()) {
            session.stop();
        }
        return session;
    }

    /** Makes a session the last one, and has the one before end. Returns that one. */
    Session replace(Session session) {
        Session earlier;
        synchronized (this) {
            earlier = last;
            last = session;
        }
        if (earlier != null) {
            earlier.stop();
        }
        return earlier;
    }

    synchronized void forget(Session session) {
        sessions.remove(session);
    }

    boolean isStopping() {
        return stopping.getCount() == 0;
    }

    /**
     * Begins no more messages: releases those that wait, and lets calls that run finish.
     * {@link #serve} then returns.
     */
    public void stop() {
        stopping.countDown();
        List<Session> all;
        synchronized (this) {
            all = List.copyOf(sessions);
        }
        all.forEach(Session::stop);
    }

    /**
     * Waits until the calls have ended, or their time is over.
     *
     * @return the number of calls that are left
     * @throws InterruptedException if the thread is interrupted
     */
    public int awaitStopped() throws InterruptedException {
        stopping.await();
        Session session;
        synchronized (this) {
            session = last;
        }
        if (session != null) {
            session.free.join();
        }
        shutDown();
        return session == null ? 0 : session.left();
    }

    /**
     * Serves until {@link #stop}, or until SIGTERM or SIGINT. It then waits for the calls that
     * run. A second signal ends the process at once.
     *
     * @throws IOException if the server can't listen; the text says what to do
     * @throws InterruptedException if the thread is interrupted
     * @throws IllegalStateException if calls of the handler did not end by their deadline
     */
    public void serve() throws IOException, InterruptedException {
        try (GrpcServer server = GrpcServer.listen(this, Listen.address(options.socket, options.port, System::getenv));
                Signals signals = Signals.watch(this)) {
            engine.log().info("the handler listens on " + server.address());
            options.onStart.forEach(hook -> hook.accept(server.address()));
            stopping.await();
            server.stop();
            int left = awaitStopped();
            options.onStop.forEach(hook -> engine.log().guard("onStop", hook));
            if (left > 0) {
                throw new IllegalStateException(left + " calls of the handler did not end by their deadline");
            }
        }
    }

    /** Ends the threads of the server, once it has stopped. */
    void shutDown() {
        engine.timer().shutdownNow();
        engine.workers().shutdown();
        engine.internals().shutdown();
    }

    Log log() {
        return engine.log();
    }

    /**
     * Options of a server.
     *
     * @param <H> the kind of handler
     */
    public static final class Builder<H> {
        // More is a mistake, such as a number of bytes.
        private static final int MAX_SETTING = 1 << 24;
        private static final int MAX_PORT = 65535;

        private final H handler;
        private final Function<H, Invoker> kind;
        private final List<UnaryOperator<H>> interceptors = new ArrayList<>();
        private int concurrency = 16;
        private int window = 2000;
        private int batchSize = 500;
        private Path socket;
        private Integer port;
        private Logger logger = System.getLogger("dev.penstock.handler");
        private ThreadFactory threads;
        private final List<Consumer<String>> onStart = new ArrayList<>();
        private final List<Runnable> onStop = new ArrayList<>();
        private BiConsumer<Message, String> onSettled;

        private Builder(H handler, Function<H, Invoker> kind) {
            this.handler = Objects.requireNonNull(handler, "the handler is null");
            this.kind = kind;
        }

        private static int setting(String name, int value, int least, int most) {
            if (value < least || value > most) {
                throw new IllegalArgumentException(
                        "the option " + name + " is " + value + "; it must be a number from " + least + " to " + most);
            }
            return value;
        }

        private static <T> T present(String name, T value, String remedy) {
            if (value == null) {
                throw new IllegalArgumentException("the option " + name + " is null; " + remedy);
            }
            return value;
        }

        /**
         * Sets the maximum number of calls at the same time; 16 by default. Messages with the
         * same key are handled one after the other, and in mode InOrder all are.
         */
        public Builder<H> concurrency(int calls) {
            concurrency = setting("concurrency", calls, 1, MAX_SETTING);
            return this;
        }

        /**
         * Sets the maximum number of messages in memory; 2000 by default. The server takes only
         * as many as it can finish in about two seconds.
         */
        public Builder<H> window(int messages) {
            window = setting("window", messages, 1, MAX_SETTING);
            return this;
        }

        /** Sets the maximum number of messages in one call of a {@link BatchHandler}; 500 by default. */
        public Builder<H> batchSize(int messages) {
            batchSize = setting("batchSize", messages, 1, MAX_SETTING);
            return this;
        }

        /** Listens on this socket, instead of what the environment says. */
        public Builder<H> socket(Path path) {
            socket = present("socket", path, "leave it out to listen where PENSTOCK_HANDLER_SOCKET or PORT say");
            return this;
        }

        /** Listens on this port on all addresses, instead of what the environment says; 0 takes a free one. */
        public Builder<H> port(int number) {
            port = setting("port", number, 0, MAX_PORT);
            return this;
        }

        /** Wraps each call of the handler. The first interceptor is the outermost. */
        public Builder<H> intercept(UnaryOperator<H> interceptor) {
            interceptors.add(present("intercept", interceptor, "leave it out"));
            return this;
        }

        /** Logs to this logger, instead of that with the name {@code dev.penstock.handler}. */
        public Builder<H> logger(Logger other) {
            logger = present("logger", other, "leave it out for the logger dev.penstock.handler");
            return this;
        }

        /**
         * Calls the handler on threads of this factory, such as those of
         * {@code Thread.ofVirtual().factory()}.
         */
        public Builder<H> threads(ThreadFactory factory) {
            threads = present("threads", factory, "leave it out for threads of the server");
            return this;
        }

        /**
         * Calls this, with the address, once the server listens. If it throws, so does
         * {@link HandlerServer#serve}.
         */
        public Builder<H> onStart(Consumer<String> hook) {
            onStart.add(present("onStart", hook, "leave it out"));
            return this;
        }

        /** Calls this after the last call of the handler has ended, as to close pools. */
        public Builder<H> onStop(Runnable hook) {
            onStop.add(present("onStop", hook, "leave it out"));
            return this;
        }

        /**
         * Calls this for each verdict: done, retry, skip, deadLetter, fail or release. It must
         * return quickly, and may be called from several threads at the same time.
         */
        public Builder<H> onSettled(BiConsumer<Message, String> hook) {
            onSettled = present("onSettled", hook, "leave it out");
            return this;
        }

        /** Returns a server. */
        public HandlerServer build() {
            if (socket != null && port != null) {
                throw new IllegalArgumentException(
                        "the options socket (" + socket + ") and port (" + port + ") are both set; choose one");
            }
            H wrapped = handler;
            for (int index = interceptors.size() - 1; index >= 0; index--) {
                wrapped = interceptors.get(index).apply(wrapped);
                if (wrapped == null) {
                    throw new IllegalArgumentException("interceptor " + index + " returned null; it must return a handler");
                }
            }
            return new HandlerServer(this, kind.apply(wrapped));
        }

        /**
         * Builds a server and serves.
         *
         * @throws IOException if the server can't listen
         * @throws InterruptedException if the thread is interrupted
         * @see HandlerServer#serve
         */
        public void serve() throws IOException, InterruptedException {
            build().serve();
        }
    }
}
