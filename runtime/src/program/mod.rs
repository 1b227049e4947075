//! The parts of a program that runs consumers: arguments, signals, logs and traces, and the
//! message that a container leaves behind.

pub(crate) mod end_code;
pub(crate) mod main_program;
pub mod signals;
pub mod telemetry;
pub(crate) mod termination;
