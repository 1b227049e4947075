//! The commits with a waiter, on the pump's side.

#[cfg(test)]
mod tests;
mod transaction;

pub(crate) use transaction::TransactionEnd;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::commit::committer::{CommitRequest, CommitResult};
use crate::group::partition::{CommitPoint, Partition};
use crate::group::rewind::Rewind;
use crate::kafka::{Client, CommitEntry, CommitOutcome, Transactional};
use tokio::time::Instant;
use transaction::OpenTransaction;

/// The wait before a commit that was refused during a rebalance is sent again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Commits that are requested and not answered.
pub(crate) struct Commits<C: Client> {
    requests: UnboundedReceiver<CommitRequest>,
    waiting: Vec<Waiting>,
    /// Is `true` if a commit of InOrder mode was sent since the last check.
    news: bool,
    /// The time for which a commit is sent again.
    retry_limit: Duration,
    /// `Some` if offsets are committed in transactions, one at a time.
    transactions: Option<Box<dyn Transactional<C::Membership>>>,
    open: Option<OpenTransaction>,
    /// Is `true` if no transaction can commit any more.
    failed: bool,
    rewinds: bool,
}

struct Waiting {
    partition: Arc<Partition>,
    wanted: Wanted,
    reply: oneshot::Sender<CommitResult>,
    since: Instant,
    state: State,
}

/// The offset to commit.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// Everything up to this message, which was handled in InOrder mode.
    Message(i64),
    /// The offset that may be committed when it is sent. `again`: it is sent until the brokers
    /// accept it.
    Handled { again: bool },
    /// This offset, even if the group is beyond it.
    Rewind(i64),
}

enum State {
    /// The commit is sent at this time, once the partition has no other commit in flight.
    Due(Instant),
    /// The commit is sent.
    Sent(CommitPoint),
}

impl<C: Client> Commits<C> {
    pub(crate) fn new(
        requests: UnboundedReceiver<CommitRequest>,
        retry_limit: Duration,
        transactions: Option<Box<dyn Transactional<C::Membership>>>,
    ) -> Self {
        Self {
            requests,
            retry_limit,
            transactions,
            waiting: Vec::new(),
            open: None,
            failed: false,
            rewinds: true,
            news: false,
        }
    }

    /// Sets the answer of [`Self::rewinds`].
    pub(crate) fn rewinding(self, rewinds: bool) -> Self {
        Self { rewinds, ..self }
    }

    /// Requests a commit of handled messages without a waiter: a failed one is not sent again.
    /// It is sent when commits are next served.
    pub(crate) fn save(&mut self, partition: &Arc<Partition>) {
        let asked = self.waiting.iter().any(|waiting| {
            matches!(waiting.wanted, Wanted::Handled { .. })
                && Arc::ptr_eq(&waiting.partition, partition)
        });
        if !asked {
            self.ask_for_handled(partition, false);
        }
    }

    /// Requests a commit of handled messages, which is sent again while a rebalance causes its
    /// refusal. It is sent when commits are next served.
    pub(crate) fn ask(&mut self, partition: &Arc<Partition>) -> oneshot::Receiver<CommitResult> {
        self.ask_for_handled(partition, true)
    }

    /// Requests a commit that sets back a group that committed read messages.
    pub(crate) fn rewind(&mut self, rewind: &Rewind) -> oneshot::Receiver<CommitResult> {
        let (reply, result) = oneshot::channel();
        let partition = Arc::clone(&rewind.partition);
        self.add(partition, Wanted::Rewind(rewind.offset), reply);
        result
    }

    /// Returns `true` if a group that committed read messages is set back to the handled ones.
    pub(crate) fn rewinds(&self) -> bool {
        self.rewinds
    }

    fn ask_for_handled(
        &mut self,
        partition: &Arc<Partition>,
        again: bool,
    ) -> oneshot::Receiver<CommitResult> {
        let (reply, result) = oneshot::channel();
        self.add(Arc::clone(partition), Wanted::Handled { again }, reply);
        result
    }

    fn add(
        &mut self,
        partition: Arc<Partition>,
        wanted: Wanted,
        reply: oneshot::Sender<CommitResult>,
    ) {
        let now = Instant::now();
        self.waiting.push(Waiting {
            partition,
            wanted,
            reply,
            since: now,
            state: State::Due(now),
        });
    }

    /// Sends requested commits, and those that are due again.
    pub(crate) fn serve(&mut self, client: &C) {
        if self.transactions.is_some() {
            return self.begin_transaction(client);
        }
        while let Ok(request) = self.requests.try_recv() {
            let wanted = Wanted::Message(request.message);
            self.add(request.partition, wanted, request.reply);
        }
        self.send_due(|partition, point| send(client, partition, point));
    }

    /// Sends or answers each commit that is due.
    fn send_due(
        &mut self,
        mut send: impl FnMut(&Arc<Partition>, &CommitPoint) -> Result<(), String>,
    ) {
        let mut place = 0;
        while let Some(waiting) = self.waiting.get_mut(place) {
            if !waiting.is_due() {
                place += 1;
            } else if waiting.partition.is_revoked() {
                self.reply(place, CommitResult::Revoked);
            } else {
                let sent = waiting.point().and_then(|point| {
                    debug_assert!(waiting.may_send(&point), "{point:?} passes a message");
                    send(&waiting.partition, &point).map_err(CommitResult::Failed)?;
                    Ok(point)
                });
                match sent {
                    Ok(point) => {
                        self.news |= matches!(waiting.wanted, Wanted::Message(_));
                        waiting.partition.commit_sent(point.offset);
                        waiting.state = State::Sent(point);
                        place += 1;
                    }
                    Err(result) => self.reply(place, result),
                }
            }
        }
    }

    /// Returns `true` if a commit of InOrder mode was sent since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Takes the brokers' answer to a commit.
    pub(crate) fn answer(&mut self, outcome: &CommitOutcome) {
        let answered = |waiting: &Waiting| waiting.is_answered_by(outcome);
        let Some(place) = self.waiting.iter().position(answered) else {
            return;
        };
        if let Some(result) = self.waiting[place].take(outcome.result, self.retry_limit) {
            self.reply(place, result);
        }
    }

    /// Answers the commits of revoked partitions.
    pub(crate) fn drop_revoked(&mut self) {
        let mut place = 0;
        while let Some(waiting) = self.waiting.get(place) {
            if waiting.partition.is_revoked() {
                self.reply(place, CommitResult::Revoked);
            } else {
                place += 1;
            }
        }
    }

    /// Returns the time until the next commit is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        // The end of the transaction wakes the pump.
        if self.open.is_some() {
            return None;
        }
        let due = self.waiting.iter().filter_map(Waiting::due);
        due.min()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn reply(&mut self, place: usize, result: CommitResult) {
        let waiting = self.waiting.swap_remove(place);
        // Fails only if nobody waits, or the worker was aborted meanwhile.
        let _ = waiting.reply.send(result);
    }
}

impl Waiting {
    /// Takes the answer to a sent commit. Returns the reply, unless it is sent again.
    fn take(
        &mut self,
        answer: Result<(), RDKafkaErrorCode>,
        retry_limit: Duration,
    ) -> Option<CommitResult> {
        self.partition.commit_ended();
        let again = self.wanted != Wanted::Handled { again: false };
        Some(match answer {
            Ok(()) => {
                // An offset above the position belongs to an earlier log.
                let position = self.partition.read_position();
                if let State::Sent(point) = &self.state
                    && position.is_none_or(|next| point.offset <= next)
                {
                    self.partition.committed(point.clone());
                }
                CommitResult::Committed
            }
            Err(_) if self.partition.is_revoked() => CommitResult::Revoked,
            Err(RDKafkaErrorCode::OffsetMetadataTooLarge) if self.metadata_length() > 0 => {
                self.partition.shorten_metadata(self.metadata_length());
                self.state = State::Due(Instant::now());
                return None;
            }
            Err(code) if again && passes(code) && self.since.elapsed() < retry_limit => {
                tracing::warn!(
                    topic = self.partition.topic,
                    partition = self.partition.number,
                    error = %code,
                    "the commit was refused during a rebalance and is sent again"
                );
                self.state = State::Due(Instant::now() + RETRY_WAIT);
                return None;
            }
            Err(code) if again && passes(code) => CommitResult::Failed(format!(
                "the coordinator refused it for {retry_limit:?}, at last with {code}"
            )),
            Err(code) => CommitResult::Failed(code.to_string()),
        })
    }

    /// Returns the time to send it. It waits for another commit in flight of its partition.
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) if !self.partition.is_committing() => Some(at),
            State::Due(_) | State::Sent(_) => None,
        }
    }

    fn is_due(&self) -> bool {
        self.due().is_some_and(|at| at <= Instant::now())
    }

    /// Returns the point to send, or the reply if there is nothing to send.
    fn point(&self) -> Result<CommitPoint, CommitResult> {
        match self.wanted {
            Wanted::Message(message) => self
                .partition
                .commit_point_behind(message)
                .ok_or_else(|| self.refuse(message)),
            // Without a point, the previous commit has covered it.
            Wanted::Handled { .. } => self.partition.uncommitted().ok_or(CommitResult::Committed),
            Wanted::Rewind(offset) => Ok(self.partition.point_at(offset)),
        }
    }

    /// Returns the reply to a commit that would pass an unsettled message.
    fn refuse(&self, message: i64) -> CommitResult {
        let partition = &self.partition;
        match partition.lowest_unsettled() {
            Some(lowest) if partition.may_begin() && partition.is_in_flight(message) => {
                CommitResult::Failed(format!("offset {lowest} before it is unsettled"))
            }
            // The message comes again, or the client was sent back and the message is no longer
            // known.
            _ => CommitResult::Revoked,
        }
    }

    /// Returns `true` if the point passes no unsettled message, except the one that the commit
    /// itself settles.
    fn may_send(&self, point: &CommitPoint) -> bool {
        let but = match self.wanted {
            Wanted::Message(message) => Some(message),
            Wanted::Handled { .. } | Wanted::Rewind(_) => None,
        };
        self.partition.may_commit(point.offset, but)
    }

    /// Returns the length of the metadata that was sent, in bytes.
    fn metadata_length(&self) -> usize {
        match &self.state {
            State::Sent(point) => point.metadata.len(),
            State::Due(_) => 0,
        }
    }

    fn is_answered_by(&self, outcome: &CommitOutcome) -> bool {
        matches!(&self.state, State::Sent(point) if Some(point.offset) == outcome.offset)
            && self.partition.number == outcome.partition
            && self.partition.topic == outcome.topic
    }
}

fn send(client: &impl Client, partition: &Partition, point: &CommitPoint) -> Result<(), String> {
    let sent = client.commit(entry(partition, point));
    sent.map_err(|code| code.to_string())
}

/// Returns the commit request for a partition.
pub(crate) fn entry<'a>(partition: &'a Partition, point: &'a CommitPoint) -> CommitEntry<'a> {
    CommitEntry {
        topic: &partition.topic,
        partition: partition.number,
        offset: point.offset,
        leader_epoch: partition.epoch_before(point.offset),
        metadata: &point.metadata,
    }
}

/// Returns `true` for answers that mean "not now".
fn passes(code: RDKafkaErrorCode) -> bool {
    crate::kafka::is_between_generations(code)
}
