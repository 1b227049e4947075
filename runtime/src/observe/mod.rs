//! The view of a consumer from outside: metrics, health pages, and whether it makes progress.

pub(crate) mod http;
pub mod metrics;
pub mod metrics_reference;
pub(crate) mod observation;
pub(crate) mod progress;
