package dev.penstock.handler;

import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioServerSocketChannel;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.FromRuntime;

/**
 * A gRPC server on a Unix socket or a port. It uses the JDK's own sockets, also of Unix, so
 * that no native library needs to be unpacked and loaded.
 */
final class GrpcServer implements AutoCloseable {
    /** How long a stop waits, in milliseconds, for the runtime to end its streams. */
    private static final long MAX_GOODBYE = 1000;

    static final MethodDescriptor<FromRuntime, FromHandler> HANDLE = MethodDescriptor.<FromRuntime, FromHandler>newBuilder()
            .setType(MethodType.BIDI_STREAMING)
            .setFullMethodName("penstock.handler.v1.Handler/Handle")
            .setRequestMarshaller(marshaller(FromRuntime.parser()))
            .setResponseMarshaller(marshaller(FromHandler.parser()))
            .build();

    private final HandlerServer handler;
    private final Health health;
    private final Server server;
    private final EventLoopGroup loop;
    private final Path socket;
    private final Object identity;

    private GrpcServer(HandlerServer handler, Health health, Server server, EventLoopGroup loop, SocketAddress address) {
        this.handler = handler;
        this.health = health;
        this.server = server;
        this.loop = loop;
        socket = address instanceof UnixDomainSocketAddress unix ? unix.getPath() : null;
        identity = socket == null ? null : Listen.identity(socket);
    }

    static GrpcServer listen(HandlerServer handler, SocketAddress address) throws IOException {
        EventLoopGroup loop = new MultiThreadIoEventLoopGroup(1, HandlerServer.daemons("penstock-grpc"), NioIoHandler.newFactory());
        boolean isUnix = address instanceof UnixDomainSocketAddress;
        Health health = new Health(handler);
        NettyServerBuilder builder = NettyServerBuilder.forAddress(address, InsecureServerCredentials.create());
        if (isUnix) {
            // Null removes it: a Unix socket has no such option, and Netty would log a warning.
            builder.withChildOption(ChannelOption.SO_KEEPALIVE, null);
        }
        Server server = builder
                .channelType(isUnix ? NioServerDomainSocketChannel.class : NioServerSocketChannel.class)
                .bossEventLoopGroup(loop)
                .workerEventLoopGroup(loop)
                .directExecutor()
                .maxInboundMessageSize(Integer.MAX_VALUE)
                .permitKeepAliveTime(1, TimeUnit.MILLISECONDS)
                .permitKeepAliveWithoutCalls(true)
                .addService(ServerServiceDefinition.builder("penstock.handler.v1.Handler")
                        .addMethod(HANDLE, (call, headers) -> new Stream(handler, call))
                        .build())
                .addService(health.service())
                .build();
        try {
            if (isUnix) {
                Listen.removeStale(((UnixDomainSocketAddress) address).getPath());
            }
            server.start();
        } catch (IOException error) {
            loop.shutdownGracefully(0, 0, TimeUnit.SECONDS);
            handler.shutDown();
            throw explain(address, error);
        }
        return new GrpcServer(handler, health, server, loop, address);
    }

    private static IOException explain(SocketAddress address, IOException error) {
        if (error.getCause() == null) {
            return new IOException(error.getMessage() + Listen.remedy(address), error);
        }
        String where = address instanceof InetSocketAddress inet ? "port " + inet.getPort() : String.valueOf(address);
        return new IOException("the handler can't listen on " + where + ": " + error.getCause().getMessage() + Listen.remedy(address), error);
    }

    /** Returns where the server listens, for people. */
    String address() {
        return socket != null ? socket.toString() : "port " + server.getPort();
    }

    /** Has the runtime know that the handler stops, and takes no other stream. */
    void stop() {
        health.stop();
    }

    @Override
    public void close() throws InterruptedException {
        server.shutdown();
        if (!server.awaitTermination(MAX_GOODBYE, TimeUnit.MILLISECONDS)) {
            server.shutdownNow();
        }
        if (socket != null && identity != null && identity.equals(Listen.identity(socket))) {
            try {
                Files.deleteIfExists(socket);
            } catch (IOException left) {
                handler.log().warn("the socket can't be removed; the next start does so", left);
            }
        }
        loop.shutdownGracefully(0, 1, TimeUnit.SECONDS).await(1, TimeUnit.SECONDS);
        handler.shutDown();
    }

    static <T extends com.google.protobuf.MessageLite> MethodDescriptor.Marshaller<T> marshaller(com.google.protobuf.Parser<T> parser) {
        return new MethodDescriptor.Marshaller<>() {
            @Override
            public InputStream stream(T value) {
                return value.toByteString().newInput();
            }

            @Override
            public T parse(InputStream stream) {
                try {
                    return parser.parseFrom(stream);
                } catch (com.google.protobuf.InvalidProtocolBufferException error) {
                    throw Status.INTERNAL.withDescription("a message on the stream is broken").withCause(error).asRuntimeException();
                }
            }
        };
    }

    /** A gRPC call as a stream. Its monitor guards the writing. */
    private static final class Stream extends ServerCall.Listener<FromRuntime> implements HandlerStream.Peer {
        private final ServerCall<FromRuntime, FromHandler> call;
        private final HandlerStream stream;
        private boolean isLost;

        Stream(HandlerServer server, ServerCall<FromRuntime, FromHandler> call) {
            this.call = call;
            // Ready then means that all is written to the connection.
            call.setOnReadyThreshold(1);
            call.sendHeaders(new Metadata());
            stream = server.accept(this);
            call.request(1);
        }

        @Override
        public void onMessage(FromRuntime message) {
            stream.receive(message);
            call.request(1);
        }

        @Override
        public void onHalfClose() {
            stream.drain();
        }

        @Override
        public void onCancel() {
            synchronized (this) {
                isLost = true;
                notifyAll();
            }
            stream.lose();
        }

        @Override
        public synchronized void onReady() {
            notifyAll();
        }

        @Override
        public synchronized void send(FromHandler answer) throws Exception {
            if (!isLost) {
                call.sendMessage(answer);
            }
            while (!isLost && !call.isReady()) {
                wait();
            }
            if (isLost) {
                throw new IOException("the stream is lost");
            }
        }

        @Override
        public synchronized void end(String error) {
            if (isLost) {
                return;
            }
            isLost = true;
            notifyAll();
            Status status = error == null ? Status.OK : Status.FAILED_PRECONDITION.withDescription(error);
            call.close(status, new Metadata());
        }
    }
}
