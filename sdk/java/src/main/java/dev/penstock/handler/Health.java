package dev.penstock.handler;

import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.ServerCall;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;

/** {@code grpc.health.v1.Health}, as far as the runtime asks. */
final class Health {
    static final MethodDescriptor<byte[], byte[]> CHECK = method("Check", MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> WATCH = method("Watch", MethodType.SERVER_STREAMING);

    private static final byte[] SERVING = {0x08, 1};
    private static final byte[] NOT_SERVING = {0x08, 2};

    private final HandlerServer handler;
    /** The monitor of this object guards it. */
    private final List<ServerCall<byte[], byte[]>> watches = new ArrayList<>();

    Health(HandlerServer handler) {
        this.handler = handler;
    }

    ServerServiceDefinition service() {
        return ServerServiceDefinition.builder("grpc.health.v1.Health")
                .addMethod(CHECK, (call, headers) -> listen(call, true))
                .addMethod(WATCH, (call, headers) -> listen(call, false))
                .build();
    }

    private ServerCall.Listener<byte[]> listen(ServerCall<byte[], byte[]> call, boolean isCheck) {
        call.request(1);
        return new ServerCall.Listener<>() {
            @Override
            public void onHalfClose() {
                answer(call, isCheck);
            }

            @Override
            public void onCancel() {
                synchronized (Health.this) {
                    watches.remove(call);
                }
            }
        };
    }

    private synchronized void answer(ServerCall<byte[], byte[]> call, boolean isLast) {
        boolean isStopping = handler.isStopping();
        call.sendHeaders(new Metadata());
        call.sendMessage(isStopping ? NOT_SERVING : SERVING);
        if (isLast || isStopping) {
            call.close(Status.OK, new Metadata());
        } else {
            watches.add(call);
        }
    }

    /** Reports to each watch that the handler stops. */
    synchronized void stop() {
        for (ServerCall<byte[], byte[]> call : watches) {
            if (!call.isCancelled()) {
                call.sendMessage(NOT_SERVING);
                call.close(Status.OK, new Metadata());
            }
        }
        watches.clear();
    }

    private static MethodDescriptor<byte[], byte[]> method(String name, MethodType type) {
        MethodDescriptor.Marshaller<byte[]> bytes = new MethodDescriptor.Marshaller<>() {
            @Override
            public InputStream stream(byte[] value) {
                return new ByteArrayInputStream(value);
            }

            @Override
            public byte[] parse(InputStream stream) {
                try {
                    return stream.readAllBytes();
                } catch (java.io.IOException error) {
                    throw new java.io.UncheckedIOException(error);
                }
            }
        };
        return MethodDescriptor.<byte[], byte[]>newBuilder()
                .setType(type)
                .setFullMethodName("grpc.health.v1.Health/" + name)
                .setRequestMarshaller(bytes)
                .setResponseMarshaller(bytes)
                .build();
    }
}
