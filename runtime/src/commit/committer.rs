//! The commit after each message in InOrder mode.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tracing::Instrument as _;

use crate::group::partition::Partition;
use crate::handler::record::Record;
use crate::process::worker::{Cause, Failure};
use crate::program::telemetry::SPANS;

/// The result of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitResult {
    /// The brokers have accepted it.
    Committed,
    /// The partition was revoked: the message comes again at its next owner.
    Revoked,
    /// The commit failed, and the message must come again here.
    Failed(String),
}

/// A commit that a handler waits for.
pub(crate) struct CommitRequest {
    /// The assignment with which the message came.
    pub(crate) partition: Arc<Partition>,
    /// The offset of the message that was handled.
    pub(crate) message: i64,
    pub(crate) reply: oneshot::Sender<CommitResult>,
}

/// Lets a worker request commits from the pump, which alone calls Kafka.
pub(crate) struct Committer {
    requests: mpsc::UnboundedSender<CommitRequest>,
    wake: Arc<Notify>,
}

impl Committer {
    /// Creates a committer and the receiver of its requests; `wake` is notified of each.
    pub(crate) fn new(wake: Arc<Notify>) -> (Self, mpsc::UnboundedReceiver<CommitRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests, wake }, receiver)
    }

    /// Commits a handled message, and waits until the brokers have it. Returns `false` if its
    /// partition was revoked meanwhile, so that nothing was committed.
    pub(crate) async fn commit(&self, record: &Record) -> Result<bool, Failure> {
        let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
        tracing::debug!("committing topic {topic} partition {partition} offset {offset}");
        let span = tracing::info_span!(target: SPANS, "kafka.commit");
        let (reply, result) = oneshot::channel();
        let request = CommitRequest {
            partition: Arc::clone(record.assignment()),
            message: offset,
            reply,
        };
        let sent = self.requests.send(request).is_ok();
        self.wake.notify_one();
        let result = match sent {
            true => result.instrument(span).await.ok(),
            false => None,
        };
        match result {
            Some(CommitResult::Committed) => Ok(true),
            Some(CommitResult::Revoked) => Ok(false),
            Some(CommitResult::Failed(reason)) => Err(failure(record, reason)),
            None => Err(failure(record, "the pump has ended".into())),
        }
    }
}

fn failure(record: &Record, reason: String) -> Failure {
    Failure::of(record.position(), Cause::Commit(reason))
}
