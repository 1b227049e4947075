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

/// The wait after a commit that the brokers refused, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Starts that are being committed.
#[derive(Default)]
pub(crate) struct Pins {
    waiting: Vec<Pin>,
}

struct Pin {
    partition: Arc<Partition>,
    state: State,
    since: Instant,
    wait: Duration,
}

enum State {
    /// The commit is on its way.
    Asked(oneshot::Receiver<CommitResult>),
    /// The brokers refused it, and it is repeated then.
    Refused(Instant),
}

impl Pins {
    /// Requests the commit of a partition's start.
    pub(crate) fn pin<C: Client>(&mut self, commits: &mut Commits<C>, partition: &Arc<Partition>) {
        self.waiting.push(Pin {
            partition: Arc::clone(partition),
            state: State::Asked(commits.ask(partition)),
            since: Instant::now(),
            wait: FIRST_WAIT,
        });
    }

    /// Takes the answers. With `repeats`, a commit that the brokers refused is requested again.
    pub(crate) fn advance<C: Client>(&mut self, commits: &mut Commits<C>, repeats: bool) {
        self.waiting
            .retain_mut(|pin| pin.advance(commits, repeats) && pin.is_open());
    }

    /// Returns `true` if no start is being committed.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns `true` while messages must wait.
    pub(crate) fn hold(&self) -> bool {
        self.waiting.iter().any(Pin::is_open)
    }

    /// Returns the time until a refused commit is requested again.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let due = self.waiting.iter().filter_map(|pin| match pin.state {
            State::Refused(at) => Some(at.saturating_duration_since(Instant::now())),
            State::Asked(_) => None,
        });
        due.min()
    }
}

impl Pin {
    /// Returns `false` once the commit was made, or is not repeated.
    fn advance<C: Client>(&mut self, commits: &mut Commits<C>, repeats: bool) -> bool {
        if let State::Asked(result) = &mut self.state {
            match result.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Ok(CommitResult::Failed(reason)) => {
                    tracing::warn!(
                        topic = self.partition.topic,
                        partition = self.partition.number,
                        error = %reason,
                        "the start offset could not be committed"
                    );
                    self.state = State::Refused(Instant::now() + self.wait);
                }
                Ok(CommitResult::Committed | CommitResult::Revoked) | Err(TryRecvError::Closed) => {
                    return false;
                }
            }
        }
        if matches!(self.state, State::Refused(at) if Instant::now() >= at)
            && repeats
            && self.is_open()
        {
            self.wait *= 2;
            self.state = State::Asked(commits.ask(&self.partition));
        }
        repeats || matches!(self.state, State::Asked(_))
    }

    fn is_open(&self) -> bool {
        self.partition.is_active() && self.since.elapsed() < HOLD_LIMIT
    }
}
