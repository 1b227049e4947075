package dev.penstock.handler;

import java.util.concurrent.CountDownLatch;

/** A handler in a process, for {@link ProcessTest}. It does what the message says. */
final class Program {
    private Program() {}

    public static void main(String[] arguments) throws Exception {
        HandlerServer.of(Program::handle).concurrency(8).onStop(() -> System.out.println("stopped")).serve();
    }

    private static Verdict handle(Message message) throws Exception {
        switch (message.text()) {
            case "exit" -> System.exit(3);
            case "crash" -> Runtime.getRuntime().halt(134);
            case "slow" -> {
                System.out.println("at work");
                // Its end is what the test waits for; it lasts as long as a signal needs.
                Thread.sleep(500);
            }
            case "block" -> {
                System.out.println("at work");
                new CountDownLatch(1).await();
            }
            default -> {}
        }
        return Verdict.done();
    }
}
