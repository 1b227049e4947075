//! The Penstock consumer runtime: reads Kafka topics as a group and gives each
//! message to a handler.
//!
//! ```text
//! pump ─► work queue ─► handler × n ─► http | embedded
//!   ▲                      │
//!   └────── offsets ◄──────┘
//! ```
//!
//! The binary `penstock-runtime` runs handlers in any language. To embed a handler, implement
//! [`handler::Handler`], or create one from a function with [`handler::handler_fn`]. Pass it to
//! [`Runtime::run`] or [`run_main`].

mod assembly;
mod assignment;
pub mod client;
mod commit;
mod commits;
mod dead_letter;
pub mod decode;
mod delivery;
mod end_code;
mod epochs;
pub mod gaps;
pub mod handler;
mod http;
mod kafka;
mod lag;
mod lanes;
mod last_commit;
mod main_program;
mod memory;
pub mod metrics;
pub mod metrics_reference;
pub mod oauth;
mod observation;
pub mod offsets;
mod outbox;
mod partition;
mod pauses;
mod pins;
mod positions;
pub mod produce;
mod progress;
mod pump;
mod queue;
mod read_ahead;
mod read_size;
mod rebalance;
pub mod record;
mod recovery;
mod rewind;
mod running;
mod server;
mod share;
pub mod signals;
#[cfg(feature = "simulation")]
pub mod simulation;
mod start;
mod strategy;
mod sync;
pub mod telemetry;
mod termination;
mod transactions;
mod worker;

pub use self::http::{HealthCheck, HealthCheckError, ListenError};
pub use dead_letter::DeadLetterError;
pub use delivery::stop_at_once;
pub use end_code::EndCode;
pub use kafka::native::resolve;
pub use kafka::{ConnectCause, ConnectError, METADATA_TIMEOUT, error_text, unknown_topic};
pub use main_program::{Arguments, run_main, run_main_remote};
pub use metrics::Metrics;
pub use produce::{Done, ProducerRecord};
pub use server::{HEALTH_ADDRESS, METRICS_ADDRESS, RunError, Runtime, SECRETS_DIRECTORY};
pub use transactions::TransactionsError;
pub use worker::{Cause, Failure, Position};

pub use penstock_crds as crds;
