//! The Penstock operator: it keeps a Deployment running for each
//! [`KafkaConsumer`](penstock_crds::spec::KafkaConsumer).
//!
//! ```text
//! read ─► validate ─► resolve ─► build ─► apply ─► prune ─► status
//! ```
//!
//! [`reconcile`] runs these steps in this order. Watches fill the stores with the state of the
//! cluster ([`existing`], [`pods`], [`secrets`]), and [`kafka`] reads topics and positions. Both
//! report to [`controller`] which consumer is to be reconciled again. Nothing is polled from the
//! API server.

#![forbid(unsafe_code)]

pub mod api;
pub mod apply;
pub mod arguments;
pub mod backoff;
pub mod build;
pub mod context;
pub mod controller;
pub mod events;
pub mod existing;
pub mod http;
pub mod kafka;
pub mod key;
pub mod lease;
pub mod metrics;
pub mod passes;
pub mod pods;
pub mod probe;
pub mod program;
pub mod read;
pub mod reason;
pub mod reconcile;
pub mod replica_sets;
pub mod secrets;
pub mod siblings;
pub mod status;
pub mod triggers;
pub mod watches;

/// The operator's name: its field manager, its Lease and the reporter of its events.
pub const NAME: &str = "penstock-operator";
