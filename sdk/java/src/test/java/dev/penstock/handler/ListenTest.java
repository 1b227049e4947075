package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.ServerSocketChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ListenTest {
    @TempDir
    Path directory;

    private static Object address(Map<String, String> environment) throws IOException {
        return Listen.address(null, null, environment::get);
    }

    private static Throwable serve(HandlerServer.Builder<Handler> options) {
        return assertThrows(IOException.class, options.logger(new CapturedLog())::serve);
    }

    @Test
    void theEnvironmentSaysWhereToListen() throws Exception {
        assertEquals(UnixDomainSocketAddress.of("/run/penstock/handler.sock"), address(Map.of()));
        assertEquals(UnixDomainSocketAddress.of("/a"), address(Map.of("PENSTOCK_HANDLER_SOCKET", "/a", "PORT", "1")));
        assertEquals(new InetSocketAddress(1), address(Map.of("PENSTOCK_HANDLER_SOCKET", "", "PORT", "1")));
        for (String port : new String[] {"http", "65536", "-1", "99999999999"}) {
            String text = assertThrows(IllegalArgumentException.class, () -> address(Map.of("PORT", port))).getMessage();
            assertEquals("PORT is " + port + "; it must be a number up to 65535", text);
        }
        String longPath = "/" + "a".repeat(107);
        String text = assertThrows(IllegalArgumentException.class, () -> address(Map.of("PENSTOCK_HANDLER_SOCKET", longPath))).getMessage();
        assertTrue(text.startsWith("the path of a socket has at most 107 bytes"), text);
    }

    @Test
    void aFileThatIsNoSocketIsKept() throws Exception {
        Path file = Files.writeString(directory.resolve("precious"), "data");
        Throwable error = serve(HandlerServer.of(message -> Verdict.done()).socket(file));
        assertTrue(error.getMessage().contains("precious is not a socket; remove it, or choose another path"), error.getMessage());
        assertEquals("data", Files.readString(file));
        Path link = Files.createSymbolicLink(directory.resolve("link"), file);
        assertTrue(serve(HandlerServer.of(message -> Verdict.done()).socket(link)).getMessage().contains("is not a socket"));
        assertTrue(Files.exists(link, LinkOption.NOFOLLOW_LINKS));
    }

    @Test
    void aSocketInUseIsNotTaken() throws Exception {
        Path path = directory.resolve("used.sock");
        try (ServerSocketChannel other = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            other.bind(UnixDomainSocketAddress.of(path));
            Throwable error = serve(HandlerServer.of(message -> Verdict.done()).socket(path));
            assertTrue(error.getMessage().contains("another process listens on"), error.getMessage());
            assertTrue(Files.exists(path));
        }
    }

    @Test
    void aPortInUseIsNotTaken() throws Exception {
        try (ServerSocket other = new ServerSocket(0)) {
            Throwable error = serve(HandlerServer.of(message -> Verdict.done()).port(other.getLocalPort()));
            assertTrue(error.getMessage().contains("the handler can't listen on port " + other.getLocalPort() + ": "), error.getMessage());
            assertTrue(error.getMessage().contains("in use"), error.getMessage());
        }
    }

    @Test
    void aDirectoryThatIsMissingIsNamed() {
        Throwable error = serve(HandlerServer.of(message -> Verdict.done()).socket(Path.of("/nowhere/handler.sock")));
        assertTrue(error.getMessage().contains("the handler can't listen on /nowhere/handler.sock: "), error.getMessage());
    }

    @Test
    void aStaleSocketIsReplacedAndRemovedAtTheEnd() throws Exception {
        Path path = directory.resolve("stale.sock");
        ServerSocketChannel killed = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        killed.bind(UnixDomainSocketAddress.of(path));
        killed.close();
        assertTrue(Files.exists(path));
        HandlerServer[] server = new HandlerServer[1];
        server[0] = HandlerServer.of(message -> Verdict.done()).logger(new CapturedLog()).socket(path)
                .onStart(address -> server[0].stop()).build();
        server[0].serve();
        assertFalse(Files.exists(path));
    }

    @Test
    void aStartHookThatThrowsEndsTheServer() {
        Path path = directory.resolve("hook.sock");
        HandlerServer.Builder<Handler> options = HandlerServer.of(message -> Verdict.done()).logger(new CapturedLog())
                .socket(path).onStart(address -> {
                    throw new IllegalStateException("no database");
                });
        assertEquals("no database", assertThrows(IllegalStateException.class, options::serve).getMessage());
        assertFalse(Files.exists(path));
    }
}
