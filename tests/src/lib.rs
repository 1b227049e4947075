//! The harness of Penstock's tests: a real Kafka broker, messages and offsets on
//! it, a handler that records what it is given, the programs under test as child
//! processes, the rules that their behaviour must keep, and a real Kubernetes.
//!
//! A test takes [`kafka::Kafka::shared`] unless it stops the broker or needs TLS, and
//! [`kafka::Cluster`] where replicas matter,
//! makes a topic of its own with [`topics::create`], fills it with
//! [`produce::Produce`], starts a [`recorder::Recorder`] and a
//! [`consumer::Consumer`] on a [`manifest::Manifest`], waits with [`wait`], and judges with [`oracle`].
//! Where messages must keep coming meanwhile, [`load::Load`] sends them.
//! A test on Kubernetes takes [`kubernetes::ControlPlane`] when an API server will
//! do, else [`kubernetes::Cluster::shared`] with its Kafka and its images.

#![forbid(unsafe_code)]

mod certificates;
pub mod consumer;
pub mod fleet;
pub mod groups;
mod guard;
pub mod kafka;
pub mod kafka_mock;
pub mod kubernetes;
pub mod lane;
pub mod languages;
pub mod load;
pub mod manifest;
pub mod once;
pub mod operator;
pub mod oracle;
pub mod page;
pub mod ports;
pub mod position;
pub mod process;
pub mod produce;
pub mod prometheus;
pub mod promtext;
pub mod recorder;
pub mod serving;
mod sync;
pub mod topics;
pub mod usage;
pub mod variable;
pub mod wait;
pub mod wire;

pub use consumer::{Consumer, Launch};
pub use manifest::Manifest;
pub use position::Position;
