//! Messages that are done with, on their way to their partition.

use std::ops::Range;
use std::sync::Arc;

use crate::partition::Partition;

/// Those of one partition, noted together under one lock; at the latest when this is
/// dropped.
#[derive(Default)]
pub(super) struct Settled {
    partition: Option<Arc<Partition>>,
    /// Offsets, those that follow each other as one.
    runs: Vec<Range<i64>>,
}

impl Settled {
    /// Adds a message. Those before it are noted first if they are of another partition.
    pub(super) fn add(&mut self, partition: &Arc<Partition>, offset: i64) {
        let goes_on = |it: &Arc<Partition>| Arc::ptr_eq(it, partition);
        if !self.partition.as_ref().is_some_and(goes_on) {
            self.note();
            self.partition = Some(Arc::clone(partition));
        }
        match self.runs.last_mut() {
            Some(run) if run.end == offset => run.end += 1,
            _ => self.runs.push(offset..offset + 1),
        }
    }

    /// Notes all that were added.
    pub(super) fn note(&mut self) {
        if let Some(partition) = self.partition.take() {
            partition.settle(self.runs.drain(..));
        }
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        self.note();
    }
}
