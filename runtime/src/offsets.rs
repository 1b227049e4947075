//! The offsets of one partition, and which of them may be committed.
//!
//! Offsets arrive in rising order, perhaps with gaps (compaction, transactions), and settle in
//! any order. The offset that may be committed is the end of the settled prefix: all messages
//! below it are handled, skipped or dead-lettered. Only unsettled messages are kept, so the
//! messages in flight bound the memory, however far later messages advance beyond a slow one.
//!
//! A tracker may begin with the state of an earlier owner of the partition beyond its committed
//! offset, see [`Gaps`]: messages that were settled are not delivered again, and attempts
//! continue to count.

pub mod gaps;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use crate::offsets::gaps::Gaps;

/// The offsets of one partition, from its assignment to its revocation.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Messages that are delivered and unsettled, by rising offsets, with their times.
    in_flight: VecDeque<(i64, Option<i64>)>,
    /// Abandoned messages. The lowest one holds the commit back permanently.
    abandoned: BTreeSet<i64>,
    /// The position: one past the highest delivered offset, or an offset that was reached
    /// without a message.
    next: Option<i64>,
    /// The position that was reached without a message before it.
    reached: Option<i64>,
    /// Failed attempts at unsettled messages.
    attempts: BTreeMap<i64, u32>,
    /// The state of an earlier owner; `None` after all its messages were delivered.
    inherited: Option<Gaps>,
    /// The leader epoch of the last record, if known.
    leader_epoch: Option<i32>,
}

/// The point at which the log departs from the state of an earlier owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The state of this offset and later ones is void.
    pub offset: i64,
    /// The leader epoch of the record at the offset. Texts with a lower epoch describe the
    /// earlier log.
    pub leader_epoch: i32,
    /// The number of messages that the earlier owner read from there on and did not settle.
    /// They are lost.
    pub unsettled: u64,
}

impl Departure {
    /// Returns the valid part of a committed text.
    pub fn keep(self, known: Gaps) -> Gaps {
        let is_before = known.leader_epoch().is_none_or(|it| it < self.leader_epoch);
        if is_before {
            known.until(self.offset)
        } else {
            known
        }
    }
}

/// The state of a message from Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The message must be handled.
    New,
    /// The message must be handled, and the state of the partition is void: the client was sent
    /// back, because the topic was truncated or created again.
    SentBack,
    /// An earlier owner has settled the message.
    AlreadyHandled,
}

impl OffsetTracker {
    /// Creates a tracker that continues from the state of an earlier owner.
    pub fn resume(gaps: Gaps) -> Self {
        Self {
            attempts: gaps.attempts().iter().copied().collect(),
            inherited: Some(gaps),
            ..Self::default()
        }
    }

    /// Notes that everything below this offset was read, with or without messages: reading
    /// begins there, or it is the end of the partition.
    pub fn reach(&mut self, offset: i64) {
        if self.next.is_some_and(|next| offset < next) {
            return;
        }
        self.next = Some(offset);
        self.reached = Some(offset);
        let known = self.inherited.as_ref();
        if known.is_some_and(|gaps| gaps.horizon() <= offset) {
            self.inherited = None;
        }
    }

    /// Notes that records have this leader epoch from an offset on, which is about to be
    /// delivered. Returns the point at which the log departs from an earlier owner's state, if
    /// that is here: none of the earlier owner's messages has a higher epoch.
    pub fn read_epoch(&mut self, offset: i64, leader_epoch: i32) -> Option<Departure> {
        self.leader_epoch = Some(leader_epoch);
        let gaps = self.inherited.as_ref()?;
        let is_below = offset < gaps.horizon();
        let departs = is_below && gaps.leader_epoch().is_some_and(|it| it < leader_epoch);
        if !departs {
            return None;
        }
        let unsettled = gaps.incomplete_from(offset);
        let kept = gaps.until(offset);
        let read = self.next.unwrap_or(kept.base());
        self.inherited = (kept.horizon() > read).then_some(kept);
        // All attempts of this owner are at earlier messages.
        self.attempts.split_off(&offset);
        Some(Departure {
            offset,
            leader_epoch,
            unsettled,
        })
    }

    /// Notes that a message was read from Kafka. `time` is the message's time, in milliseconds
    /// since the epoch.
    pub fn deliver(&mut self, offset: i64, time: Option<i64>) -> Delivered {
        let lowest = self.next.or(self.inherited.as_ref().map(Gaps::base));
        let sent_back = lowest.is_some_and(|lowest| offset < lowest);
        if sent_back {
            *self = Self {
                leader_epoch: self.leader_epoch,
                ..Self::default()
            };
        }
        self.next = Some(offset + 1);
        if self.is_inherited(offset) {
            return Delivered::AlreadyHandled;
        }
        self.in_flight.push_back((offset, time));
        match sent_back {
            true => Delivered::SentBack,
            false => Delivered::New,
        }
    }

    /// Returns `true` if an earlier owner settled this message, the highest delivered.
    fn is_inherited(&mut self, offset: i64) -> bool {
        let Some(gaps) = &self.inherited else {
            return false;
        };
        let complete = gaps.is_complete(offset);
        if offset >= gaps.horizon() - 1 {
            self.inherited = None;
        }
        complete
    }

    /// Notes that messages are settled: handled, skipped or dead-lettered. All of them were
    /// delivered.
    pub fn settle(&mut self, offsets: Range<i64>) {
        let begin = self.in_flight.partition_point(|it| it.0 < offsets.start);
        let rest = self.in_flight.range(begin..);
        let count = rest.take_while(|it| offsets.contains(&it.0)).count();
        self.in_flight.drain(begin..begin + count);
        while let Some((&offset, _)) = self.attempts.range(offsets.clone()).next() {
            self.attempts.remove(&offset);
        }
    }

    /// Notes that a message will not be handled here. It holds the commit back permanently, so
    /// that the partition's next owner receives it again.
    pub fn abandon(&mut self, offset: i64) {
        if let Ok(place) = self.place(offset) {
            self.in_flight.remove(place);
            self.abandoned.insert(offset);
        }
    }

    /// Notes that an attempt at a message failed; `made` is the number of attempts, with this
    /// one.
    pub fn fail(&mut self, offset: i64, made: u32) {
        if self.is_in_flight(offset) {
            self.attempts.insert(offset, made);
        }
    }

    /// Resets the attempts at a message, so that its next delivery counts from the beginning.
    pub fn forget_attempts(&mut self, offset: i64) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&offset);
        }
    }

    /// Returns the number of failed attempts at a message, with those of earlier owners.
    pub fn attempts(&self, offset: i64) -> u32 {
        self.attempts.get(&offset).copied().unwrap_or(0)
    }

    /// Returns the offset that may be committed: one past the settled prefix. Returns `None`
    /// before the first delivery. The offset never falls unless the client is sent back.
    pub fn committable(&self) -> Option<i64> {
        self.lowest_unsettled().or(self.next)
    }

    /// Returns the offset that may be committed once `message`, which is in flight, is settled
    /// too: one past it. Returns `None` if an earlier message is unsettled, or if `message` is
    /// not in flight.
    pub fn committable_behind(&self, message: i64) -> Option<i64> {
        let is_first = self.oldest() == Some(message);
        let none_abandoned = self.abandoned.first().is_none_or(|first| *first > message);
        (is_first && none_abandoned).then_some(message + 1)
    }

    /// Returns the lowest offset that was delivered and is not settled, in flight or
    /// abandoned.
    pub fn lowest_unsettled(&self) -> Option<i64> {
        let abandoned = self.abandoned.first().copied();
        self.oldest().into_iter().chain(abandoned).min()
    }

    /// Returns `true` if a commit of `offset` passes no unsettled message, other than
    /// `but`.
    pub fn may_commit(&self, offset: i64, but: Option<i64>) -> bool {
        let passed = self.unsettled().any(|it| it < offset && Some(it) != but);
        !passed && self.next.is_some_and(|next| offset <= next)
    }

    /// Returns `true` if the message was delivered and is neither settled nor abandoned.
    pub fn is_in_flight(&self, offset: i64) -> bool {
        self.place(offset).is_ok()
    }

    /// Returns the index of a message in flight.
    fn place(&self, offset: i64) -> Result<usize, usize> {
        self.in_flight.binary_search_by_key(&offset, |it| it.0)
    }

    /// Returns the lowest offset in flight.
    fn oldest(&self) -> Option<i64> {
        self.in_flight.front().map(|it| it.0)
    }

    /// Returns all offsets that were delivered and are not settled.
    fn unsettled(&self) -> impl Iterator<Item = i64> {
        let in_flight = self.in_flight.iter().map(|it| it.0);
        in_flight.chain(self.abandoned.iter().copied())
    }

    /// Returns the state beyond `base`, an offset that is about to be committed with it.
    pub fn gaps(&self, base: i64) -> Gaps {
        let next = self.next.unwrap_or(base);
        let mut open: Vec<i64> = self.unsettled().collect();
        open.sort_unstable();
        let open = open.into_iter().map(|offset| offset..offset + 1);
        let inherited = self.inherited.iter().flat_map(Gaps::incomplete);
        let ahead = inherited.map(|range: &Range<i64>| range.start.max(next)..range.end);
        let horizon = self.inherited.as_ref().map_or(next, Gaps::horizon);
        let attempts = self.attempts.iter().map(|(offset, made)| (*offset, *made));
        Gaps::new(
            base,
            horizon.max(next),
            open.chain(ahead),
            attempts.skip_while(|(offset, _)| *offset < base),
        )
        .with_leader_epoch(self.known_epoch())
    }

    /// Returns the highest leader epoch of all known messages, or `None` if that of an earlier
    /// owner's state is unknown.
    fn known_epoch(&self) -> Option<i32> {
        match &self.inherited {
            Some(gaps) => {
                let theirs = gaps.leader_epoch();
                theirs.map(|theirs| self.leader_epoch.map_or(theirs, |ours| ours.max(theirs)))
            }
            None => self.leader_epoch,
        }
    }

    /// Returns `true` if there is more state than the offset that may be committed, when
    /// messages settle in their order: attempts, or the state of an earlier owner.
    pub fn knows_more(&self) -> bool {
        self.inherited.is_some() || !self.attempts.is_empty()
    }

    /// Returns the offset that is read next, or `None` before anything was read.
    pub fn position(&self) -> Option<i64> {
        self.next
    }

    /// Returns `true` if all messages that were read are settled, and the position was reached
    /// without a message before it: no message's commit covers it.
    pub fn is_at_reached(&self) -> bool {
        self.in_flight.is_empty() && self.abandoned.is_empty() && self.reached == self.next
    }

    /// Returns the time of the oldest message in flight that has a time.
    pub fn oldest_time(&self) -> Option<i64> {
        self.in_flight.front().and_then(|it| it.1)
    }

    /// Returns the number of unsettled messages from an offset on.
    pub fn in_flight_from(&self, offset: i64) -> usize {
        let before = self.in_flight.partition_point(|(it, _)| *it < offset);
        self.in_flight.len() - before
    }

    /// Returns the number of unsettled messages.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
