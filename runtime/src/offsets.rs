//! Which offsets of one partition may be committed.
//!
//! Offsets arrive in rising order, perhaps with gaps (compaction,
//! transactions), and settle in any order. What may be committed is the end of
//! the settled prefix: everything below it is handled, skipped or
//! dead-lettered. Only offsets in flight are kept, so the memory is bounded by
//! the messages in flight, however far the others run ahead of a slow one.

use std::collections::VecDeque;

/// The offsets of one partition, from its assignment to its revocation.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Delivered and not settled, rising.
    in_flight: VecDeque<i64>,
    /// One past the highest offset delivered.
    next: Option<i64>,
    /// Lowest offset that was given up; nothing from here on may be committed.
    abandoned: Option<i64>,
}

impl OffsetTracker {
    /// Notes that a message was taken from Kafka. An offset that does not rise
    /// means that the client was sent back (the topic was truncated or made
    /// anew): what is known of the old offsets no longer counts.
    pub fn deliver(&mut self, offset: i64) {
        if self.next.is_some_and(|next| offset < next) {
            *self = Self::default();
        }
        self.in_flight.push_back(offset);
        self.next = Some(offset + 1);
    }

    /// Notes that a message needs no more work: handled, skipped or dead-lettered.
    pub fn settle(&mut self, offset: i64) {
        self.remove(offset);
    }

    /// Notes that a message will not be handled here. It holds the commit back
    /// for good, so that whoever owns the partition next gets it again.
    pub fn abandon(&mut self, offset: i64) {
        if self.remove(offset) {
            self.abandoned = Some(self.abandoned.map_or(offset, |lowest| lowest.min(offset)));
        }
    }

    /// The offset that may be committed: one past the settled prefix. Absent
    /// before the first delivery. Never falls unless the client is sent back.
    pub fn committable(&self) -> Option<i64> {
        let oldest = self.in_flight.front().copied();
        [oldest, self.abandoned, self.next]
            .into_iter()
            .flatten()
            .min()
    }

    /// Number of messages delivered and not settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn remove(&mut self, offset: i64) -> bool {
        match self.in_flight.binary_search(&offset) {
            Ok(place) => {
                self.in_flight.remove(place);
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_committable_before_the_first_message() {
        assert_eq!(OffsetTracker::default().committable(), None);
    }

    #[test]
    fn a_slow_message_holds_the_commit_back() {
        let mut tracker = OffsetTracker::default();
        for offset in 10..20 {
            tracker.deliver(offset);
        }
        for offset in 11..20 {
            tracker.settle(offset);
        }
        assert_eq!(tracker.committable(), Some(10));
        tracker.settle(10);
        assert_eq!(tracker.committable(), Some(20));
    }

    #[test]
    fn an_abandoned_message_is_never_passed() {
        let mut tracker = OffsetTracker::default();
        for offset in 0..3 {
            tracker.deliver(offset);
        }
        tracker.abandon(1);
        tracker.settle(0);
        tracker.settle(2);
        assert_eq!(tracker.committable(), Some(1));
        assert_eq!(tracker.in_flight(), 0);
    }

    #[test]
    fn a_client_that_is_sent_back_starts_over() {
        let mut tracker = OffsetTracker::default();
        tracker.deliver(100);
        tracker.settle(100);
        tracker.deliver(3);
        assert_eq!(tracker.committable(), Some(3));
        tracker.settle(3);
        assert_eq!(tracker.committable(), Some(4));
    }

    #[test]
    fn settling_twice_changes_nothing() {
        let mut tracker = OffsetTracker::default();
        tracker.deliver(5);
        tracker.settle(5);
        tracker.settle(5);
        tracker.abandon(5);
        assert_eq!(tracker.committable(), Some(6));
    }

    /// One step of a random history.
    #[derive(Clone, Debug)]
    enum Step {
        Deliver { gap: i64 },
        Settle { pick: usize },
        Abandon { pick: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0i64..3).prop_map(|gap| Step::Deliver { gap }),
            4 => any::<usize>().prop_map(|pick| Step::Settle { pick }),
            1 => any::<usize>().prop_map(|pick| Step::Abandon { pick }),
        ]
    }

    /// The same rules with nothing clever: every offset's fate in one list.
    #[derive(Default)]
    struct Naive {
        offsets: Vec<(i64, Option<bool>)>,
    }

    impl Naive {
        fn committable(&self) -> Option<i64> {
            let unsettled = self.offsets.iter().find(|(_, fate)| *fate != Some(true));
            let last = self.offsets.last()?;
            Some(unsettled.map_or(last.0 + 1, |(offset, _)| *offset))
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_tracker_and_never_falls(steps in prop::collection::vec(step(), 0..400)) {
            let mut tracker = OffsetTracker::default();
            let mut naive = Naive::default();
            let mut next = 0;
            let mut last = None;
            for step in steps {
                let open: Vec<usize> = naive
                    .offsets
                    .iter()
                    .enumerate()
                    .filter(|(_, (_, fate))| fate.is_none())
                    .map(|(place, _)| place)
                    .collect();
                match step {
                    Step::Deliver { gap } => {
                        tracker.deliver(next + gap);
                        naive.offsets.push((next + gap, None));
                        next += gap + 1;
                    }
                    Step::Settle { pick } if !open.is_empty() => {
                        let entry = &mut naive.offsets[open[pick % open.len()]];
                        entry.1 = Some(true);
                        tracker.settle(entry.0);
                    }
                    Step::Abandon { pick } if !open.is_empty() => {
                        let entry = &mut naive.offsets[open[pick % open.len()]];
                        entry.1 = Some(false);
                        tracker.abandon(entry.0);
                    }
                    _ => {}
                }
                let committable = tracker.committable();
                prop_assert_eq!(committable, naive.committable());
                prop_assert!(committable >= last);
                last = committable;
                let in_flight = naive.offsets.iter().filter(|(_, fate)| fate.is_none()).count();
                prop_assert_eq!(tracker.in_flight(), in_flight);
            }
        }
    }
}
