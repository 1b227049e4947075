//! The series of one topic and of one partition, looked up once.

use prometheus::core::{AtomicF64, AtomicI64};
use prometheus::{Histogram, IntCounter, IntGauge};

use super::gauges::{LazyGauge, RemovableGauge};

/// The series of one topic.
#[derive(Clone)]
pub(crate) struct TopicMetrics {
    pub(crate) success: Outcome,
    pub(crate) failure: Outcome,
    pub(crate) active: IntGauge,
    pub(crate) latency: Histogram,
    pub(crate) invalid: IntCounter,
    pub(crate) retried: IntCounter,
    pub(crate) skipped: IntCounter,
    pub(crate) dead_lettered: IntCounter,
    pub(crate) abandoned: IntCounter,
    pub(crate) already_handled: IntCounter,
}

/// Time and count of the messages that ended one way.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) time: Histogram,
    pub(crate) count: IntCounter,
}

/// The series of one partition.
pub(crate) struct PartitionMetrics {
    pub(crate) offset: LazyGauge,
    pub(crate) committed: LazyGauge,
    pub(crate) lag: RemovableGauge<AtomicI64>,
    pub(crate) time_lag: RemovableGauge<AtomicF64>,
    pub(crate) last_fetch: RemovableGauge<AtomicF64>,
    pub(crate) blocked: RemovableGauge<AtomicF64>,
}
