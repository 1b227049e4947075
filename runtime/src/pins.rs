//! Where a new group began.
//!
//! A group that has committed nothing begins at the end of a partition when
//! `offsetReset` is Latest. Were its first message to end the process, the
//! restart would begin at the end again, past that message. So the first
//! message of each assignment is held until its own offset is committed: not
//! the message, but the place before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::commits;
use crate::kafka::{Client, CommitOutcome};
use crate::partition::Partition;

/// Longest time that messages are held. Brokers that take no commits for so
/// long are trouble of another kind, which the commits themselves report.
const HOLD_LIMIT: Duration = Duration::from_secs(10);

/// Places that are being committed.
pub(crate) struct Pins {
    enabled: bool,
    waiting: Vec<Pin>,
}

struct Pin {
    partition: Arc<Partition>,
    offset: i64,
    since: Instant,
}

impl Pins {
    /// Does nothing unless `enabled`.
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            waiting: Vec::new(),
        }
    }

    /// Looks at a message that was read; commits its place if it is the first
    /// of its assignment.
    pub(crate) fn note(&mut self, client: &impl Client, partition: &Arc<Partition>, offset: i64) {
        if !self.enabled || !partition.begin() {
            return;
        }
        match commits::send_offset(client, partition, offset) {
            Ok(()) => self.waiting.push(Pin {
                partition: Arc::clone(partition),
                offset,
                since: Instant::now(),
            }),
            Err(reason) => tracing::warn!(
                "the first offset of {}/{} could not be committed: {reason}",
                partition.topic,
                partition.number
            ),
        }
    }

    /// Takes the outcome of a commit.
    pub(crate) fn answer(&mut self, outcome: &CommitOutcome) {
        self.waiting.retain(|pin| {
            let answered = pin.partition.topic == outcome.topic
                && pin.partition.number == outcome.partition
                && Some(pin.offset) == outcome.offset;
            !answered
        });
    }

    /// Whether messages must wait.
    pub(crate) fn hold(&mut self) -> bool {
        self.waiting
            .retain(|pin| pin.partition.is_active() && pin.since.elapsed() < HOLD_LIMIT);
        !self.waiting.is_empty()
    }
}
