// One range is what is meant.
#![allow(clippy::single_range_in_vec_init)]

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
