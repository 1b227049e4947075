//! The `KafkaConsumer` resource: its types, defaults and rules, and the
//! librdkafka configuration that follows from it.
//!
//! Data flows one way: [`manifest`] reads YAML, [`validate`] turns it into a
//! [`validate::ValidatedConsumer`], and the operator, the runtime and the
//! command line work from that.

#![forbid(unsafe_code)]

pub mod crd;
pub mod generated;
pub mod librdkafka;
pub mod manifest;
pub mod names;
pub mod reference;
pub mod rules;
mod schema;
pub mod spec;
mod suggest;
pub mod validate;
pub mod violation;
