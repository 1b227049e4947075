//! Answers to the group: assignments and revocations.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::commit::commits::Commits;
use crate::commit::last_commit::LastCommit;
use crate::commit::strategy::Strategy;
use crate::group::partition::Partition;
use crate::kafka::{Client, StartOffset, TopicPartition};
use crate::observe::metrics::Metrics;

/// Confirms an assignment: reading begins at these offsets.
pub(crate) fn confirm(client: &impl Client, starts: &[StartOffset]) {
    let names = starts.iter().map(|start| &start.partition);
    warn_on_error("assigning partitions", names, client.assign(starts));
    for start in starts {
        tracing::info!("assigned {}", start.partition);
    }
}

/// Partitions that are being revoked: no new messages are delivered, and those in flight have
/// until the limit; then handled messages are committed.
pub(crate) struct Revocation {
    named: Vec<TopicPartition>,
    partitions: Vec<Arc<Partition>>,
    lost: bool,
    /// The time until which the revocation waits for messages in flight.
    deadline: Instant,
    /// Started when it no longer waits.
    last_commit: Option<LastCommit>,
}

impl Revocation {
    pub(crate) fn new(
        named: Vec<TopicPartition>,
        partitions: Vec<Arc<Partition>>,
        lost: bool,
        limit: Duration,
    ) -> Self {
        Self {
            named,
            partitions,
            lost,
            deadline: Instant::now() + limit,
            last_commit: None,
        }
    }

    /// Ends the wait for messages in flight.
    pub(crate) fn end_drain(&mut self) {
        self.deadline = self.deadline.min(Instant::now());
    }

    /// Advances as far as possible. Returns `true` if no message is in flight any more, or the
    /// limit has passed, and handled messages are committed, or cannot be. `left` is as in
    /// [`LastCommit::start`].
    pub(crate) fn advance<C: Client>(
        &mut self,
        client: &C,
        commits: &mut Commits<C>,
        strategy: Strategy,
        left: Option<Duration>,
    ) -> bool {
        let idle = self.partitions.iter().all(|p| p.in_flight() == 0);
        if !idle && Instant::now() < self.deadline {
            return false;
        }
        // The partitions may have been lost during the wait for messages in flight.
        if self.lost || client.is_assignment_lost() {
            return true;
        }
        let last_commit = self.last_commit.get_or_insert_with(|| {
            LastCommit::start(client, commits, self.partitions.iter(), strategy, left)
        });
        last_commit.is_over()
    }

    /// Abandons messages that are still in flight, and releases the partitions.
    pub(crate) fn complete(self, client: &impl Client, metrics: &Metrics) {
        for partition in &self.partitions {
            partition.revoke();
            metrics.forget_partition(&partition.topic, partition.number);
        }
        warn_on_error(
            "releasing partitions",
            &self.named,
            client.unassign(&self.named),
        );
        crate::kafka::log_revoked(&self.named);
    }
}

/// Puts partitions of which an end or an error was read last back to their positions, before
/// they are resumed from a pause. librdkafka (2.12) counts such a report in a batch as a
/// message: reading would resume after it, past a message that was not read.
pub(crate) fn put_back<'a>(
    client: &impl Client,
    partitions: impl Iterator<Item = &'a Arc<Partition>>,
) {
    for partition in partitions {
        if let Some(offset) = partition.displaced_from() {
            let position = partition.start_at(Some(offset));
            warn_on_error(
                "seeking back to the position of a partition",
                [&position.partition],
                client.seek(&position),
            );
        }
    }
}

/// Logs the error of an action on these partitions.
pub(crate) fn warn_on_error<'a>(
    action: &str,
    partitions: impl IntoIterator<Item = &'a TopicPartition>,
    result: Result<(), String>,
) {
    if let Err(error) = result {
        let partitions: Vec<String> = partitions.into_iter().map(ToString::to_string).collect();
        tracing::warn!(partitions = partitions.join(", "), %error, "{action} failed");
    }
}
