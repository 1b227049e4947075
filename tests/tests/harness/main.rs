//! The harness itself, on a real broker, and the handlers of the examples.

#![forbid(unsafe_code)]

mod alone;
mod broker;
mod examples;
mod recorder;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;
