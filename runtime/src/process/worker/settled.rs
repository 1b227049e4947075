//! Settled messages that are not noted with their partition yet.

use std::ops::Range;
use std::sync::Arc;

use crate::group::partition::Partition;

/// Settled messages of one partition, which are noted together under one lock, at the latest
/// when this is dropped.
#[derive(Default)]
pub(super) struct Settled {
    partition: Option<Arc<Partition>>,
    /// The offsets, as runs of consecutive ones.
    runs: Vec<Range<i64>>,
}

impl Settled {
    /// Adds a message. Earlier messages are noted first if they are of another partition.
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

    /// Notes all added messages.
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
