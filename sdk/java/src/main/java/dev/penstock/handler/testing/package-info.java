/**
 * Tests of handlers, without Kafka: a runtime in memory ({@link dev.penstock.handler.testing.FakeRuntime}),
 * and an extension for JUnit 5.
 */
package dev.penstock.handler.testing;
