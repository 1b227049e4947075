//! The last commit of handled messages, before partitions are released or the consumer leaves
//! its group.
//!
//! If the group is between two generations, the coordinator refuses a commit, and all messages
//! that were handled since the previous one would come again elsewhere. So the runtime waits
//! for its answer, and sends it again, while the client still takes part in the group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::commit::commits::{Commits, entry};
use crate::commit::committer::CommitResult;
use crate::commit::strategy::Strategy;
use crate::group::partition::Partition;
use crate::group::rewind::{Rewind, rewinds};
use crate::kafka::Client;

/// The minimum and maximum time for it. Brokers that are slow to answer get the maximum,
/// although the group waits meanwhile: uncommitted messages would be handled again. It is not
/// longer, because it is useless while the brokers are down.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// Commits without an answer.
pub(crate) struct LastCommit {
    waiting: Vec<Waiting>,
    deadline: Instant,
}

struct Waiting {
    partition: Arc<Partition>,
    result: oneshot::Receiver<CommitResult>,
}

impl LastCommit {
    /// Requests a commit of the handled messages of each partition, unless the brokers have it.
    /// At a stop, `left` is the time that the handlers have left for it.
    pub(crate) fn start<'a, C: Client>(
        client: &C,
        commits: &mut Commits<C>,
        partitions: impl Iterator<Item = &'a Arc<Partition>> + Clone,
        strategy: Strategy,
        left: Option<Duration>,
    ) -> Self {
        let mut rewinding = Vec::new();
        if commits.rewinds() {
            for rewind in rewinds(partitions.clone(), strategy) {
                rewinding.push(go_back(client, commits, &rewind));
            }
        }
        let concerned = partitions.filter(|partition| partition.needs_commit(strategy));
        let waiting = concerned.map(|partition| {
            tracing::debug!(
                topic = partition.topic,
                partition = partition.number,
                "the last commit begins"
            );
            Waiting {
                partition: Arc::clone(partition),
                result: commits.ask(partition),
            }
        });
        Self {
            waiting: waiting.chain(rewinding).collect(),
            deadline: Instant::now() + left.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST),
        }
    }

    /// Returns `true` if every commit is answered, or the time is over.
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

/// Sets the group back. Both offsets are set: otherwise the client would commit the stored one
/// when it leaves the partition, if that is beyond the committed one.
fn go_back<C: Client>(client: &C, commits: &mut Commits<C>, rewind: &Rewind) -> Waiting {
    rewind.log();
    let partition = &rewind.partition;
    let point = partition.point_at(rewind.offset);
    if let Err(reason) = client.store(entry(partition, &point)) {
        tracing::warn!(
            topic = partition.topic,
            partition = partition.number,
            error = %reason,
            "the stored offset could not be reset"
        );
    }
    Waiting {
        result: commits.rewind(rewind),
        partition: Arc::clone(partition),
    }
}

impl Waiting {
    fn is_open(&mut self) -> bool {
        match self.result.try_recv() {
            Err(TryRecvError::Empty) => return true,
            Ok(CommitResult::Failed(reason)) => self.warn(&reason),
            // Another commit may have covered it before the revocation.
            Ok(CommitResult::Revoked) if self.partition.uncommitted().is_some() => {
                self.warn("the partition was lost first");
            }
            Ok(CommitResult::Revoked | CommitResult::Committed) | Err(TryRecvError::Closed) => {}
        }
        false
    }

    fn warn(&self, reason: &str) {
        tracing::warn!(
            topic = self.partition.topic,
            partition = self.partition.number,
            error = %reason,
            "the last commit failed; messages that were handled since the previous commit may come again"
        );
    }
}
