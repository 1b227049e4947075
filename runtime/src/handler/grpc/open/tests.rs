//! What becomes of deliveries, by the clock and by what the handler says.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_timeout: Duration::from_secs(25),
    wait: Duration::from_secs(60),
};

fn range(first_id: u64, count: u64) -> Range {
    Range { first_id, count }
}

/// One chunk of so many deliveries from number 1 on, which wait in the handler.
fn chunk(count: usize) -> (OpenChunks, oneshot::Receiver<Vec<Fate>>, Instant) {
    let (mut open, now) = (OpenChunks::new(LIMITS), Instant::now());
    let outcome = open.add(1, count, false, now).unwrap();
    (open, outcome, now)
}

fn broken() -> Ended {
    Ended::Broken("killed".into())
}

#[test]
fn the_time_of_an_attempt_runs_from_its_beginning() {
    let (mut open, _outcome, now) = chunk(4);
    let begins = now + 50 * SECOND;
    open.begin(&range(2, 1), begins);
    open.begin(&range(4, 1), begins + SECOND);
    // A second report is no second beginning.
    open.begin(&range(1, 9), begins + 5 * SECOND);
    let at = |seconds| open.overdue(1, begins + seconds * SECOND);
    assert_eq!(at(9), Overdue::default());
    assert_eq!(at(10).timed_out, [1]);
    assert_eq!(at(11).timed_out, [1, 3]);
    assert_eq!(at(15).timed_out, [0, 1, 2, 3]);
    assert!(at(100).not_begun.is_empty());
    assert_eq!(open.next_deadline(1, begins), Some(begins + 10 * SECOND));
}

#[test]
fn what_does_not_begin_in_time_is_no_failure() {
    let (mut open, mut outcome, now) = chunk(3);
    open.begin(&range(2, 1), now + 55 * SECOND);
    let limit = now + LIMITS.wait + REPORT_GRACE;
    assert_eq!(open.overdue(1, limit - SECOND / 10), Overdue::default());
    let overdue = open.overdue(1, limit);
    assert_eq!(
        (overdue.timed_out, overdue.not_begun.clone()),
        (vec![], vec![0, 2])
    );
    let fate = Fate::Returned("late".into());
    let ranges = open.withdraw(1, &overdue.not_begun, &fate, limit);
    assert_eq!(ranges, [range(1, 1), range(3, 1)]);
    assert!(outcome.try_recv().is_err(), "one is open");
    open.settle(2, 1, &Ok(Done::default()), limit);
    let done = Fate::Verdict(Ok(Done::default()));
    assert_eq!(outcome.try_recv().unwrap(), [fate.clone(), done, fate]);
}

#[test]
fn a_look_at_deadlines_comes_in_time_for_what_begins_after_it() {
    let (open, _outcome, now) = chunk(1);
    assert_eq!(open.next_deadline(1, now), Some(now + LIMITS.timeout));
    let late = now + 58 * SECOND;
    assert_eq!(
        open.next_deadline(1, late),
        Some(now + LIMITS.wait + REPORT_GRACE)
    );
    assert_eq!(open.next_deadline(7, late), None);
}

#[test]
fn an_extension_reaches_as_far_as_the_longest_attempt() {
    let (mut open, _outcome, now) = chunk(2);
    open.begin(&range(1, 1), now);
    let deadline = |open: &OpenChunks| open.chunks[&1].deadline(0).duration_since(now);
    for (at, time, expected) in [
        (5, 3, 10),
        (5, 8, 13),
        (12, 9, 21),
        // At most 25 s in all.
        (20, 60, 25),
        (24, u64::MAX, 25),
    ] {
        let time = Duration::from_secs(time);
        open.extend(&range(0, u64::MAX), time, now + at * SECOND);
        assert_eq!(deadline(&open), expected * SECOND, "{time:?} at {at} s");
    }
    // What waits has no attempt to extend.
    assert_eq!(open.overdue(1, now + 30 * SECOND).timed_out, [0]);
    assert_eq!(open.overdue(1, now + 62 * SECOND).not_begun, [1]);
    // What is over can't be extended.
    open.extend(&range(1, 1), SECOND, now + 26 * SECOND);
    assert_eq!(deadline(&open), 25 * SECOND);
}

#[test]
fn a_release_counts_of_what_has_not_begun() {
    let (mut open, mut outcome, now) = chunk(2);
    open.begin(&range(2, 1), now);
    let release = Err(HandlerError::not_attempted("no time"));
    open.settle(1, 2, &release, now);
    let kinds = outcome
        .try_recv()
        .unwrap()
        .into_iter()
        .map(|fate| match fate {
            Fate::Verdict(Err(error)) => error.kind(),
            fate => panic!("{fate:?}"),
        });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, [FailureKind::NotAttempted, FailureKind::Retryable]);
}

#[test]
fn a_verdict_after_the_time_changes_nothing() {
    let (mut open, mut outcome, now) = chunk(1);
    open.begin(&range(1, 1), now);
    open.settle(1, 1, &Ok(Done::default()), now + 11 * SECOND);
    assert!(outcome.try_recv().is_err());
    // One without a report began some time before.
    let (mut open, mut outcome, now) = chunk(1);
    open.settle(1, 1, &Ok(Done::default()), now + 50 * SECOND);
    assert!(outcome.try_recv().is_ok());
}

#[test]
fn a_break_charges_what_had_begun_if_nothing_else_can_have() {
    let why: Arc<str> = "the stream to the handler broke: killed".into();
    let suspect = Fate::Suspect(Arc::clone(&why));
    for (count, begun, fate) in [
        (4, 0, &suspect),
        (4, 1, &suspect),
        (4, 2, &suspect),
        (2, 1, &Fate::Broke(Arc::clone(&why))),
    ] {
        let (mut open, mut outcome, now) = chunk(count);
        open.settle(1, 1, &Ok(Done::default()), now);
        open.begin(&range(2, begun), now);
        let until = open.end(&broken(), now);
        assert_eq!(until, (begun > 0).then(|| now + LIMITS.timeout));
        let fates = outcome.try_recv().unwrap();
        let bystander = Fate::Bystander(Arc::clone(&why));
        for (place, found) in fates.iter().enumerate().skip(1) {
            let has_begun = place <= begun as usize;
            let expected = if has_begun { fate } else { &bystander };
            assert_eq!(found, expected, "{begun} of {count} begun, place {place}");
        }
        assert!(open.add(9, 1, false, now).is_none());
    }
}

#[test]
fn a_break_may_be_the_fault_of_what_was_withdrawn_at_work() {
    for is_late in [false, true] {
        let (mut open, _revoked, now) = chunk(1);
        let mut outcome = open.add(2, 1, true, now).unwrap();
        open.begin(&range(1, 1), now);
        assert_eq!(open.remove(1, now), Some(vec![range(1, 1)]));
        let ends = now + if is_late { 11 } else { 5 } * SECOND;
        open.end(&broken(), ends);
        let fates = outcome.try_recv().unwrap();
        assert_eq!(matches!(fates[0], Fate::Broke(_)), is_late, "{fates:?}");
    }
}

#[test]
fn what_waits_behind_a_withdrawn_call_is_not_even_a_bystander() {
    for is_late in [false, true] {
        let (mut open, _revoked, now) = chunk(1);
        let mut outcome = open.add(2, 1, false, now).unwrap();
        open.begin(&range(1, 1), now);
        open.remove(1, now);
        let ends = now + if is_late { 11 } else { 5 } * SECOND;
        open.end(&broken(), ends);
        let fates = outcome.try_recv().unwrap();
        assert_eq!(matches!(fates[0], Fate::Bystander(_)), is_late, "{fates:?}");
    }
}

#[test]
fn a_stream_that_ends_in_order_charges_nothing() {
    let (mut open, mut outcome, now) = chunk(2);
    open.begin(&range(1, 1), now);
    assert_eq!(open.end(&Ended::InOrder, now), None);
    let fates = outcome.try_recv().unwrap();
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Returned(_))));
}
