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

// One range is what is meant.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn delivered(offsets: Range<i64>) -> OffsetTracker {
        let mut tracker = OffsetTracker::default();
        for offset in offsets {
            assert_eq!(tracker.deliver(offset, None), Delivered::New);
        }
        tracker
    }

    #[test]
    fn nothing_is_committable_before_the_first_message() {
        assert_eq!(OffsetTracker::default().committable(), None);
        let gaps = Gaps::new(5, 9, [5..6], []);
        assert_eq!(OffsetTracker::resume(gaps).committable(), None);
    }

    #[test]
    fn a_slow_message_holds_the_commit_back() {
        let mut tracker = delivered(10..20);
        tracker.settle(11..15);
        tracker.settle(15..20);
        assert_eq!(tracker.committable(), Some(10));
        assert_eq!(tracker.gaps(10), Gaps::new(10, 20, [10..11], []));
        tracker.settle(10..11);
        assert_eq!(tracker.committable(), Some(20));
        assert!(tracker.gaps(20).is_empty());
    }

    #[test]
    fn an_abandoned_message_is_never_passed() {
        let mut tracker = delivered(0..3);
        tracker.abandon(1);
        tracker.settle(0..1);
        tracker.settle(2..3);
        assert_eq!(tracker.committable(), Some(1));
        assert_eq!(tracker.gaps(1), Gaps::new(1, 3, [1..2], []));
        assert_eq!(tracker.in_flight(), 0);
    }

    #[test]
    fn a_client_that_is_sent_back_starts_over() {
        let mut tracker = delivered(100..101);
        tracker.settle(100..101);
        assert_eq!(tracker.deliver(3, None), Delivered::SentBack);
        assert_eq!(tracker.committable(), Some(3));
        tracker.settle(3..4);
        assert_eq!(tracker.committable(), Some(4));
        let mut resumed = OffsetTracker::resume(Gaps::new(5, 9, [5..7], [(6, 2)]));
        assert_eq!(resumed.deliver(4, None), Delivered::SentBack);
        assert_eq!(resumed.deliver(8, None), Delivered::New);
        assert_eq!(resumed.attempts(6), 0);
    }

    #[test]
    fn a_commit_behind_a_message_is_refused_while_an_earlier_one_is_unsettled() {
        let mut tracker = delivered(0..4);
        assert_eq!(tracker.committable_behind(0), Some(1));
        assert_eq!(tracker.committable_behind(1), None, "0 is in flight");
        tracker.abandon(0);
        assert_eq!(tracker.committable_behind(0), None, "0 is abandoned");
        assert_eq!(tracker.committable_behind(1), None, "0 is abandoned");
        let mut tracker = delivered(0..4);
        tracker.settle(0..1);
        tracker.abandon(2);
        assert_eq!(tracker.committable_behind(1), Some(2));
        assert!(tracker.may_commit(2, Some(1)));
        assert!(!tracker.may_commit(2, None));
        assert!(!tracker.may_commit(3, Some(1)), "2 is abandoned");
        assert_eq!(tracker.committable_behind(9), None, "9 was not delivered");
    }

    #[test]
    fn a_commit_behind_a_message_is_refused_after_the_client_was_sent_back() {
        let mut tracker = delivered(100..101);
        tracker.deliver(3, None);
        assert_eq!(tracker.committable_behind(100), None);
        assert_eq!(tracker.committable_behind(3), Some(4));
    }

    #[test]
    fn the_lowest_unsettled_message_is_in_flight_or_abandoned() {
        let mut tracker = delivered(0..4);
        assert_eq!(tracker.lowest_unsettled(), Some(0));
        tracker.settle(0..1);
        tracker.abandon(2);
        assert_eq!(tracker.lowest_unsettled(), Some(1));
        tracker.settle(1..2);
        assert_eq!(tracker.lowest_unsettled(), Some(2));
        let mut tracker = delivered(0..2);
        tracker.settle(0..2);
        assert_eq!(tracker.lowest_unsettled(), None);
    }

    #[test]
    fn settling_twice_changes_nothing() {
        let mut tracker = delivered(5..6);
        tracker.settle(5..6);
        tracker.settle(5..6);
        tracker.abandon(5);
        tracker.fail(5, 1);
        assert_eq!(tracker.committable(), Some(6));
        assert!(!tracker.knows_more());
    }

    #[test]
    fn what_an_earlier_owner_settled_is_not_handed_out_again() {
        let mut tracker = OffsetTracker::resume(Gaps::new(5, 9, [5..6, 7..8], [(7, 4)]));
        let found: Vec<_> = (5..11)
            .map(|offset| tracker.deliver(offset, None))
            .collect();
        use Delivered::{AlreadyHandled, New};
        assert_eq!(found, [New, AlreadyHandled, New, AlreadyHandled, New, New]);
        assert_eq!(tracker.attempts(7), 4);
        assert_eq!(tracker.committable(), Some(5));
        tracker.settle(5..6);
        assert_eq!(tracker.committable(), Some(7));
    }

    #[test]
    fn what_an_earlier_owner_knew_is_void_where_the_log_departs_from_it() {
        use Delivered::{AlreadyHandled, New};
        let gaps = Gaps::new(5, 12, [5..6, 7..8, 9..11], [(5, 1), (7, 4), (9, 2)]);
        let known = gaps.clone().with_leader_epoch(Some(3));
        let deliver = |tracker: &mut OffsetTracker| {
            let found = (5..13).map(|offset| tracker.deliver(offset, None));
            found.collect::<Vec<_>>()
        };
        // The log was truncated to 8, and has grown again.
        let mut tracker = OffsetTracker::resume(known.clone());
        assert_eq!(tracker.read_epoch(5, 2), None);
        assert_eq!(tracker.read_epoch(6, 3), None);
        let departure = tracker.read_epoch(8, 5).unwrap();
        let expected = Departure {
            offset: 8,
            leader_epoch: 5,
            unsettled: 2,
        };
        assert_eq!(departure, expected);
        assert_eq!(tracker.gaps(5).attempts(), [(5, 1), (7, 4)]);
        let found = deliver(&mut tracker);
        assert_eq!(found, [New, AlreadyHandled, New, New, New, New, New, New]);
        // A text of before says nothing of that offset, and of those behind it.
        assert_eq!(departure.keep(known.clone()), known.until(8));
        assert_eq!(departure.keep(gaps.clone()), gaps.until(8));
        let later = gaps.clone().with_leader_epoch(Some(5));
        assert_eq!(departure.keep(later.clone()), later);
        // It departs at the first message, or only behind all that is known.
        let mut tracker = OffsetTracker::resume(known.clone());
        tracker.reach(5);
        assert_eq!(tracker.read_epoch(5, 4).unwrap().unsettled, 4);
        assert!(!tracker.knows_more());
        let mut tracker = OffsetTracker::resume(known);
        assert_eq!(tracker.read_epoch(12, 9), None);
        assert!(deliver(&mut tracker).contains(&AlreadyHandled));
        // Without an epoch nothing is checked.
        let mut tracker = OffsetTracker::resume(gaps);
        assert_eq!(tracker.read_epoch(5, 9), None);
        assert_eq!(tracker.gaps(5).leader_epoch(), None);
    }

    #[test]
    fn what_is_known_has_the_highest_leader_epoch_that_was_read() {
        let mut tracker = OffsetTracker::default();
        assert_eq!(tracker.read_epoch(0, 2), None);
        tracker.deliver(0, None);
        tracker.deliver(1, None);
        tracker.settle(1..2);
        assert_eq!(tracker.gaps(0).leader_epoch(), Some(2));
        // Of a topic that was created again, epochs begin again.
        assert_eq!(tracker.read_epoch(0, 0), None);
        assert_eq!(tracker.deliver(0, None), Delivered::SentBack);
        tracker.fail(0, 1);
        assert_eq!(tracker.gaps(0).leader_epoch(), Some(0));
        let gaps = Gaps::new(5, 9, [5..6], []).with_leader_epoch(Some(3));
        let mut tracker = OffsetTracker::resume(gaps);
        assert_eq!(tracker.read_epoch(5, 1), None);
        tracker.deliver(5, None);
        assert_eq!(tracker.gaps(5).leader_epoch(), Some(3), "of those ahead");
        assert_eq!(tracker.read_epoch(9, 4), None);
        tracker.deliver(9, None);
        assert_eq!(tracker.gaps(5).leader_epoch(), Some(4));
    }

    #[test]
    fn what_an_earlier_owner_knew_is_passed_on_before_it_was_delivered() {
        let gaps = Gaps::new(5, 20, [5..6, 7..8, 12..13], [(12, 4)]);
        let mut tracker = OffsetTracker::resume(gaps);
        tracker.deliver(5, None);
        tracker.settle(5..6);
        tracker.deliver(6, None);
        assert_eq!(tracker.committable(), Some(7));
        assert_eq!(tracker.gaps(7), Gaps::new(7, 20, [7..8, 12..13], [(12, 4)]));
    }

    #[test]
    fn the_end_is_committable_once_nothing_is_in_flight() {
        let mut tracker = delivered(0..3);
        // Markers and holes up to 7, and nothing behind them.
        tracker.reach(7);
        assert_eq!(tracker.committable(), Some(0));
        tracker.settle(1..3);
        assert!(!tracker.is_at_reached());
        assert_eq!(tracker.gaps(0), Gaps::new(0, 7, [0..1], []));
        tracker.settle(0..1);
        assert_eq!(tracker.committable(), Some(7));
        assert!(tracker.is_at_reached());
        // An end of which messages came since.
        tracker.deliver(7, None);
        tracker.reach(7);
        assert_eq!(tracker.position(), Some(8));
        tracker.settle(7..8);
        assert!(!tracker.is_at_reached());
        assert_eq!(tracker.committable(), Some(8));
    }

    #[test]
    fn the_end_is_committable_where_no_message_ever_came() {
        let mut tracker = OffsetTracker::default();
        tracker.reach(40);
        tracker.reach(43);
        assert_eq!(tracker.committable(), Some(43));
        assert!(tracker.is_at_reached());
        let mut resumed = OffsetTracker::resume(Gaps::new(5, 9, [5..6], [(5, 1)]));
        resumed.reach(9);
        assert_eq!(resumed.committable(), Some(9));
        assert!(resumed.gaps(9).is_empty());
    }

    #[test]
    fn the_oldest_message_in_flight_has_its_own_time() {
        let mut tracker = OffsetTracker::default();
        for (offset, time) in [(0, 100), (1, 90), (2, 300)] {
            tracker.deliver(offset, Some(time));
        }
        assert_eq!(tracker.oldest_time(), Some(100));
        tracker.settle(1..2);
        assert_eq!(tracker.oldest_time(), Some(100));
        tracker.settle(0..1);
        assert_eq!(tracker.oldest_time(), Some(300));
        tracker.abandon(2);
        assert_eq!(tracker.oldest_time(), None);
    }

    #[test]
    fn attempts_stay_until_the_message_is_settled() {
        let mut tracker = delivered(0..3);
        tracker.fail(1, 1);
        tracker.fail(1, 2);
        tracker.fail(2, 7);
        tracker.abandon(1);
        assert_eq!(tracker.gaps(0).attempts(), [(1, 2), (2, 7)]);
        tracker.settle(2..3);
        assert_eq!(tracker.gaps(0).attempts(), [(1, 2)]);
        tracker.forget_attempts(1);
        assert!(tracker.gaps(0).attempts().is_empty());
    }
}
