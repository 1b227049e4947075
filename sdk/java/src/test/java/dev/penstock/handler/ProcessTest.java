package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioSocketChannel;
import java.io.BufferedReader;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import penstock.handler.v1.HandlerOuterClass.Batch;
import penstock.handler.v1.HandlerOuterClass.Delivery;
import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.FromRuntime;
import penstock.handler.v1.HandlerOuterClass.Hello;
import penstock.handler.v1.HandlerOuterClass.Run;
import penstock.handler.v1.HandlerOuterClass.Verdict.OutcomeCase;

/** A handler in a process of its own, over gRPC. */
class ProcessTest {
    private static final long MAX_WAIT = 30;

    @TempDir
    Path directory;

    private final List<Runnable> ends = new ArrayList<>();
    private int sockets;

    @AfterEach
    void end() {
        Collections.reverse(ends);
        ends.forEach(Runnable::run);
    }

    /** Something that tests wait for. */
    private abstract static class Waited {
        final synchronized void until(String what, BooleanSupplier condition) throws InterruptedException {
            long end = System.nanoTime() + MAX_WAIT * 1_000_000_000L;
            while (!condition.getAsBoolean()) {
                long left = (end - System.nanoTime()) / 1_000_000;
                assertTrue(left > 0, () -> "waited for " + what + "; " + this);
                wait(left);
            }
        }
    }

    private final class Child extends Waited {
        private final Process process;
        private final StringBuilder output = new StringBuilder();

        Child(String variable) throws IOException {
            ProcessBuilder builder = new ProcessBuilder(
                    Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto",
                    "-cp", System.getProperty("java.class.path"), Program.class.getName());
            builder.environment().keySet().removeAll(List.of("PORT", "PENSTOCK_HANDLER_SOCKET"));
            int equals = variable.indexOf('=');
            builder.environment().put(variable.substring(0, equals), variable.substring(equals + 1));
            process = builder.redirectErrorStream(true).start();
            ends.add(process::destroyForcibly);
            Thread reader = new Thread(this::read);
            reader.setDaemon(true);
            reader.start();
        }

        private void read() {
            try (BufferedReader lines = process.inputReader()) {
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    synchronized (this) {
                        output.append(line).append('\n');
                        notifyAll();
                    }
                }
            } catch (IOException closed) {
                // The process has ended.
            }
        }

        void line(String text) throws InterruptedException {
            until(text, () -> output.indexOf(text) >= 0);
        }

        int exit() throws InterruptedException {
            assertTrue(process.waitFor(MAX_WAIT, TimeUnit.SECONDS), () -> "it does not end: " + this);
            return process.exitValue();
        }

        void signal(String name) throws Exception {
            assertEquals(0, new ProcessBuilder("kill", "-" + name, String.valueOf(process.pid())).start().waitFor());
        }

        @Override
        public synchronized String toString() {
            return output.toString();
        }
    }

    private final class Client extends Waited {
        final Set<Long> begun = new HashSet<>();
        final Set<Long> done = new HashSet<>();
        private final ManagedChannel channel;
        private final ClientCall<FromRuntime, FromHandler> call;
        private int credits;
        private Status status;
        private long nextId = 1;

        Client(SocketAddress address) throws InterruptedException {
            channel = channel(address);
            call = channel.newCall(GrpcServer.HANDLE, CallOptions.DEFAULT.withWaitForReady());
            call.start(new ClientCall.Listener<>() {
                @Override
                public void onMessage(FromHandler answer) {
                    take(answer);
                    call.request(1);
                }

                @Override
                public void onClose(Status ended, Metadata trailers) {
                    synchronized (Client.this) {
                        status = ended;
                        Client.this.notifyAll();
                    }
                }
            }, new Metadata());
            call.request(1);
            call.sendMessage(FromRuntime.newBuilder()
                    .setHello(Hello.newBuilder().setVersion(2).setConsumer("kafka_consumer.test").setGroup("test")
                            .setTimeoutMs(60_000).setWaitMs(60_000))
                    .build());
            until("credits", () -> credits > 0);
        }

        private synchronized void take(FromHandler answer) {
            credits += answer.getCredits();
            answer.getBegunList().forEach(range -> add(begun, range.getFirstId(), range.getCount()));
            answer.getVerdictsList().stream().filter(verdict -> verdict.getOutcomeCase() == OutcomeCase.DONE)
                    .forEach(verdict -> add(done, verdict.getFirstId(), verdict.getCount()));
            notifyAll();
        }

        private void add(Set<Long> ids, long first, long count) {
            for (long id = first; id < first + count; id++) {
                ids.add(id);
            }
        }

        /** Sends messages; returns the number of the first. */
        synchronized long send(int attempt, String... values) {
            long first = nextId;
            Run.Builder run = Run.newBuilder().setTopic("test").setEpoch(1);
            for (String value : values) {
                run.addDeliveries(Delivery.newBuilder().setOffset(nextId++).setAttempt(attempt).setValue(ByteString.copyFromUtf8(value)));
            }
            call.sendMessage(FromRuntime.newBuilder()
                    .setBatch(Batch.newBuilder().setFirstId(first).setBeginByMs(System.currentTimeMillis() + 60_000).addRuns(run))
                    .build());
            return first;
        }

        Status.Code ended() throws InterruptedException {
            until("the end of the stream", () -> status != null);
            return status.getCode();
        }

        @Override
        public synchronized String toString() {
            return "begun " + begun + ", done " + done.size() + ", " + status;
        }
    }

    private ManagedChannel channel(SocketAddress address) {
        boolean isUnix = address instanceof UnixDomainSocketAddress;
        EventLoopGroup loop = new MultiThreadIoEventLoopGroup(1, HandlerServer.daemons("client"), NioIoHandler.newFactory());
        NettyChannelBuilder builder = NettyChannelBuilder.forAddress(address).usePlaintext().eventLoopGroup(loop)
                .channelType(isUnix ? NioDomainSocketChannel.class : NioSocketChannel.class);
        ManagedChannel channel = isUnix ? builder.overrideAuthority("localhost").build() : builder.build();
        ends.add(channel::shutdownNow);
        ends.add(() -> loop.shutdownGracefully(0, 0, TimeUnit.SECONDS));
        return channel;
    }

    private Path socket() {
        return directory.resolve(sockets++ + ".sock");
    }

    private Child start(Path socket) throws Exception {
        Child child = new Child("PENSTOCK_HANDLER_SOCKET=" + socket);
        child.line("the handler listens on " + socket);
        return child;
    }

    private Client open(Path socket) throws Exception {
        return new Client(UnixDomainSocketAddress.of(socket));
    }

    @ParameterizedTest
    @CsvSource({"exit, 3", "crash, 134"})
    void theReportOfACallThatEndsTheProcessLeavesBefore(String poison, int code) throws Exception {
        Path socket = socket();
        Child child = start(socket);
        Client client = open(socket);
        long first = client.send(1, "", "", "", poison, "", "");
        assertNotEquals(Status.Code.OK, client.ended());
        assertTrue(client.begun.contains(first + 3), client.toString());
        assertEquals(code, child.exit());
    }

    @Test
    void theReportLeavesBeforeASecondAttemptAfterManyShortCalls() throws Exception {
        Path socket = socket();
        Child child = start(socket);
        Client client = open(socket);
        for (int sent = 0; sent < 5000; sent += 100) {
            client.send(1, Collections.nCopies(100, "").toArray(String[]::new));
        }
        client.until("all", () -> client.done.size() == 5000);
        long poison = client.send(2, "crash");
        assertNotEquals(Status.Code.OK, client.ended());
        assertTrue(client.begun.contains(poison), client.toString());
        assertEquals(134, child.exit());
    }

    @ParameterizedTest
    @ValueSource(strings = {"TERM", "INT"})
    void aSignalFinishesWhatRunsAndExitsWithZero(String signal) throws Exception {
        Path socket = socket();
        Child child = start(socket);
        Client client = open(socket);
        long first = client.send(1, "slow");
        child.line("at work");
        child.signal(signal);
        assertEquals(Status.Code.OK, client.ended());
        assertTrue(client.done.contains(first));
        assertEquals(0, child.exit());
        child.line("stopped");
        assertFalse(child.toString().contains("WARN"), child.toString());
        assertFalse(Files.exists(socket));
    }

    @Test
    void aSecondSignalEndsAtOnce() throws Exception {
        Path socket = socket();
        Child child = start(socket);
        open(socket).send(1, "block");
        child.line("at work");
        child.signal("TERM");
        child.line("stopping");
        child.signal("TERM");
        assertEquals(128 + 15, child.exit());
    }

    @Test
    void aLiveSocketIsNotTakenAndThatOfAKilledProcessIs() throws Exception {
        Path socket = socket();
        Child first = start(socket);
        Child second = new Child("PENSTOCK_HANDLER_SOCKET=" + socket);
        second.line("another process listens on " + socket);
        assertEquals(1, second.exit());
        Client client = open(socket);
        long one = client.send(1, "");
        client.until("the verdict", () -> client.done.contains(one));
        first.process.destroyForcibly().waitFor();
        assertTrue(Files.exists(socket));
        start(socket);
        open(socket);
    }

    @Test
    void aPortIsServed() throws Exception {
        Child child = new Child("PORT=0");
        child.line("the handler listens on port ");
        String port = child.toString().replaceAll("(?s).*listens on port (\\d+).*", "$1");
        Client client = new Client(new InetSocketAddress("127.0.0.1", Integer.parseInt(port)));
        long first = client.send(1, "");
        client.until("done", () -> client.done.contains(first));
    }

    @Test
    void theHealthServiceAnswersAndAWatchDoesNotKeepTheProcess() throws Exception {
        Path socket = socket();
        Child child = start(socket);
        ManagedChannel channel = channel(UnixDomainSocketAddress.of(socket));
        Answers check = new Answers(channel, Health.CHECK);
        check.until("the answer", () -> check.seen.equals(List.of(1)));
        Answers watch = new Answers(channel, Health.WATCH);
        watch.until("the first answer", () -> watch.seen.equals(List.of(1)));
        child.signal("TERM");
        watch.until("the end", () -> watch.hasEnded);
        assertEquals(List.of(1, 2), watch.seen);
        assertEquals(0, child.exit());
    }

    /** Answers of the health service. */
    private static final class Answers extends Waited {
        private final List<Integer> seen = new ArrayList<>();
        private boolean hasEnded;

        Answers(ManagedChannel channel, MethodDescriptor<byte[], byte[]> method) {
            ClientCall<byte[], byte[]> call = channel.newCall(method, CallOptions.DEFAULT.withWaitForReady());
            call.start(new ClientCall.Listener<>() {
                @Override
                public void onMessage(byte[] answer) {
                    synchronized (Answers.this) {
                        seen.add((int) answer[1]);
                        Answers.this.notifyAll();
                    }
                    call.request(1);
                }

                @Override
                public void onClose(Status status, Metadata trailers) {
                    synchronized (Answers.this) {
                        hasEnded = true;
                        Answers.this.notifyAll();
                    }
                }
            }, new Metadata());
            call.request(2);
            call.sendMessage(new byte[0]);
            call.halfClose();
        }

        @Override
        public synchronized String toString() {
            return seen.toString();
        }
    }
}
