package dev.penstock.handler;

import java.util.List;

/**
 * Handles several messages in one call.
 *
 * <p>In mode InOrder the handler must process the messages in their order, and stop at the
 * first that is neither done nor skipped: those behind it come again, whatever their verdicts
 * say. In mode KeyOrdered no two messages of a call have the same key.
 */
@FunctionalInterface
public interface BatchHandler {
    /**
     * Handles messages. An exception is the verdict on all.
     *
     * @param messages at least one message
     * @return a verdict for each message, in their order; {@link Verdict#all} gives one to all
     * @throws Exception if the attempt failed for all
     */
    List<Verdict> handle(List<Message> messages) throws Exception;
}
