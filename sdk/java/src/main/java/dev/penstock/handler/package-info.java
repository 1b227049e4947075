/**
 * Handlers of Kafka messages that speak gRPC with Penstock's runtime.
 * {@link dev.penstock.handler.HandlerServer} is the way in.
 */
package dev.penstock.handler;
