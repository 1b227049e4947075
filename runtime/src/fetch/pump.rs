//! The pump reads messages from Kafka into the work queue. It owns the client, and only the
//! pump calls it: handlers report, and the pump commits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commit::commits::{Commits, TransactionEnd};
use crate::commit::last_commit::LastCommit;
use crate::commit::strategy::Strategy;
use crate::fetch::lag::Lag;
use crate::fetch::pauses::Pauses;
use crate::fetch::read_ahead::ReadAhead;
use crate::fetch::read_size::ReadSize;
use crate::group::assignment::Assignment;
use crate::group::partition::{Held, Partition};
use crate::group::pins::Pins;
use crate::group::positions::Policy;
use crate::group::rebalance::Revocation;
use crate::group::recovery::{Found, Recovery};
use crate::group::start::Joining;
use crate::handler::record::Record;
use crate::kafka::{Client, FetchErrors};
use crate::observe::metrics::Metrics;
use crate::observe::progress::Progress;
use crate::process::worker::Delivery;
use crate::program::end_code::EndCode;
use crate::program::telemetry::SPANS;
use crate::queue::WorkQueue;
use crate::queue::lane::LaneFinder;

mod events;
mod membership;
mod positions;
mod read;
#[cfg(test)]
mod tests;

/// The maximum wait when there is nothing to do, as in baseplate.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// The time between two polls for events without an announcement: librdkafka regards a consumer
/// that does not poll as dead after `max.poll.interval.ms`.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two measurements of the lag and of the limits of a revocation.
const MEASURE_INTERVAL: Duration = Duration::from_millis(500);

/// The maximum wait in place for the answer to a commit in InOrder mode, for which the only
/// handler waits: a wake-up would take longer. The answer is an event like others.
const ANSWER_WAIT: Duration = Duration::from_millis(1);

/// The parts of a pump.
pub(crate) struct PumpParts<C: Client> {
    pub(crate) name: String,
    pub(crate) client: Arc<C>,
    pub(crate) queue: Arc<WorkQueue<Delivery>>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) strategy: Strategy,
    /// `Some` if messages with one key are handled in order.
    pub(crate) lanes: Option<LaneFinder>,
    pub(crate) commits: Commits<C>,
    /// The maximum bytes of messages that are held behind others of their key, and of records
    /// that wait for their transaction.
    pub(crate) held_bytes: usize,
    /// The time between two periodic commits of handled messages.
    pub(crate) commit_interval: Duration,
    /// The policy for partitions without an offset to continue from.
    pub(crate) policy: Policy,
    /// The maximum number of messages in one read.
    pub(crate) batch_size: usize,
    /// Is `true` if the offsets of read messages are stored for the client to commit.
    pub(crate) stores: bool,
    /// The maximum wait for messages in flight at a revocation, and at a stop.
    pub(crate) drain_limit: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) progress: Arc<Progress>,
    /// Ends reading.
    pub(crate) stop: CancellationToken,
    /// Ends the pump, after every handler has ended.
    pub(crate) finish: CancellationToken,
}

/// The pump. See the module.
pub(crate) struct Pump<C: Client> {
    parts: PumpParts<C>,
    span: String,
    messages: C::Fetcher,
    assignment: Assignment,
    joining: Option<Joining>,
    revocation: Option<Revocation>,
    pins: Pins,
    recovery: Recovery,
    /// The results for partitions that wait for the end of their transaction.
    undecided: Vec<(Arc<Partition>, Found)>,
    ahead: ReadAhead,
    pauses: Pauses,
    read_size: ReadSize,
    fetch_errors: FetchErrors,
    /// Messages that were read and are not in the queue yet.
    pending: VecDeque<Delivery>,
    /// The time at which the pump stopped reading.
    stopped: Option<Instant>,
    /// Started when every handler has ended.
    last_commit: Option<LastCommit>,
    last_poll: Instant,
    lag: Lag,
    last_save: Instant,
    _closing: Closing<C>,
}

/// Lets the client answer revocations immediately when the pump is dropped, even by a panic: a
/// client that is dropped waits for the answer.
struct Closing<C: Client>(Arc<C>);

impl<C: Client> Drop for Closing<C> {
    fn drop(&mut self) {
        self.0.answer_by_itself();
    }
}

impl<C: Client> Pump<C> {
    pub(crate) fn new(parts: PumpParts<C>) -> Self {
        let wake = Arc::clone(&parts.wake);
        let messages = parts.client.fetcher(move || wake.notify_one());
        Self {
            span: format!("{}.pump", parts.name),
            messages,
            assignment: Assignment::new(parts.metrics.clone(), Arc::clone(&parts.wake)),
            joining: None,
            revocation: None,
            pins: Pins::default(),
            recovery: Recovery::new(parts.policy, Arc::clone(&parts.wake)),
            undecided: Vec::new(),
            ahead: ReadAhead::new(parts.held_bytes),
            pauses: Pauses::new(parts.held_bytes, parts.metrics.paused.clone()),
            read_size: ReadSize::new(parts.batch_size),
            fetch_errors: FetchErrors::default(),
            pending: VecDeque::new(),
            stopped: None,
            last_commit: None,
            last_poll: Instant::now(),
            lag: Lag::new(),
            last_save: Instant::now(),
            _closing: Closing(Arc::clone(&parts.client)),
            parts,
        }
    }

    /// Runs until `finish` is cancelled, then returns the client for closing.
    pub(crate) async fn run(mut self) -> Arc<C> {
        tracing::debug!("Starting the pump.");
        loop {
            let next_attempt = self.advance();
            if self.parts.stop.is_cancelled() && self.stopped.is_none() {
                self.begin_stop();
            }
            if self.parts.finish.is_cancelled() && self.is_done() {
                break;
            }
            if !self.pump() {
                self.wait(next_attempt).await;
            }
        }
        self.end().await
    }

    /// Advances all work except messages. Returns the time of the next attempt.
    fn advance(&mut self) -> Option<Instant> {
        self.parts.progress.pumped();
        self.serve_events();
        self.advance_joining();
        self.advance_revocation();
        self.end_transaction();
        self.advance_recovery();
        self.save_handled();
        self.parts.commits.serve(&self.parts.client);
        self.forget_failures();
        let partitions = self.assignment.iter();
        self.lag.measure(&self.parts.client, partitions);
        self.advance_keys()
    }

    /// Moves messages from Kafka to the queue: one read, one put. Returns `true` if there may
    /// be more to do immediately.
    fn pump(&mut self) -> bool {
        let span = tracing::info_span!(
            target: SPANS,
            "pump",
            otel.name = self.span
        );
        let _entered = span.enter();
        let may_read = self.pending.is_empty() && self.stopped.is_none();
        // Without lanes no message is held.
        let waits = self.parts.lanes.is_some() && self.ahead.waits(&self.parts.queue);
        let read = match may_read && !waits && self.parts.queue.has_room() && !self.is_outbox_full()
        {
            true => self.read(),
            false => 0,
        };
        let had_some = !self.pending.is_empty();
        if !self.pins.is_empty() {
            // Neither a stop nor an error that ends the consumer waits until a refused commit is due.
            let is_error = |it: &Delivery| matches!(it, Delivery::Error(_));
            let repeats = self.stopped.is_none() && !self.pending.iter().any(is_error);
            self.pins.advance(&mut self.parts.commits, repeats);
        }
        if had_some && !self.pins.hold() {
            let _put = tracing::info_span!(target: SPANS, "kafka.work_queue_put").entered();
            self.parts.queue.put(&mut self.pending);
            if self.parts.lanes.is_some() {
                let (messages, bytes, _) = self.parts.queue.held();
                let (held, assigned) = (Held { messages, bytes }, self.assignment.len());
                self.pauses.pause(&*self.parts.client, held, assigned);
            }
        }
        if self.stopped.is_some() && self.pending.is_empty() {
            self.parts.queue.close();
        }
        // After the last message of an earlier read, nothing announces further messages:
        // librdkafka only announces the first one after none.
        (read > 0 || had_some) && self.pending.is_empty()
    }

    /// Releases messages whose next attempt is due, and resumes paused partitions. Returns the
    /// time of the next attempt.
    fn advance_keys(&mut self) -> Option<Instant> {
        self.parts.lanes.as_ref()?;
        self.pauses.resume(&*self.parts.client);
        self.parts.queue.release_due(Instant::now())
    }

    async fn wait(&mut self, next_attempt: Option<Instant>) {
        if self.parts.commits.take_news() {
            self.poll(ANSWER_WAIT);
            return;
        }
        // The wait has a limit too, for intervals, limits and retries.
        let limit = self.parts.commits.next_due().unwrap_or(IDLE_WAIT);
        let until_attempt = next_attempt.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = self
            .ahead
            .look_again()
            .map_or(limit, |wait| limit.min(wait));
        let limit = self.recovery.wait().map_or(limit, |wait| limit.min(wait));
        let limit = self.pins.wait().map_or(limit, |wait| limit.min(wait));
        let limit = until_attempt.map_or(limit, |wait| limit.min(wait)).min(
            match (&self.revocation, self.parts.strategy) {
                (None, Strategy::Read | Strategy::EachMessage) => IDLE_WAIT,
                _ => MEASURE_INTERVAL.min(self.parts.commit_interval),
            },
        );
        let woken = tokio::time::timeout(limit, self.parts.wake.notified()).await;
        if woken.is_err() && self.parts.queue.load().0 == 0 {
            tracing::trace!("waited and received no messages, waiting again");
        }
    }

    /// Requests the periodic commit of handled messages.
    fn save_handled(&mut self) {
        let interval = self.parts.commit_interval;
        let is_due = self.last_save.elapsed() >= interval || self.is_outbox_full();
        let parts = &mut self.parts;
        if !is_due || self.last_commit.is_some() {
            return;
        }
        self.last_save = Instant::now();
        for partition in self.assignment.iter() {
            if partition.needs_commit(parts.strategy) {
                parts.commits.save(partition);
            }
        }
    }

    /// Forgets failed commits of partitions that need no commit any more.
    fn forget_failures(&self) {
        self.parts.progress.retain_owed(|| {
            let owing = self.assignment.iter();
            owing
                .filter(|partition| partition.uncommitted().is_some())
                .map(|partition| (partition.topic.as_str(), partition.number))
                .collect()
        });
    }

    /// Returns `true` if so many records wait to be produced that reading must stop.
    fn is_outbox_full(&self) -> bool {
        let bytes = || self.assignment.iter().map(|it| it.outbox_bytes()).sum();
        self.parts.strategy == Strategy::Transaction && self.parts.held_bytes < bytes()
    }

    fn end_transaction(&mut self) {
        let Some(end) = self.parts.commits.end_transaction() else {
            return;
        };
        self.parts.metrics.count_transaction(&end);
        let committed = matches!(end, TransactionEnd::Committed(_));
        self.parts.progress.committed(committed);
        if !committed {
            self.parts.metrics.commit_failures.inc();
        }
        if let TransactionEnd::Failed(text) = end {
            self.fail(EndCode::TransactionFailed, RDKafkaErrorCode::Fatal, text);
        }
    }

    /// Removes the messages that no handler has yet.
    fn drop_queued(&mut self, drop: impl Fn(&Record) -> bool) {
        let keep = |delivery: &Delivery| match delivery {
            Delivery::Message(job) => !drop(&job.record),
            Delivery::Error(_) => true,
        };
        let mut dropped = self.parts.queue.retain(keep);
        let (kept, more) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(keep);
        self.pending = kept;
        dropped.extend::<VecDeque<_>>(more);
        dropped.into_iter().for_each(Delivery::abandon);
    }

    /// Stops reading. Messages that come again are left unhandled; messages that would be lost
    /// are still handled.
    fn begin_stop(&mut self) {
        tracing::debug!("Stopping the pump.");
        self.stopped = Some(Instant::now());
        if self.parts.strategy.redelivers() {
            for partition in self.assignment.iter() {
                partition.drain(true);
            }
            self.drop_queued(|_| true);
        }
    }

    /// Returns `true` if nothing is left to do after every handler has ended.
    fn is_done(&mut self) -> bool {
        if let Some(revocation) = &mut self.revocation {
            // Its messages were abandoned with their handlers.
            revocation.end_drain();
            self.advance_revocation();
            if self.revocation.is_some() {
                return false;
            }
        }
        let left = self.left_to_stop();
        let parts = &mut self.parts;
        let last_commit = self.last_commit.get_or_insert_with(|| {
            let (commits, assigned) = (&mut parts.commits, self.assignment.iter());
            LastCommit::start(&*parts.client, commits, assigned, parts.strategy, left)
        });
        last_commit.is_over()
    }

    /// Returns the remaining time of the stop, once it has begun.
    fn left_to_stop(&self) -> Option<Duration> {
        let stopped = self.stopped?;
        Some(self.parts.drain_limit.saturating_sub(stopped.elapsed()))
    }

    /// Drops all references to the client.
    async fn end(mut self) -> Arc<C> {
        if let Some(joining) = self.joining.take() {
            // It has a reference to the client; and a client without an answer cannot be
            // closed.
            let beginning = joining.finish().await;
            self.assign(beginning);
        }
        self.lag.finish().await;
        self.recovery.finish().await;
        for partition in self.assignment.iter() {
            partition.revoke();
        }
        self.parts.client
    }
}
