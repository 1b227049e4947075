package dev.penstock.handler;

/**
 * Handles one message. The verdict decides what becomes of it; an exception or an error
 * counts as {@link Verdict.Retry}, unless it carries a verdict ({@link VerdictException}).
 *
 * <p>The thread is interrupted when the time of the attempt is over, or when the message's
 * partition was assigned to another consumer.
 */
@FunctionalInterface
public interface Handler {
    /**
     * Handles a message.
     *
     * @param message the message
     * @return the verdict; null counts as a failure
     * @throws Exception if the attempt failed
     */
    Verdict handle(Message message) throws Exception;
}
