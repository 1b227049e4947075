package dev.penstock.handler;

import java.util.concurrent.ExecutorService;
import java.util.concurrent.ScheduledExecutorService;
import java.util.function.BiConsumer;

/** What the streams of a server share. */
record Engine(
        Invoker invoker,
        int concurrency,
        int window,
        int batchSize,
        Log log,
        BiConsumer<Message, String> onSettled,
        ExecutorService workers,
        ExecutorService internals,
        ScheduledExecutorService timer) {}
