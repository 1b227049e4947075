//! Rules about deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Evidence, Violation};
use crate::recorder::{Delivery, Verdict};

/// How much later than it happened the recorder may see that a client has left.
const NOTICE: Duration = Duration::from_millis(100);

pub(super) fn nothing_lost(evidence: &Evidence) -> Vec<Violation> {
    let handled: BTreeSet<_> = evidence
        .deliveries
        .iter()
        .filter(|delivery| delivery.verdict.is_success())
        .map(|delivery| &delivery.position)
        .collect();
    let skipped: BTreeSet<_> = evidence.skipped.iter().collect();
    let wanted: BTreeSet<_> = evidence
        .produced
        .iter()
        .filter(|position| !skipped.contains(position))
        .collect();
    let delivered = evidence.by_position();

    let lost = wanted
        .iter()
        .filter(|position| !handled.contains(*position))
        .map(|position| Violation::Lost((*position).clone()));
    let unexpected = delivered
        .keys()
        .filter(|position| !wanted.contains(*position))
        .map(|position| Violation::Unexpected((*position).clone()));
    lost.chain(unexpected).collect()
}

pub(super) fn everything_settled(evidence: &Evidence) -> Vec<Violation> {
    let deliveries = evidence.deliveries.iter();
    let settled: BTreeSet<_> = deliveries
        .filter(|delivery| evidence.settled_at(delivery).is_some())
        .map(|delivery| &delivery.position)
        .collect();
    let skipped: BTreeSet<_> = evidence.skipped.iter().collect();
    let open = evidence
        .produced
        .iter()
        .filter(|position| !skipped.contains(position) && !settled.contains(position));
    open.cloned().map(Violation::NeverSettled).collect()
}

pub(super) fn in_order(evidence: &Evidence) -> Vec<Violation> {
    let partitions = evidence.by_partition();
    partitions
        .values()
        .flat_map(|deliveries| in_order_among(evidence, deliveries))
        .collect()
}

pub(super) fn key_order(evidence: &Evidence) -> Vec<Violation> {
    let keys = evidence.by_key();
    keys.values()
        .flat_map(|deliveries| in_order_among(evidence, deliveries))
        .collect()
}

fn in_order_among(evidence: &Evidence, deliveries: &[&Delivery]) -> Vec<Violation> {
    let mut violations = Vec::new();
    // Offsets that were begun, and when they were settled.
    let mut begun: BTreeMap<i64, Option<Instant>> = BTreeMap::new();
    let mut last_to_end: Option<&Delivery> = None;
    let mut before: Option<&Delivery> = None;

    for (place, delivery) in deliveries.iter().enumerate() {
        let position = || delivery.position.clone();
        if let Some(first) = last_to_end.filter(|first| overlap(first, delivery)) {
            violations.push(Violation::Overlap {
                first: first.position.clone(),
                second: position(),
            });
        }
        let unsettled = begun
            .range(..delivery.position.offset)
            .find(|(_, settled)| settled.is_none_or(|settled| settled > delivery.start));
        if let Some((offset, _)) = unsettled {
            let mut unsettled = position();
            unsettled.offset = *offset;
            violations.push(Violation::Overtaken {
                unsettled,
                later: position(),
            });
        }
        let behind = before.filter(|before| before.position.offset > delivery.position.offset);
        let was_late = || {
            let mut before = deliveries[..place].iter();
            let again = before.rfind(|it| it.position == delivery.position);
            again.is_some_and(|it| evidence.was_late(it))
        };
        let is_explained = |earlier: &Delivery| evidence.disrupted(earlier, delivery) || was_late();
        if let Some(earlier) = behind.filter(|earlier| !is_explained(earlier)) {
            violations.push(Violation::Inverted {
                earlier: earlier.position.clone(),
                later: position(),
            });
        }

        let settled = begun.entry(delivery.position.offset).or_default();
        *settled = earliest(*settled, evidence.settled_at(delivery));
        if last_to_end.is_none_or(|last| ends_after(delivery, last)) {
            last_to_end = Some(delivery);
        }
        before = Some(delivery);
    }
    violations
}

/// Whether `second`, begun later, began before `first` had ended.
fn overlap(first: &Delivery, second: &Delivery) -> bool {
    let tolerance = match first.verdict {
        Verdict::Abandoned => NOTICE,
        _ => Duration::ZERO,
    };
    first.end.is_none_or(|end| end > second.start + tolerance)
}

fn ends_after(one: &Delivery, other: &Delivery) -> bool {
    match (one.end, other.end) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

pub(super) fn attempts_within(evidence: &Evidence, limit: u32) -> Vec<Violation> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut violations = Vec::new();
    for (position, deliveries) in evidence.by_position() {
        let told = deliveries.iter().map(|delivery| delivery.attempt).max();
        let told = usize::try_from(told.unwrap_or(0)).unwrap_or(usize::MAX);
        let (attempts, allowed) = match told > limit {
            true => (told, limit),
            false => (
                deliveries.len(),
                limit * (1 + fresh_starts_among(evidence, &deliveries)),
            ),
        };
        if attempts > allowed {
            violations.push(Violation::TooManyAttempts {
                position: position.clone(),
                attempts,
                allowed,
            });
        }
    }
    violations
}

/// How many disruptions that lose attempts lie between the first and the last of
/// these deliveries.
fn fresh_starts_among(evidence: &Evidence, deliveries: &[&Delivery]) -> usize {
    let (Some(first), Some(last)) = (deliveries.first(), deliveries.last()) else {
        return 0;
    };
    evidence
        .disruptions
        .iter()
        .filter(|disruption| !disruption.keeps_attempts)
        .filter(|disruption| disruption.separates(first.start, last.start))
        .count()
}

pub(super) fn backed_off(evidence: &Evidence, shortest: Duration) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (position, deliveries) in evidence.by_position() {
        for two in deliveries.windows(2) {
            let (failed, next) = (two[0], two[1]);
            // Counted on, so that it is the next attempt; and the failure was answered.
            let follows = next.attempt == failed.attempt + 1;
            let answered = matches!(failed.verdict, Verdict::Answered(300..));
            let Some(end) = failed.end.filter(|_| follows && answered) else {
                continue;
            };
            let waited = next.start.saturating_duration_since(end);
            if waited < shortest {
                violations.push(Violation::TooSoon {
                    position: position.clone(),
                    attempt: next.attempt,
                    waited,
                });
            }
        }
    }
    violations
}

pub(super) fn duplicates_explained(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (position, deliveries) in evidence.by_position() {
        let unexplained = deliveries.windows(2).any(|two| {
            evidence.settled_at(two[0]).is_some()
                && !evidence.disrupted(two[0], two[1])
                && !evidence.was_late(two[0])
        });
        if unexplained {
            violations.push(Violation::UnexplainedDuplicate(position.clone()));
        }
    }
    violations
}

pub(super) fn never_twice_at_once(evidence: &Evidence) -> Vec<Violation> {
    let twice = |two: &[&Delivery]| overlap(two[0], two[1]) && !evidence.disrupted(two[0], two[1]);
    evidence
        .by_position()
        .into_iter()
        .filter(|(_, deliveries)| deliveries.windows(2).any(twice))
        .map(|(position, _)| Violation::TwiceAtOnce(position.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::logs::{Clock, at, found, produced};
    use super::super::{Disruption, Rule};
    use super::*;

    fn check(rule: Rule, deliveries: Vec<Delivery>, disrupted: &[Instant]) -> Vec<Violation> {
        let disruptions = disrupted.iter().map(|moment| Disruption::at(*moment));
        let run = Evidence::new(&produced(3), deliveries).disruptions(disruptions);
        found(&run, rule)
    }

    fn all_handled(clock: &Clock) -> Vec<Delivery> {
        vec![
            clock.delivery(0, 0, 10, 204),
            clock.delivery(1, 10, 20, 200),
            clock.delivery(2, 20, 30, 204),
        ]
    }

    #[test]
    fn keys_are_in_order_each_for_itself() {
        let clock = Clock::new();
        let keyed = |offset, start, end, key: &str| Delivery {
            key: Some(key.into()),
            ..clock.delivery(offset, start, end, 204)
        };
        let apart = vec![
            keyed(0, 0, 30, "a"),
            keyed(1, 5, 10, "b"),
            keyed(2, 30, 40, "a"),
        ];
        assert_eq!(check(Rule::KeyOrder, apart, &[]), []);
        let beside = vec![keyed(0, 0, 30, "a"), keyed(2, 20, 40, "a")];
        let expected = [
            Violation::Overlap {
                first: at(0),
                second: at(2),
            },
            Violation::Overtaken {
                unsettled: at(0),
                later: at(2),
            },
        ];
        assert_eq!(check(Rule::KeyOrder, beside, &[]), expected);
    }

    #[test]
    fn a_clean_run_keeps_every_rule() {
        let clock = Clock::new();
        let rules = [
            Rule::NothingLost,
            Rule::InOrder,
            Rule::AttemptsWithin(1),
            Rule::DuplicatesExplained,
        ];
        for rule in rules {
            assert_eq!(check(rule, all_handled(&clock), &[]), []);
        }
    }

    #[test]
    fn a_message_that_is_missing_or_failed_is_lost() {
        let clock = Clock::new();
        let mut deliveries = all_handled(&clock);
        deliveries.remove(1);
        deliveries[1] = clock.delivery(2, 20, 30, 500);
        let expected = [Violation::Lost(at(1)), Violation::Lost(at(2))];
        assert_eq!(check(Rule::NothingLost, deliveries, &[]), expected);
    }

    #[test]
    fn a_message_that_was_given_up_is_settled_and_one_that_waits_is_not() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(0, 0, 10, 204),
            clock.delivery(1, 10, 20, 422),
            clock.delivery(2, 20, 30, 503),
        ];
        let run = Evidence::new(&produced(3), deliveries)
            .settled_by(|delivery| delivery.verdict != Verdict::Answered(503));
        let expected = [Violation::NeverSettled(at(2))];
        assert_eq!(found(&run, Rule::EverythingSettled), expected);
    }

    #[test]
    fn a_delivery_of_what_was_not_produced_or_was_to_be_skipped_is_found() {
        let clock = Clock::new();
        let mut deliveries = all_handled(&clock);
        deliveries.push(clock.delivery(7, 30, 40, 204));
        let run = Evidence::new(&produced(3), deliveries).skipped([at(1)]);
        let expected = vec![Violation::Unexpected(at(1)), Violation::Unexpected(at(7))];
        assert_eq!(found(&run, Rule::NothingLost), expected);
    }

    #[test]
    fn deliveries_at_the_same_time_overlap() {
        let clock = Clock::new();
        // The second lies within the first, the third only touches the first.
        let deliveries = vec![
            clock.delivery(0, 0, 100, 204),
            clock.delivery(0, 10, 20, 204),
            clock.delivery(0, 50, 120, 204),
        ];
        let overlap = Violation::Overlap {
            first: at(0),
            second: at(0),
        };
        let expected = [overlap.clone(), overlap];
        assert_eq!(check(Rule::InOrder, deliveries, &[]), expected);
    }

    #[test]
    fn one_that_never_ended_overlaps_all_that_follow() {
        let clock = Clock::new();
        let mut deliveries = vec![clock.delivery(0, 0, 1, 204), clock.delivery(0, 10, 20, 204)];
        deliveries[0].end = None;
        deliveries[0].verdict = Verdict::Open;
        let expected = [Violation::Overlap {
            first: at(0),
            second: at(0),
        }];
        assert_eq!(check(Rule::InOrder, deliveries, &[]), expected);
    }

    #[test]
    fn a_client_that_leaves_is_noticed_a_little_late_but_not_much() {
        let clock = Clock::new();
        for (noticed, overlaps) in [(50, 0), (200, 1)] {
            let mut deliveries = vec![
                clock.delivery(0, 0, noticed, 204),
                clock.delivery(0, 20, 30, 204),
            ];
            deliveries[0].verdict = Verdict::Abandoned;
            assert_eq!(check(Rule::InOrder, deliveries, &[]).len(), overlaps);
        }
    }

    #[test]
    fn going_on_after_a_failure_is_found_even_after_a_restart() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(0, 0, 10, 500),
            clock.delivery(1, 20, 30, 204),
        ];
        let expected = [Violation::Overtaken {
            unsettled: at(0),
            later: at(1),
        }];
        assert_eq!(check(Rule::InOrder, deliveries, &[clock.at(15)]), expected);
    }

    #[test]
    fn retries_in_place_are_in_order() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(0, 0, 10, 500),
            clock.delivery(0, 10, 20, 204),
            clock.delivery(1, 20, 30, 204),
        ];
        assert_eq!(check(Rule::InOrder, deliveries, &[]), []);
    }

    #[test]
    fn going_back_needs_a_disruption() {
        let clock = Clock::new();
        let mut deliveries = all_handled(&clock);
        deliveries.push(clock.delivery(1, 50, 60, 204));
        let expected = [Violation::Inverted {
            earlier: at(2),
            later: at(1),
        }];
        assert_eq!(check(Rule::InOrder, deliveries.clone(), &[]), expected);
        assert_eq!(
            check(Rule::InOrder, deliveries.clone(), &[clock.at(10)]),
            expected
        );
        assert_eq!(check(Rule::InOrder, deliveries, &[clock.at(40)]), []);
    }

    #[test]
    fn attempts_are_counted_and_believed() {
        let clock = Clock::new();
        let mut deliveries: Vec<_> = (0..4)
            .map(|n| clock.delivery(0, n * 10, n * 10 + 5, 500))
            .collect();
        let rule = Rule::AttemptsWithin(3);
        let too_many = |attempts, allowed| {
            [Violation::TooManyAttempts {
                position: at(0),
                attempts,
                allowed,
            }]
        };
        assert_eq!(check(rule, deliveries.clone(), &[]), too_many(4, 3));
        assert_eq!(check(rule, deliveries.clone(), &[clock.at(7)]), []);
        deliveries[3].attempt = 5;
        assert_eq!(check(rule, deliveries, &[clock.at(7)]), too_many(5, 3));
    }

    #[test]
    fn a_disruption_that_keeps_attempts_allows_no_more_of_them() {
        let clock = Clock::new();
        let deliveries: Vec<_> = (0..4)
            .map(|n| clock.delivery(0, n * 10, n * 10 + 5, 500))
            .collect();
        let check = |disruption| {
            Evidence::new(&produced(3), deliveries.clone())
                .disruptions([disruption])
                .check(&[Rule::AttemptsWithin(3)])
        };
        let stop = Disruption::at(clock.at(7));
        assert!(check(stop).is_ok());
        assert!(check(stop.keeping_attempts()).is_err());
    }

    #[test]
    fn an_attempt_that_comes_too_soon_after_a_failure_is_found() {
        let clock = Clock::new();
        let again = |attempt, start| Delivery {
            attempt,
            ..clock.delivery(0, start, start + 5, 204)
        };
        let rule = Rule::BackedOff(Duration::from_millis(40));
        let failed = || clock.delivery(0, 0, 10, 503);
        let too_soon = Violation::TooSoon {
            position: at(0),
            attempt: 2,
            waited: Duration::from_millis(30),
        };
        let check_two = |next| check(rule, vec![failed(), next], &[]);
        assert_eq!(check_two(again(2, 40)), [too_soon]);
        assert_eq!(check_two(again(2, 50)), []);
        // After a crash the first attempt is made again.
        assert_eq!(check_two(again(1, 12)), []);
        // One that was cut short did not fail.
        let mut cut = failed();
        cut.verdict = Verdict::Abandoned;
        assert_eq!(check(rule, vec![cut, again(2, 12)], &[]), []);
    }

    #[test]
    fn a_second_delivery_of_a_settled_message_needs_a_disruption() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(0, 0, 10, 500),
            clock.delivery(0, 10, 20, 204),
            clock.delivery(0, 30, 40, 204),
        ];
        let rule = Rule::DuplicatesExplained;
        assert_eq!(
            check(rule, deliveries.clone(), &[]),
            [Violation::UnexplainedDuplicate(at(0))]
        );
        assert_eq!(check(rule, deliveries, &[clock.at(25)]), []);
    }

    /// The time of an attempt.
    const LIMIT: Duration = Duration::from_millis(700);

    #[test]
    fn an_answer_that_was_given_too_late_explains_that_its_message_comes_again() {
        let clock = Clock::new();
        // The first answer is given so long after the beginning of its time, or of itself.
        let found_in = |end, deadline: Option<u64>, rule| {
            let mut first = clock.delivery(0, 0, end, 204);
            if let Some(deadline) = deadline {
                let deadline = clock.text_of(deadline);
                first.headers.insert("ce-attemptdeadline".into(), deadline);
            }
            let second = clock.delivery(1, end, end + 10, 204);
            let again = Delivery {
                attempt: 2,
                ..clock.delivery(0, end + 50, end + 60, 204)
            };
            let run = Evidence::new(&produced(2), vec![first, second, again]);
            found(&run.late_answers(LIMIT), rule).len()
        };
        for rule in [Rule::DuplicatesExplained, Rule::InOrder] {
            for (end, deadline, violations) in [
                (650, None, 0),
                (900, None, 0),
                // That it is a further attempt explains nothing.
                (100, None, 1),
                // Its time began before it did.
                (100, Some(200), 0),
                (100, Some(600), 1),
            ] {
                let context = format!("{rule:?}, {end} by {deadline:?}");
                assert_eq!(found_in(end, deadline, rule), violations, "{context}");
            }
        }
    }

    #[test]
    fn where_a_call_has_one_answer_its_messages_are_late_together() {
        let clock = Clock::new();
        let found_in = |mate_end, mate_start: u64, path: &str| {
            let of = |offset, start, end| Delivery {
                path: path.into(),
                ..clock.delivery(offset, start, end, 204)
            };
            let run = vec![of(0, 0, 100), of(1, mate_start, mate_end), of(0, 750, 760)];
            let run = Evidence::new(&produced(2), run).late_answers(LIMIT);
            found(&run, Rule::DuplicatesExplained).len()
        };
        assert_eq!(found_in(680, 5, "/batch"), 0);
        assert_eq!(found_in(100, 5, "/batch"), 1, "all were in time");
        assert_eq!(found_in(800, 90, "/batch"), 1, "it came by another call");
        let grpc = "penstock.handler.v1.Handler";
        assert_eq!(found_in(680, 5, grpc), 1, "each has its own verdict");
    }

    #[test]
    fn without_a_limit_no_answer_is_late() {
        let clock = Clock::new();
        let twice = vec![
            clock.delivery(0, 0, 5_000, 204),
            clock.delivery(0, 5_050, 5_060, 204),
        ];
        let run = Evidence::new(&produced(1), twice);
        assert_eq!(found(&run, Rule::DuplicatesExplained).len(), 1);
    }

    #[test]
    fn a_disruption_that_lasts_explains_what_happens_in_it() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(0, 10, 20, 204),
            clock.delivery(0, 30, 40, 204),
        ];
        let lasting = Disruption::between(clock.at(0), clock.at(100));
        let run = Evidence::new(&produced(1), deliveries).disruptions([lasting]);
        assert_eq!(found(&run, Rule::DuplicatesExplained), []);
    }

    #[test]
    fn a_message_with_two_handlers_at_once_is_found() {
        let clock = Clock::new();
        let twice = vec![
            clock.delivery(0, 0, 20, 204),
            clock.delivery(0, 10, 30, 204),
        ];
        let expected = [Violation::TwiceAtOnce(at(0))];
        let rule = Rule::NeverTwiceAtOnce;
        assert_eq!(check(rule, twice.clone(), &[]), expected);
        assert!(check(rule, twice, &[clock.at(5)]).is_empty());
        let after = vec![
            clock.delivery(0, 0, 10, 204),
            clock.delivery(0, 10, 30, 204),
        ];
        assert!(check(rule, after, &[]).is_empty());
    }
}
