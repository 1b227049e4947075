//! Which offsets of one partition may be committed.
//!
//! Offsets arrive in rising order, perhaps with gaps (compaction,
//! transactions), and settle in any order. What may be committed is the end of
//! the settled prefix: everything below it is handled, skipped or
//! dead-lettered. Only what is not settled is kept, so the memory is bounded by
//! the messages in flight, however far the others run ahead of a slow one.
//!
//! A tracker may begin with what an earlier owner of the partition knew beyond
//! its committed offset, see [`Gaps`]: what was settled then is not handed out
//! again, and attempts are counted on.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use crate::gaps::Gaps;

/// The offsets of one partition, from its assignment to its revocation.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Delivered and not settled, by rising offsets, each with its time.
    in_flight: VecDeque<(i64, Option<i64>)>,
    /// Given up. The lowest holds the commit back for good.
    abandoned: BTreeSet<i64>,
    /// The position: one past the highest offset delivered, or reached without.
    next: Option<i64>,
    /// The position that was reached without a message before it.
    reached: Option<i64>,
    /// Attempts that failed, of messages that are not settled.
    attempts: BTreeMap<i64, u32>,
    /// What an earlier owner knew; gone once all of it was delivered.
    inherited: Option<Gaps>,
    /// The leader epoch of the record read last, where it is known.
    leader_epoch: Option<i32>,
}

/// Where the log departs from what an earlier owner of the partition knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// What was known of this offset and those behind it is void.
    pub offset: i64,
    /// The leader epoch of the record there. Texts with a lower one speak of the log before.
    pub leader_epoch: i32,
    /// Messages that the earlier owner read there and did not settle. They are gone.
    pub unsettled: u64,
}

impl Departure {
    /// Returns what counts of a text that was committed.
    pub fn keep(self, known: Gaps) -> Gaps {
        let is_before = known.leader_epoch().is_none_or(|it| it < self.leader_epoch);
        if is_before {
            known.until(self.offset)
        } else {
            known
        }
    }
}

/// What a message that was taken from Kafka is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// To be handled.
    New,
    /// To be handled, and what was known of the partition no longer counts: the
    /// client was sent back, because the topic was truncated or made anew.
    SentBack,
    /// Settled by an earlier owner, and so here.
    AlreadyHandled,
}

impl OffsetTracker {
    /// A tracker that goes on from what an earlier owner knew.
    pub fn resume(gaps: Gaps) -> Self {
        Self {
            attempts: gaps.attempts().iter().copied().collect(),
            inherited: Some(gaps),
            ..Self::default()
        }
    }

    /// Notes that all below this offset was read, messages or not: it is where reading
    /// begins, or the end of the partition.
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
    /// delivered. Returns where the log departs from what an earlier owner knew, if it does
    /// so there: of the messages that the earlier owner speaks of, none has a higher epoch.
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
        // Attempts of this owner are all at messages before.
        self.attempts.split_off(&offset);
        Some(Departure {
            offset,
            leader_epoch,
            unsettled,
        })
    }

    /// Notes that a message was taken from Kafka. `time` is the message's own, in
    /// milliseconds since the epoch.
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

    /// Whether an earlier owner settled this message, the highest delivered.
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

    /// Notes that messages need no more work: handled, skipped or dead-lettered. All of
    /// these were delivered.
    pub fn settle(&mut self, offsets: Range<i64>) {
        let begin = self.in_flight.partition_point(|it| it.0 < offsets.start);
        let rest = self.in_flight.range(begin..);
        let count = rest.take_while(|it| offsets.contains(&it.0)).count();
        self.in_flight.drain(begin..begin + count);
        while let Some((&offset, _)) = self.attempts.range(offsets.clone()).next() {
            self.attempts.remove(&offset);
        }
    }

    /// Notes that a message will not be handled here. It holds the commit back
    /// for good, so that whoever owns the partition next gets it again.
    pub fn abandon(&mut self, offset: i64) {
        if let Ok(place) = self.place(offset) {
            self.in_flight.remove(place);
            self.abandoned.insert(offset);
        }
    }

    /// Notes that an attempt at a message failed; `made` counts it and those
    /// before it.
    pub fn fail(&mut self, offset: i64, made: u32) {
        if self.is_in_flight(offset) {
            self.attempts.insert(offset, made);
        }
    }

    /// Has the attempts at a message counted anew by whoever gets it next.
    pub fn forget_attempts(&mut self, offset: i64) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&offset);
        }
    }

    /// Attempts that failed at a message so far, by earlier owners too.
    pub fn attempts(&self, offset: i64) -> u32 {
        self.attempts.get(&offset).copied().unwrap_or(0)
    }

    /// The offset that may be committed: one past the settled prefix. Absent
    /// before the first delivery. Never falls unless the client is sent back.
    pub fn committable(&self) -> Option<i64> {
        self.lowest_unsettled().or(self.next)
    }

    /// Returns the offset that may be committed once `message`, which is in flight, is
    /// settled too: one past it. `None` if an earlier message is unsettled, or if
    /// `message` is not in flight.
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

    /// What is known beyond `base`, an offset that is about to be committed with it.
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

    /// Returns the highest leader epoch of all that is known. `None` if that of an earlier
    /// owner's knowledge is unknown.
    fn known_epoch(&self) -> Option<i32> {
        match &self.inherited {
            Some(gaps) => {
                let theirs = gaps.leader_epoch();
                theirs.map(|theirs| self.leader_epoch.map_or(theirs, |ours| ours.max(theirs)))
            }
            None => self.leader_epoch,
        }
    }

    /// Whether more is known than what may be committed, if messages settle in
    /// their order: attempts, or what an earlier owner knew.
    pub fn knows_more(&self) -> bool {
        self.inherited.is_some() || !self.attempts.is_empty()
    }

    /// The offset that is read next; absent before anything was read.
    pub fn position(&self) -> Option<i64> {
        self.next
    }

    /// Returns `true` if all that was read is settled, and the position was reached
    /// without a message before it: no message's commit tells of it.
    pub fn is_at_reached(&self) -> bool {
        self.in_flight.is_empty() && self.abandoned.is_empty() && self.reached == self.next
    }

    /// The time of the oldest message in flight, where there is one that has a time.
    pub fn oldest_time(&self) -> Option<i64> {
        self.in_flight.front().and_then(|it| it.1)
    }

    /// Number of messages at an offset, or behind it, that were delivered and not settled.
    pub fn in_flight_from(&self, offset: i64) -> usize {
        let before = self.in_flight.partition_point(|(it, _)| *it < offset);
        self.in_flight.len() - before
    }

    /// Number of messages delivered and not settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
