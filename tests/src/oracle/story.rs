//! What is known of a message, told in order of time beside a violation.

use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;

use super::Evidence;
use crate::Position;

/// All that concerns one message, a line each: its deliveries, the samples in which
/// the committed offset of its partition changed, and the disruptions. By the clock,
/// as the members' logs have it.
pub(super) fn tell(evidence: &Evidence, position: &Position) -> String {
    let mut lines = deliveries(evidence, position);
    lines.extend(commits(evidence, position));
    for disruption in &evidence.disruptions {
        lines.push((disruption.from, "a disruption began".into()));
        lines.push((disruption.to, "a disruption ended".into()));
    }
    lines.sort();
    let mut story = format!("  what is known of {position}:\n");
    for (at, what) in lines {
        let _ = writeln!(story, "    {} {what}", by_the_clock(at));
    }
    story
}

fn deliveries(evidence: &Evidence, position: &Position) -> Vec<(Instant, String)> {
    let concerned = evidence.deliveries.iter();
    concerned
        .filter(|delivery| delivery.position == *position)
        .flat_map(|delivery| {
            let who = format!(
                "on connection {}, epoch {}, attempt {}",
                delivery.connection,
                delivery.header("ce-kafkaepoch").unwrap_or("unknown"),
                delivery.attempt
            );
            let ended = |end| (end, format!("{:?} {who}", delivery.verdict));
            let begun = (delivery.start, format!("delivered {who}"));
            [Some(begun), delivery.end.map(ended)]
        })
        .flatten()
        .collect()
}

fn commits(evidence: &Evidence, position: &Position) -> Vec<(Instant, String)> {
    let partition = (position.topic.clone(), position.partition);
    let mut last = None;
    let mut changes = Vec::new();
    for sample in &evidence.commits {
        let offset = sample.offsets.get(&partition).copied();
        if offset != last {
            changes.push((sample.answered, format!("committed: {offset:?}")));
            last = offset;
        }
    }
    changes
}

/// A moment of this process, in UTC.
fn by_the_clock(at: Instant) -> String {
    let now = SystemTime::now();
    let then = match at.checked_duration_since(Instant::now()) {
        Some(ahead) => now + ahead,
        None => now - at.elapsed(),
    };
    Timestamp::try_from(then)
        .map_or_else(|error| error.to_string(), |moment| format!("{moment:.6}"))
}

#[cfg(test)]
mod tests {
    use super::super::logs::{Clock, produced};
    use super::super::{Disruption, Rule};
    use super::*;

    #[test]
    fn a_violation_is_told_with_deliveries_commits_and_disruptions_in_order() {
        let clock = Clock::new();
        let twice = vec![
            clock.delivery(0, 0, 10, 204),
            clock.delivery(0, 40, 50, 204),
        ];
        let samples = [clock.sample(5, None), clock.sample(20, Some(1))];
        let error = Evidence::new(&produced(1), twice)
            .commits(samples.into())
            .disruptions([Disruption::at(clock.at(70))])
            .check(&[Rule::DuplicatesExplained])
            .unwrap_err();
        let told = error.to_string();
        let told: Vec<_> = told
            .lines()
            .skip_while(|line| !line.contains("what is known of t/0@0"))
            .skip(1)
            .map(|line| {
                line.split_whitespace()
                    .skip(1)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        let who = "on connection 0, epoch unknown, attempt 1";
        assert_eq!(
            told,
            [
                format!("delivered {who}"),
                format!("Answered(204) {who}"),
                "committed: Some(1)".into(),
                format!("delivered {who}"),
                format!("Answered(204) {who}"),
                "a disruption began".into(),
                "a disruption ended".into(),
            ]
        );
    }
}
