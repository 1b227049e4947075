/** Spans around calls of a handler, for programs with OpenTelemetry's API. */
package dev.penstock.handler.opentelemetry;
