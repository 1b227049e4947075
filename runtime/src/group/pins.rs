//! The commit of a partition's start, before its first message is handled.
//!
//! A group without offsets begins at the end of a partition if `offsetReset` is Latest. If its
//! first message ended the process, the restart would begin at the end again, past that
//! message. The same holds if a lost offset was replaced. So such a start is committed as soon
//! as it is decided, and messages are held until then. It also shows other partitions that the
//! group has been here, see `positions`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::commit::commits::Commits;
use crate::commit::committer::CommitResult;
use crate::group::partition::Partition;
use crate::kafka::Client;

/// The maximum time that messages are held. If the brokers accept no commits for longer, the
/// commits themselves report it.
const HOLD_LIMIT: Duration = Duration::from_secs(10);

/// Starts that are being committed.
#[derive(Default)]
pub(crate) struct Pins {
    waiting: Vec<Pin>,
}

struct Pin {
    partition: Arc<Partition>,
    result: oneshot::Receiver<CommitResult>,
    since: Instant,
}

impl Pins {
    /// Requests the commit of a partition's start.
    pub(crate) fn pin<C: Client>(&mut self, commits: &mut Commits<C>, partition: &Arc<Partition>) {
        self.waiting.push(Pin {
            partition: Arc::clone(partition),
            result: commits.ask(partition),
            since: Instant::now(),
        });
    }

    /// Returns `true` while messages must wait.
    pub(crate) fn hold(&mut self) -> bool {
        self.waiting.retain_mut(Pin::is_open);
        !self.waiting.is_empty()
    }
}

impl Pin {
    fn is_open(&mut self) -> bool {
        match self.result.try_recv() {
            Err(TryRecvError::Empty) => {
                return self.partition.is_active() && self.since.elapsed() < HOLD_LIMIT;
            }
            Ok(CommitResult::Failed(reason)) => tracing::warn!(
                topic = self.partition.topic,
                partition = self.partition.number,
                error = %reason,
                "the start offset could not be committed"
            ),
            Ok(CommitResult::Committed | CommitResult::Revoked) | Err(TryRecvError::Closed) => {}
        }
        false
    }
}
