//! Ends of transactions that a broker lost.
//!
//! A broker that restarts has to tell partitions that a transaction was committed or
//! aborted. Kafka (4.3) takes a partition that has no leader at that time for one that
//! was deleted, tells it nothing and calls the transaction complete; with a single
//! replica a partition has none while its broker stops, or is let in again. The
//! transaction stays open there until the same producer ends another one, in whichever
//! way: readers and groups wait for ever, or records are missing or come twice.

use std::sync::Mutex;

use super::Kafka;
use crate::process::Process;
use crate::sync::lock;

/// What the broker writes then.
const LOST: &str = "these partitions are likely deleted already and hence can be skipped";

/// What processes of a broker wrote of it that are gone.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<Option<String>>);

impl Kafka {
    /// What it wrote when it lost the end of a transaction, since it was first started.
    /// Nothing for one that is not ours.
    pub fn lost_end_of_transaction(&self) -> Option<String> {
        let own = self.own.as_ref()?;
        let before = lock(&own.losses.0).clone();
        before.or_else(|| lock(&own.process).as_ref().and_then(find_loss))
    }

    /// Remembers what a process has lost that goes.
    pub(super) fn note_losses(&self, process: &Process) {
        if let (Some(own), Some(loss)) = (&self.own, find_loss(process)) {
            lock(&own.losses.0).get_or_insert(loss);
        }
    }
}

fn find_loss(process: &Process) -> Option<String> {
    let lines = process.lines().into_iter();
    let mut lost = lines.filter(|line| line.text.contains(LOST));
    lost.next().map(|line| line.text)
}
