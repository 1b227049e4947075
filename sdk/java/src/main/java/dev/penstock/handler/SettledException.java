package dev.penstock.handler;

/** The handler is no longer at work on the message. */
public final class SettledException extends IllegalStateException {
    private static final long serialVersionUID = 1;

    SettledException() {
        super("the handler is no longer at work on this message");
    }
}
