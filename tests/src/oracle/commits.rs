//! Rules about committed offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Evidence, Violation};
use crate::Position;

pub(super) fn within_settled(evidence: &Evidence) -> Vec<Violation> {
    let partitions = settled_prefixes(evidence);
    let mut found = BTreeSet::new();
    let mut violations = Vec::new();
    for sample in &evidence.commits {
        for ((topic, partition), committed) in &sample.offsets {
            let committed = Position::new(topic, *partition, *committed);
            let prefix = partitions.get(&(topic.as_str(), *partition));
            let violation = judge(
                &committed,
                prefix.map_or(&[], Vec::as_slice),
                sample.answered,
            );
            // Once for each offset: the samples that follow show it again.
            if let Some(violation) = violation
                && found.insert(committed)
            {
                violations.push(violation);
            }
        }
    }
    violations
}

/// One message: its offset, and when it and all before it had been settled.
struct Settled {
    offset: i64,
    at: Option<Instant>,
}

/// For each partition its messages in their order.
fn settled_prefixes(evidence: &Evidence) -> BTreeMap<(&str, i32), Vec<Settled>> {
    let mut settled: BTreeMap<&Position, Instant> = BTreeMap::new();
    for delivery in &evidence.deliveries {
        if let Some(at) = evidence.settled_at(delivery) {
            let first = settled.entry(&delivery.position).or_insert(at);
            *first = at.min(*first);
        }
    }

    let skipped: BTreeSet<&Position> = evidence.skipped.iter().collect();
    let messages: BTreeSet<&Position> = evidence.produced.iter().chain(&evidence.skipped).collect();
    let mut partitions: BTreeMap<_, Vec<Settled>> = BTreeMap::new();
    // In the order of the offsets, so each follows the one before it.
    for message in messages {
        let prefix = partitions
            .entry((message.topic.as_str(), message.partition))
            .or_default();
        let before = prefix.last().map(|last| last.at);
        let own = settled.get(message).copied();
        let at = match (before, skipped.contains(message)) {
            (Some(None), _) => None,
            (before, true) => before
                .flatten()
                .or(evidence.commits.first().map(|s| s.asked)),
            (before, false) => {
                own.map(|own| before.flatten().map_or(own, |before| before.max(own)))
            }
        };
        prefix.push(Settled {
            offset: message.offset,
            at,
        });
    }
    partitions
}

/// Whether `committed` was too far at the moment `then`.
fn judge(committed: &Position, messages: &[Settled], then: Instant) -> Option<Violation> {
    let end = messages.last().map_or(0, |last| last.offset + 1);
    if committed.offset > end {
        return Some(Violation::CommittedBeyondEnd(committed.clone()));
    }
    let passed = messages.partition_point(|message| message.offset < committed.offset);
    let unsettled = messages[..passed]
        .iter()
        .find(|message| message.at.is_none_or(|at| at > then))?;
    Some(Violation::CommittedUnsettled {
        committed: committed.clone(),
        unsettled: Position {
            offset: unsettled.offset,
            ..committed.clone()
        },
    })
}

pub(super) fn never_go_back(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for two in evidence.commits.windows(2) {
        for ((topic, partition), before) in &two[0].offsets {
            let after = two[1].offsets.get(&(topic.clone(), *partition)).copied();
            if after.is_none_or(|after| after < *before) {
                violations.push(Violation::WentBack {
                    from: Position::new(topic, *partition, *before),
                    to: after,
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::logs::{Clock, at, found, produced};
    use super::*;
    use crate::groups::CommitSample;
    use crate::recorder::Delivery;

    fn within(deliveries: Vec<Delivery>, samples: Vec<CommitSample>) -> Vec<Violation> {
        let run = Evidence::new(&produced(3), deliveries).commits(samples);
        found(&run, Rule::CommitsWithinSettled)
    }

    fn back(samples: Vec<CommitSample>) -> Vec<Violation> {
        let run = Evidence::new(&produced(3), Vec::new()).commits(samples);
        found(&run, Rule::CommitsNeverGoBack)
    }

    fn unsettled(committed: i64, unsettled: i64) -> [Violation; 1] {
        [Violation::CommittedUnsettled {
            committed: at(committed),
            unsettled: at(unsettled),
        }]
    }

    #[test]
    fn commits_that_follow_the_deliveries_pass() {
        let clock = Clock::new();
        let deliveries = vec![
            clock.delivery(1, 0, 10, 204),
            clock.delivery(0, 0, 20, 204),
            clock.delivery(2, 20, 30, 204),
        ];
        let samples = vec![
            clock.sample(5, None),
            clock.sample(25, Some(2)),
            clock.sample(35, Some(3)),
        ];
        assert_eq!(within(deliveries, samples), []);
    }

    #[test]
    fn a_commit_before_the_delivery_ended_is_found() {
        let clock = Clock::new();
        let deliveries = vec![clock.delivery(0, 0, 20, 204)];
        let samples = vec![clock.sample(10, Some(1)), clock.sample(15, Some(1))];
        assert_eq!(within(deliveries, samples), unsettled(1, 0));
    }

    #[test]
    fn a_commit_over_a_gap_is_found() {
        let clock = Clock::new();
        let deliveries = vec![clock.delivery(0, 0, 10, 204), clock.delivery(2, 0, 10, 204)];
        let samples = vec![clock.sample(20, Some(3))];
        assert_eq!(within(deliveries, samples), unsettled(3, 1));
    }

    #[test]
    fn a_commit_of_a_failed_message_is_found_unless_failures_settle() {
        let clock = Clock::new();
        let deliveries = vec![clock.delivery(0, 0, 10, 422)];
        let samples = vec![clock.sample(20, Some(1))];
        assert_eq!(within(deliveries.clone(), samples.clone()), unsettled(1, 0));
        let skipping = Evidence::new(&produced(3), deliveries)
            .commits(samples)
            .settled_by(|delivery| delivery.end.is_some());
        assert_eq!(found(&skipping, Rule::CommitsWithinSettled), []);
    }

    #[test]
    fn a_commit_one_too_far_is_found_at_the_end() {
        let clock = Clock::new();
        let deliveries = (0..3).map(|n| clock.delivery(n, 0, 10, 204)).collect();
        let broken = within(deliveries, vec![clock.sample(20, Some(4))]);
        assert_eq!(broken, [Violation::CommittedBeyondEnd(at(4))]);
    }

    #[test]
    fn a_commit_may_pass_what_was_skipped_but_not_what_lies_before() {
        let clock = Clock::new();
        let run = |deliveries| {
            let run = Evidence::new(&produced(2), deliveries)
                .skipped([at(2)])
                .commits(vec![clock.sample(20, Some(3))]);
            found(&run, Rule::CommitsWithinSettled)
        };
        let (first, second) = (clock.delivery(0, 0, 5, 204), clock.delivery(1, 5, 10, 204));
        assert_eq!(run(vec![first.clone(), second]), []);
        assert_eq!(run(vec![first]), unsettled(3, 1));
    }

    #[test]
    fn a_skipped_message_at_the_front_does_not_hold_up_commits() {
        let clock = Clock::new();
        let first_is_skipped = Evidence::new(&produced(3)[1..], vec![clock.delivery(1, 0, 5, 204)])
            .skipped([at(0)])
            .commits(vec![clock.sample(1, Some(1)), clock.sample(10, Some(2))]);
        assert_eq!(found(&first_is_skipped, Rule::CommitsWithinSettled), []);
    }

    #[test]
    fn offsets_that_rise_pass() {
        let clock = Clock::new();
        let samples = [None, Some(0), Some(2), Some(2)].map(|offset| clock.sample(0, offset));
        assert_eq!(back(samples.into()), []);
    }

    #[test]
    fn an_offset_that_falls_or_vanishes_is_found() {
        let clock = Clock::new();
        for to in [Some(1), None] {
            let samples = vec![clock.sample(0, Some(2)), clock.sample(10, to)];
            let expected = Violation::WentBack { from: at(2), to };
            assert_eq!(back(samples), [expected]);
        }
    }
}
