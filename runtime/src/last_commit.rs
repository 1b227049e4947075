//! The last commit of what is handled, before the group is left.
//!
//! librdkafka commits stored offsets when it closes, but once: where the group is
//! between two generations the coordinator refuses it, and everything handled since
//! the last commit comes again elsewhere. So it is asked for here first, while the
//! client still takes part in the group and can be answered "not now".

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::commit::CommitResult;
use crate::commits::Commits;
use crate::partition::Partition;

/// Shortest and longest time for it. Between them it has what the handlers left of
/// `stopTimeout`. With the brokers down it is in vain, so it does not take all of
/// that; a group whose members answer has settled long before.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// Commits that are still awaited.
pub(crate) struct LastCommit {
    waiting: Vec<Waiting>,
    deadline: Instant,
}

struct Waiting {
    partition: Arc<Partition>,
    offset: i64,
    result: oneshot::Receiver<CommitResult>,
}

impl LastCommit {
    /// Asks for a commit of each partition's handled prefix, unless the brokers
    /// have it. `left` is what is left of the time for the stop.
    pub(crate) fn start<'a>(
        commits: &mut Commits,
        partitions: impl Iterator<Item = &'a Arc<Partition>>,
        left: Duration,
    ) -> Self {
        let waiting = partitions.filter_map(|partition| {
            let offset = partition.uncommitted()?;
            let (topic, number) = (&partition.topic, partition.number);
            tracing::debug!("the last commit of topic {topic} partition {number} offset {offset}");
            Some(Waiting {
                partition: Arc::clone(partition),
                offset,
                result: commits.ask(partition, offset),
            })
        });
        Self {
            waiting: waiting.collect(),
            deadline: Instant::now() + left.clamp(SHORTEST, LONGEST),
        }
    }

    /// Whether every commit is answered, or the time is over.
    pub(crate) fn is_over(&mut self) -> bool {
        self.waiting.retain_mut(Waiting::is_open);
        if self.waiting.is_empty() {
            return true;
        }
        let over = Instant::now() >= self.deadline;
        if over {
            for waiting in &self.waiting {
                waiting.warn("no answer in time");
            }
        }
        over
    }
}

impl Waiting {
    fn is_open(&mut self) -> bool {
        match self.result.try_recv() {
            Err(TryRecvError::Empty) => return true,
            Ok(CommitResult::Failed(reason)) => self.warn(&reason),
            // Given up meanwhile: committed as part of that.
            Ok(CommitResult::Revoked | CommitResult::Committed) | Err(TryRecvError::Closed) => {}
        }
        false
    }

    fn warn(&self, reason: &str) {
        tracing::warn!(
            "the last commit of topic {} partition {} offset {} failed: {reason}; what was handled since the one before may come again",
            self.partition.topic,
            self.partition.number,
            self.offset
        );
    }
}
