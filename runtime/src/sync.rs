//! The primitives of the types that the pump, the handlers and librdkafka's threads share:
//! the queue and the partitions.
//!
//! Only names: `tests/interleavings` compiles those modules with a module of the same names,
//! in which a scheduler decides before each operation which thread continues.

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, Ordering,
};

pub(crate) use parking_lot::Mutex;
pub(crate) use tokio::sync::Notify;
pub(crate) use tokio_util::sync::CancellationToken;
