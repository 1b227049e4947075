//! Gauges of a partition that are absent while their values are not known.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::core::{Atomic, GenericGaugeVec};
use prometheus::{IntGauge, IntGaugeVec};

/// A gauge that appears with its first value: what is not known yet is absent,
/// not zero.
pub(crate) struct LazyGauge {
    series: IntGaugeVec,
    labels: [String; 3],
    gauge: OnceLock<IntGauge>,
}

impl LazyGauge {
    pub(super) fn new(series: &IntGaugeVec, labels: &[String; 3]) -> Self {
        Self {
            series: series.clone(),
            labels: labels.clone(),
            gauge: OnceLock::new(),
        }
    }

    pub(crate) fn set(&self, value: i64) {
        self.gauge
            .get_or_init(|| self.series.with_label_values(&self.labels))
            .set(value);
    }
}

/// A gauge that is there only while its value is known.
pub(crate) struct RemovableGauge<P: Atomic> {
    series: GenericGaugeVec<P>,
    labels: [String; 3],
    is_set: AtomicBool,
}

impl<P: Atomic> RemovableGauge<P> {
    pub(super) fn new(series: &GenericGaugeVec<P>, labels: &[String; 3]) -> Self {
        Self {
            series: series.clone(),
            labels: labels.clone(),
            is_set: AtomicBool::new(false),
        }
    }

    pub(crate) fn set(&self, value: P::T) {
        self.is_set.store(true, Ordering::Relaxed);
        self.series.with_label_values(&self.labels).set(value);
    }

    pub(crate) fn remove(&self) {
        if self.is_set.swap(false, Ordering::Relaxed) {
            // Fails only where the series is gone already.
            let _ = self.series.remove_label_values(&self.labels);
        }
    }
}
