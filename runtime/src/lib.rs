//! The Penstock consumer runtime: reads Kafka topics as a group and gives each
//! message to a handler.
//!
//! ```text
//! pump ─► work queue ─► handler × n ─► http | grpc | embedded
//!   ▲                      │
//!   └────── offsets ◄──────┘
//! ```
//!
//! The binary `penstock-runtime` runs handlers in any language. To embed a handler, implement
//! [`handler::Handler`], or create one from a function with [`handler::handler_fn`]. Pass it to
//! [`Runtime::run`] or [`run_main`].

mod commit;
mod consumer;
mod fetch;
mod group;
pub mod handler;
mod kafka;
mod observe;
pub mod offsets;
mod process;
mod program;
mod queue;
#[cfg(feature = "simulation")]
pub mod simulation;
mod sync;
mod transactions;

pub use handler::{decode, produce, record};
pub use kafka::{client, oauth};
pub use observe::{metrics, metrics_reference};
pub use offsets::gaps;
pub use program::{signals, telemetry};

pub use consumer::remote::RemoteHandler;
pub use consumer::server::{HEALTH_ADDRESS, METRICS_ADDRESS, RunError, Runtime, SECRETS_DIRECTORY};
pub use handler::produce::{Done, ProducerRecord};
pub use handler::record::Position;
pub use kafka::native::resolve;
pub use kafka::{ConnectCause, ConnectError, METADATA_TIMEOUT, error_text, unknown_topic};
pub use observe::http::{HealthCheck, HealthCheckError, ListenError};
pub use observe::metrics::Metrics;
pub use process::dead_letter::DeadLetterError;
pub use process::delivery::stop_at_once;
pub use process::worker::{Cause, Failure};
pub use program::end_code::EndCode;
pub use program::main_program::{Arguments, run_main, run_main_remote};
pub use transactions::TransactionsError;

pub use penstock_crds as crds;
