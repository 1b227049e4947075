//! Ends of transactions that a broker lost.
//!
//! A broker that restarts has to tell partitions that a transaction was committed or
//! aborted. Kafka (4.3) takes a partition that has no leader at that time for one that
//! was deleted, tells it nothing and calls the transaction complete; with a single
//! replica a partition has none while its broker stops, or is let in again. The
//! transaction stays open there until the same producer ends another one, in whichever
//! way: readers and groups wait for ever, or records are missing or come twice.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Kafka;
use crate::process::Process;
use crate::sync::lock;

/// What the broker writes then.
const LOST: &str = "these partitions are likely deleted already and hence can be skipped";

/// Whether processes of a broker that are gone have lost any.
#[derive(Debug, Default)]
pub(super) struct Losses(AtomicBool);

impl Kafka {
    /// Whether it has lost the end of a transaction since it was first started. One that
    /// is not ours never has.
    pub fn has_lost_ends_of_transactions(&self) -> bool {
        self.own.as_ref().is_some_and(|own| {
            own.losses.0.load(Ordering::Relaxed)
                || lock(&own.process).as_ref().is_some_and(has_lost)
        })
    }

    /// Remembers what a process has lost that goes.
    pub(super) fn note_losses(&self, process: &Process) {
        if let Some(own) = &self.own
            && has_lost(process)
        {
            own.losses.0.store(true, Ordering::Relaxed);
        }
    }
}

fn has_lost(process: &Process) -> bool {
    process.count(LOST) > 0
}
