package dev.penstock.handler;

import java.io.IOException;
import java.net.ConnectException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.function.UnaryOperator;

/** Says where a server listens, and makes room for it. */
final class Listen {
    private static final String DEFAULT_SOCKET = "/run/penstock/handler.sock";
    // On Linux; macOS takes 103.
    private static final int MAX_SOCKET = 107;
    private static final int FILE_TYPE = 0xF000;
    private static final int SOCKET_TYPE = 0xC000;

    private Listen() {}

    /** Returns the address that the options name, or else the environment. */
    static SocketAddress address(Path socket, Integer port, UnaryOperator<String> environment) throws IOException {
        if (port != null) {
            return new InetSocketAddress(port);
        }
        if (socket != null) {
            return unix(socket.toString());
        }
        String path = environment.apply("PENSTOCK_HANDLER_SOCKET");
        if (path != null && !path.isEmpty()) {
            return unix(path);
        }
        String number = environment.apply("PORT");
        if (number == null || number.isEmpty()) {
            return unix(DEFAULT_SOCKET);
        }
        if (!number.matches("[0-9]{1,5}") || Integer.parseInt(number) > 65535) {
            throw new IllegalArgumentException("PORT is " + number + "; it must be a number up to 65535");
        }
        return new InetSocketAddress(Integer.parseInt(number));
    }

    private static SocketAddress unix(String path) {
        if (path.getBytes(StandardCharsets.UTF_8).length > MAX_SOCKET) {
            throw new IllegalArgumentException("the path of a socket has at most " + MAX_SOCKET + " bytes: " + path);
        }
        return UnixDomainSocketAddress.of(path);
    }

    /** Returns a remedy to add to an error, if nobody has said where to listen. */
    static String remedy(SocketAddress address) {
        boolean isDefault = address instanceof UnixDomainSocketAddress unix && unix.getPath().equals(Path.of(DEFAULT_SOCKET));
        return isDefault ? "; outside of a pod set PENSTOCK_HANDLER_SOCKET or PORT, as penstock dev does" : "";
    }

    /**
     * Removes a socket that a killed process has left. It touches neither a socket on which
     * somebody listens nor a file of another kind.
     */
    static void removeStale(Path path) throws IOException {
        int mode;
        try {
            mode = (Integer) Files.getAttribute(path, "unix:mode", LinkOption.NOFOLLOW_LINKS);
        } catch (NoSuchFileException none) {
            return;
        }
        if ((mode & FILE_TYPE) != SOCKET_TYPE) {
            throw new IOException(path + " is not a socket; remove it, or choose another path");
        }
        try (SocketChannel probe = SocketChannel.open(UnixDomainSocketAddress.of(path))) {
            throw new IOException("another process listens on " + path + "; end it, or choose another path");
        } catch (ConnectException refused) {
            // ECONNREFUSED: nobody listens.
            Files.delete(path);
        } catch (java.net.SocketException error) {
            throw new IOException("it is unknown whether another process listens on " + path + ": " + error.getMessage(), error);
        }
    }

    /** Returns what identifies a file; null if it can't be known. */
    static Object identity(Path path) {
        try {
            return Files.getAttribute(path, "unix:ino", LinkOption.NOFOLLOW_LINKS);
        } catch (IOException | RuntimeException unknown) {
            return null;
        }
    }
}
