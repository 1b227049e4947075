//! The messages of a batch, their states, and the time of the next round.

use std::sync::Arc;

use futures_util::future::select_all;
use tokio::time::Instant;
use tracing::Span;

use super::super::{Ended, Job, Shared};
use crate::group::partition::Partition;
use crate::handler::decode::Decoder;
use crate::handler::record::{Message, Record};
use crate::observe::observation::{Active, Observation};
use crate::process::delivery::Attempts;
use crate::queue::lane::Lane;

/// The state of a message of a batch. See the drawing in [`super`].
pub(super) enum State {
    /// The message waits for an attempt, which does not begin before `due`.
    Pending { due: Instant },
    /// The handler has the message.
    Running,
    /// The batch does no more work for it.
    Ended(Ended),
}

/// One message of a batch.
pub(super) struct Item<'a, T> {
    /// The index of its job.
    pub(super) index: usize,
    pub(super) record: &'a Record,
    /// The index of its partition in the batch.
    pub(super) partition: usize,
    pub(super) lane: Option<Lane>,
    pub(super) observation: Observation<'a>,
    pub(super) active: Active<'a>,
    pub(super) span: Span,
    pub(super) data: Option<T>,
    pub(super) latency: Option<f64>,
    pub(super) attempts: Attempts<'a>,
    pub(super) state: State,
}

impl<T> Item<'_, T> {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.record.assignment().is_revoked()
    }
}

impl<D: Decoder, H> Shared<D, H> {
    /// Opens a message `now`, unless it was opened before.
    pub(super) fn open<'a>(
        &'a self,
        job: &'a Job,
        partition: usize,
        now: Instant,
    ) -> Item<'a, D::Data> {
        let record = &job.record;
        let began = job.began.unwrap_or(now);
        let observation = Observation::start(&record.assignment().topic_metrics, began);
        let span = self.open_span(record);
        let active = observation.active();
        let decoded = span.in_scope(|| self.decode(record));
        let state = if decoded.is_some() {
            State::Pending { due: now }
        } else {
            State::Ended(Ended::Invalid)
        };
        let (data, latency) = decoded.unzip();
        Item {
            index: 0,
            record,
            partition,
            lane: job.lane,
            observation,
            active,
            span,
            data,
            latency: latency.flatten(),
            attempts: Attempts::after(&self.policy, job.failed).paused(job.pauses),
            state,
        }
    }
}

/// The messages of a batch, in the order in which they were taken.
pub(super) struct Batch<'a, T> {
    pub(super) items: Vec<Item<'a, T>>,
    /// Each partition once, in the order of their first messages.
    partitions: Vec<&'a Arc<Partition>>,
}

impl<'a, T> Batch<'a, T> {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            partitions: Vec::new(),
        }
    }

    /// Adds a message, which `open` creates from the index of its partition.
    pub(super) fn push(&mut self, job: &'a Job, open: impl FnOnce(usize) -> Item<'a, T>) {
        let partition = self.partition(job.record.assignment());
        let index = self.items.len();
        self.items.push(Item {
            index,
            ..open(partition)
        });
    }

    /// Returns the index of a partition. Adds the partition if it is new.
    fn partition(&mut self, partition: &'a Arc<Partition>) -> usize {
        let is_it = |other: &&Arc<Partition>| Arc::ptr_eq(other, partition);
        // Messages come in runs of one partition.
        let last = self.items.last().map(|item| item.partition);
        if let Some(last) = last.filter(|last| is_it(&self.partitions[*last])) {
            return last;
        }
        let found = self.partitions.iter().position(is_it);
        found.unwrap_or_else(|| {
            self.partitions.push(partition);
            self.partitions.len() - 1
        })
    }

    pub(super) fn into_items(self) -> Vec<Item<'a, T>> {
        self.items
    }

    /// Returns the number of partitions.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Abandons the pending messages of partitions in which no attempt may begin, in InOrder
    /// mode with all later messages of their partition. Returns `true` if there were any.
    pub(super) fn abandon_draining(&mut self, in_order: bool) -> bool {
        let mut abandons_any = false;
        for (index, partition) in self.partitions.iter().enumerate() {
            if partition.may_begin() {
                continue;
            }
            let mut abandons = false;
            for item in self.items.iter_mut().filter(|it| it.partition == index) {
                if item.is_pending() || (abandons && in_order) {
                    item.state = State::Ended(Ended::Abandoned);
                    abandons = true;
                }
            }
            abandons_any |= abandons;
        }
        abandons_any
    }

    /// Returns the time of the next round, or `None` if no message is pending. That is when the
    /// first message is due, or later if others join it: no message waits for more than twice
    /// its time, and messages that failed together stay together despite the jitter.
    pub(super) fn next_start(&self, in_order: bool, now: Instant) -> Option<Instant> {
        let mut dues = Dues::new(in_order);
        let dues = self.items.iter().filter_map(|item| dues.take(item));
        let first = dues.min()?;
        let latest = first + first.saturating_duration_since(now);
        let mut dues = Dues::new(in_order);
        let dues = self.items.iter().filter_map(|item| dues.take(item));
        dues.filter(|due| *due <= latest).max()
    }

    /// Starts the messages that are due `now`.
    pub(super) fn start(&mut self, in_order: bool, now: Instant) {
        let mut dues = Dues::new(in_order);
        for item in &mut self.items {
            if dues.take(item).is_some_and(|due| due <= now) {
                item.state = State::Running;
            }
        }
    }

    /// Returns the span of the first running message, which contains the call.
    pub(super) fn span(&self) -> Span {
        let first = self.items.iter().find(|item| item.is_running());
        first.map_or_else(Span::none, |item| item.span.clone())
    }

    /// Returns the running messages for the handler.
    pub(super) fn messages(&self) -> Vec<Message<'_, T>> {
        let running = self.items.iter().filter(|item| item.is_running());
        let messages = running.filter_map(|item| {
            Some(Message {
                record: item.record,
                data: item.data.as_ref()?,
                attempt: item.attempts.number(),
            })
        });
        messages.collect()
    }

    /// Completes when every partition that has a running message is revoked.
    pub(super) async fn when_all_revoked(&self) {
        let mut last = None;
        for item in self.items.iter().filter(|item| item.is_running()) {
            if last != Some(item.partition) {
                last = Some(item.partition);
                item.record.assignment().when_revoked().await;
            }
        }
    }

    /// Completes when a partition that has a pending message is draining.
    pub(super) async fn when_one_drains(&self) {
        let mut pending = vec![false; self.partitions.len()];
        for item in self.items.iter().filter(|item| item.is_pending()) {
            pending[item.partition] = true;
        }
        let partitions = self.partitions.iter().zip(pending);
        let pending = partitions.filter(|(_, is_pending)| *is_pending);
        let draining: Vec<_> = pending
            .map(|(partition, _)| Box::pin(partition.when_draining()))
            .collect();
        // It would panic without a future.
        if draining.is_empty() {
            return;
        }
        select_all(draining).await;
    }

    /// Removes the messages that have ended and may be closed before the others. With `whole`,
    /// these are the messages of partitions in which all have ended; in InOrder mode, the
    /// messages before the first of their partition that has not ended.
    pub(super) fn take_ended(&mut self, in_order: bool, whole: bool) -> Vec<Item<'a, T>> {
        let mut is_open = vec![false; self.partitions.len()];
        if whole {
            for item in self.items.iter().filter(|item| !item.has_ended()) {
                is_open[item.partition] = true;
            }
        }
        let may_close = |item: &mut Item<'_, T>| {
            let is_open = &mut is_open[item.partition];
            *is_open |= in_order && !item.has_ended();
            item.has_ended() && !*is_open
        };
        self.items.extract_if(.., may_close).collect()
    }
}

/// The times at which pending messages may be attempted, asked for in the order of the batch.
/// In InOrder mode, a message waits for earlier pending ones too.
struct Dues {
    in_order: bool,
    latest: Option<Instant>,
}

impl Dues {
    fn new(in_order: bool) -> Self {
        Self {
            in_order,
            latest: None,
        }
    }

    /// Returns the time at which this message may be attempted, or `None` if it is not pending.
    fn take<T>(&mut self, item: &Item<'_, T>) -> Option<Instant> {
        let State::Pending { due } = item.state else {
            return None;
        };
        if !self.in_order {
            return Some(due);
        }
        self.latest = self.latest.max(Some(due));
        self.latest
    }
}
