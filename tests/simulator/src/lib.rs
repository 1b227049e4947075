//! Deterministic simulation of the runtime.
//!
//! A seed becomes a [`Scenario`]; the runtime's engine plays it on a simulated Kafka; the
//! rules in [`rules`] judge what was left behind, with the oracle that judges the tests on
//! a real Kafka among them. A scenario that breaks a rule is made smaller by [`shrink`].

pub mod campaign;
pub mod rules;
pub mod shrink;
mod story;

pub use penstock_runtime::simulation::Scenario;
