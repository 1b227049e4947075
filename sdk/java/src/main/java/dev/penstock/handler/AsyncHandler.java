package dev.penstock.handler;

import java.util.concurrent.CompletionStage;

/**
 * Handles one message and completes later. A stage that fails counts as
 * {@link Verdict.Retry}, unless its exception carries a verdict.
 *
 * <p>The stage is cancelled when the time of the attempt is over, or when the message's
 * partition was assigned to another consumer. A message counts as ended as soon as its stage
 * is complete, so a stage should not be complete before its work has ended.
 */
@FunctionalInterface
public interface AsyncHandler {
    /**
     * Begins to handle a message. It should not block.
     *
     * @param message the message
     * @return a stage that completes with the verdict
     * @throws Exception if the attempt failed
     */
    CompletionStage<Verdict> handle(Message message) throws Exception;
}
