//! The messages of a call: the rest that is to be sent, and the verdicts on the others.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use futures_util::future::select_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream};

use super::open::{Fate, Verdict};
use super::welcome::Peer;
use crate::handler::record::{Message, Record};
use crate::handler::{FailureKind, HandlerError};
use penstock_handler::v1::Order;

/// The state of a call.
pub(super) struct Batch<'m, T> {
    pub(super) messages: &'m [Message<'m, T>],
    /// Indices of the messages that are not sent yet.
    pub(super) rest: VecDeque<usize>,
    order: Order,
    verdicts: Vec<Option<Verdict>>,
}

impl<'m, T> Batch<'m, T> {
    pub(super) fn new(messages: &'m [Message<'m, T>], order: Order) -> Self {
        Self {
            messages,
            rest: (0..messages.len()).collect(),
            order,
            verdicts: messages.iter().map(|_| None).collect(),
        }
    }

    /// Returns the verdict on each message. In InOrder mode, none after the first failure
    /// counts.
    pub(super) fn verdicts(self) -> Vec<Verdict> {
        self.verdicts.into_iter().map_while(|it| it).collect()
    }

    /// Ends, unattempted, the messages of the rest whose partitions drain. In InOrder mode,
    /// nothing after the first of them is sent either; messages in front of it still are.
    /// Returns `true` if there were any.
    pub(super) fn return_draining(&mut self) -> bool {
        let messages = self.messages;
        let drains = |index: &usize| !messages[*index].record.may_begin();
        let error = || HandlerError::not_attempted("its partition drains");
        if self.order == Order::Batch {
            let Some(first) = self.rest.iter().position(drains) else {
                return false;
            };
            self.verdicts[self.rest[first]] = Some(Err(error()));
            self.rest.truncate(first);
            return true;
        }
        let before = self.rest.len();
        let verdicts = &mut self.verdicts;
        self.rest.retain(|index| {
            let drains = drains(index);
            if drains {
                verdicts[*index] = Some(Err(error()));
            }
            !drains
        });
        self.rest.len() < before
    }

    /// Waits for a future. Returns `None` if a partition of the rest begins to drain first.
    pub(super) async fn unless_draining<O>(&self, awaited: impl Future<Output = O>) -> Option<O> {
        tokio::pin!(awaited);
        // Most futures are ready.
        if let Some(done) = (&mut awaited).now_or_never() {
            return Some(done);
        }
        // One message of each partition.
        let mut records: Vec<_> = self.rest.iter().map(|index| self.record(*index)).collect();
        records.dedup_by(|one, other| one.is_assigned_with(other));
        let drains = records
            .into_iter()
            .map(|record| Box::pin(record.when_draining()));
        tokio::select! {
            biased;
            _ = select_all(drains) => None,
            done = awaited => Some(done),
        }
    }

    /// Waits for revocations of the partitions of the messages at these indices. Yields the
    /// positions of their messages in the list, once for each partition.
    pub(super) fn revocations(
        &self,
        indices: &[usize],
    ) -> impl Stream<Item = Vec<usize>> + Unpin + use<'m, T> {
        // One message of each partition, with the positions of all.
        let mut partitions: Vec<(&'m Record, Vec<usize>)> = Vec::new();
        for (place, index) in indices.iter().enumerate() {
            let record = self.record(*index);
            let known = partitions.iter_mut();
            match known.rev().find(|(it, _)| it.is_assigned_with(record)) {
                Some((_, places)) => places.push(place),
                None => partitions.push((record, vec![place])),
            }
        }
        let revocations = partitions.into_iter().map(async |(record, places)| {
            record.when_revoked().await;
            places
        });
        revocations.collect::<FuturesUnordered<_>>()
    }

    fn record(&self, index: usize) -> &'m Record {
        let messages = self.messages;
        messages[index].record
    }

    /// Ends a message of the rest without sending it.
    pub(super) fn refuse(&mut self, index: usize, error: HandlerError) {
        self.rest.retain(|it| *it != index);
        self.verdicts[index] = Some(Err(error));
        self.hold_back();
    }

    /// Returns the positions in the list of the messages that follow others in their order; the
    /// others are given by their positions too.
    pub(super) fn behind(&self, indices: &[usize], places: &[usize]) -> Vec<usize> {
        let Some(first) = places.first() else {
            return Vec::new();
        };
        let key = |place: usize| key_of(self.messages[indices[place]].record);
        match self.order {
            Order::Unspecified => Vec::new(),
            Order::Batch => (first + 1..indices.len()).collect(),
            Order::Key => {
                let mut from: HashMap<_, usize> = HashMap::new();
                for place in places {
                    if let Some(key) = key(*place) {
                        from.entry(key).or_insert(*place);
                    }
                }
                let is_behind = |place: &usize| {
                    let key = key(*place);
                    let first = key.and_then(|key| from.get(&key));
                    first.is_some_and(|first| first < place)
                };
                (first + 1..indices.len()).filter(is_behind).collect()
            }
        }
    }

    /// Takes the fates of the messages at these indices.
    pub(super) fn take(
        &mut self,
        indices: &[usize],
        fates: Vec<Fate>,
        timeout: Duration,
        peer: &Peer,
    ) {
        let mut keys = HashSet::new();
        for (index, fate) in indices.iter().zip(fates) {
            let key = key_of(self.messages[*index].record).filter(|_| self.order == Order::Key);
            let is_first = key.is_none_or(|key| keys.insert(key));
            let verdict = match fate {
                Fate::Verdict(verdict) => verdict,
                // Earlier messages with its key have used the time.
                Fate::TimedOut if !is_first && !peer.reports_begun => Err(
                    HandlerError::not_attempted("earlier messages of its key used the time"),
                ),
                Fate::TimedOut => Err(HandlerError::retryable(format_args!(
                    "the handler took longer than {timeout:?}"
                ))),
                Fate::Returned(why)
                | Fate::NotBegun(why)
                | Fate::Silent(why)
                | Fate::Suspect(why)
                | Fate::Bystander(why) => Err(HandlerError::not_attempted(why)),
                Fate::Broke(why) => Err(HandlerError::retryable(why)),
            };
            self.verdicts[*index] = Some(verdict);
        }
        if self.order == Order::Batch && !peer.continues_after_skip {
            self.send_again_behind_a_skip(indices);
        }
        self.hold_back();
    }

    /// Takes back the messages after a skipped one, for a handler that ends a batch there.
    fn send_again_behind_a_skip(&mut self, indices: &[usize]) {
        let failed = |index: &usize| matches!(self.verdicts[*index], Some(Err(_)));
        let Some(place) = indices.iter().position(failed) else {
            return;
        };
        if !stops(&self.verdicts[indices[place]]) {
            for index in indices[place + 1..].iter().rev() {
                self.verdicts[*index] = None;
                self.rest.push_front(*index);
            }
        }
    }

    /// Holds back the messages that follow, in their order, one that was neither handled nor
    /// skipped.
    fn hold_back(&mut self) {
        if self.rest.is_empty() {
            return;
        }
        match self.order {
            Order::Batch if self.verdicts.iter().any(stops) => self.rest.clear(),
            Order::Key => self.hold_back_keys(),
            _ => {}
        }
    }

    fn hold_back_keys(&mut self) {
        let said = self.messages.iter().zip(&self.verdicts);
        let failed = said.filter(|(_, verdict)| stops(verdict));
        let failed: HashSet<_> = failed
            .filter_map(|(message, _)| key_of(message.record))
            .collect();
        let Self {
            messages,
            rest,
            verdicts,
            ..
        } = self;
        rest.retain(|index| {
            let key = key_of(messages[*index].record);
            let is_behind = key.is_some_and(|key| failed.contains(&key));
            if is_behind {
                let behind = HandlerError::not_attempted("an earlier message of its key failed");
                verdicts[*index] = Some(Err(behind));
            }
            !is_behind
        });
    }
}

fn stops(verdict: &Option<Verdict>) -> bool {
    matches!(verdict, Some(Err(error)) if error.kind() != FailureKind::Skip)
}

/// Returns the key that orders a message, with topic and partition; a message without a key has
/// no order.
fn key_of(record: &Record) -> Option<(&str, i32, &[u8])> {
    Some((record.topic(), record.partition(), record.key()?))
}
