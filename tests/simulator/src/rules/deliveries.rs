//! Rules about when messages are delivered, and how often.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{Delivery, Happened, Run, Scenario, Shape, Verdict};

use super::{Rule, Violation};

/// Deliveries of each message, in the order of their beginnings.
pub(super) fn by_message(run: &Run) -> BTreeMap<usize, Vec<&Delivery>> {
    let mut messages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for delivery in &run.deliveries {
        messages.entry(delivery.seq).or_default().push(delivery);
    }
    messages
}

fn place(delivery: &Delivery) -> (i32, i64) {
    (delivery.partition, delivery.offset)
}

/// Two deliveries of one message that follow each other under one assignment.
fn within_assignments(run: &Run) -> Vec<((i32, i64), [&Delivery; 2])> {
    let mut pairs = Vec::new();
    for deliveries in by_message(run).into_values() {
        for two in deliveries.windows(2) {
            if (two[0].process, two[0].epoch) == (two[1].process, two[1].epoch) {
                pairs.push((place(two[0]), [two[0], two[1]]));
            }
        }
    }
    pairs
}

pub(super) fn settles(scenario: &Scenario, delivery: &Delivery) -> bool {
    scenario.settles(delivery.verdict, delivery.attempt)
}

pub(super) fn duplicates_explained(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (message, [first, _]) in within_assignments(run) {
        let ended = match first.verdict {
            Verdict::CutShort => "was taken from its handler",
            _ if settles(scenario, first) => "was settled",
            _ => continue,
        };
        let text = format!("{message:?} {ended} and came again under one assignment");
        violations.push(Violation::of(Rule::DuplicatesExplained, message, text));
    }
    violations
}

/// Returns `true` if nothing kept the run from committing all that was settled, and no
/// consumer ended by a failure.
pub(super) fn is_orderly(scenario: &Scenario, run: &Run) -> bool {
    let failed = |(_, _, happened): &(Duration, usize, Happened)| {
        matches!(happened, Happened::Ended(Some(_)))
    };
    // A call that takes longer than a revocation waits for is cut off, and comes again.
    let limit = Duration::from_millis(scenario.stop_timeout.into());
    let in_time = |it: &Delivery| it.returned.is_some_and(|end| end - it.given < limit);
    scenario.is_orderly()
        && !scenario.is_short_of_metadata()
        && scenario.commit != Commit::Read
        && !run.processes.iter().any(failed)
        && run.deliveries.iter().all(in_time)
}

pub(super) fn no_duplicates_in_orderly_runs(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if !is_orderly(scenario, run) {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for deliveries in by_message(run).into_values() {
        let message = place(deliveries[0]);
        let settled = deliveries.iter().position(|it| settles(scenario, it));
        if settled.is_some_and(|index| index + 1 < deliveries.len()) {
            let text = format!("{message:?} was settled and came again in an orderly run");
            let rule = Rule::NoDuplicatesInOrderlyRuns;
            violations.push(Violation::of(rule, message, text));
        }
    }
    violations
}

pub(super) fn attempts_counted(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let rule = Rule::AttemptsCounted;
    let mut violations = Vec::new();
    for delivery in &run.deliveries {
        if delivery.attempt > scenario.max_attempts {
            let message = (delivery.partition, delivery.offset);
            let text = format!("{message:?} names attempt {}", delivery.attempt);
            violations.push(Violation::of(rule, message, text));
        }
    }
    for (message, [first, second]) in within_assignments(run) {
        let (before, after) = (first.attempt, second.attempt);
        let counted = match first.verdict {
            Verdict::CutShort | Verdict::Open => after >= before,
            Verdict::Void => after >= before,
            _ if scenario.shape == Shape::Single => after == before + 1,
            // A call that fails as a whole also counts for messages that it did not begin.
            _ => after > before,
        };
        if !counted && !settles(scenario, first) {
            let text = format!(
                "{message:?} came as attempt {after} after {before} ended as {:?}",
                first.verdict
            );
            violations.push(Violation::of(rule, message, text));
        }
    }
    violations
}

/// Returns `true` if the attempt failed, and perhaps another follows.
pub(super) fn has_failed(delivery: &Delivery) -> bool {
    matches!(
        delivery.verdict,
        Verdict::Retry | Verdict::Panic | Verdict::TimedOut
    )
}

pub(super) fn back_off_kept(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (message, [first, second]) in within_assignments(run) {
        let Some(ended) = first.ended.filter(|_| has_failed(first)) else {
            continue;
        };
        let wait = Duration::from_millis(scenario.wait_after(first.attempt));
        if second.begun < ended + wait {
            let text = format!(
                "{message:?} was begun again {:?} after attempt {} failed; the back-off is {wait:?}",
                second.begun.saturating_sub(ended),
                first.attempt
            );
            violations.push(Violation::of(Rule::BackOffKept, message, text));
        }
    }
    violations
}

pub(super) fn nothing_begun_at_a_stop(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if scenario.commit == Commit::Read {
        return Vec::new();
    }
    let mut stops: BTreeMap<usize, Duration> = BTreeMap::new();
    for (at, process, happened) in &run.processes {
        if *happened == Happened::Stopping {
            stops.entry(*process).or_insert(*at);
        }
    }
    let late = run.deliveries.iter().filter(|delivery| {
        let stop = stops.get(&delivery.process);
        // A frozen process learns of it when it thaws.
        stop.is_some_and(|stop| delivery.given > *stop && !was_frozen(run, delivery, *stop))
    });
    late.map(|delivery| {
        let message = (delivery.partition, delivery.offset);
        let text = format!(
            "{message:?} was given at {:?} by process {}, which was told to stop before",
            delivery.given, delivery.process
        );
        Violation::of(Rule::NothingBegunAtAStop, message, text)
    })
    .collect()
}

/// Whether the process was frozen when it was told to stop, and began this as it thawed.
fn was_frozen(run: &Run, delivery: &Delivery, stop: Duration) -> bool {
    run.processes.iter().any(|(at, process, happened)| {
        *process == delivery.process
            && *happened == Happened::Thawed
            && *at >= stop
            && *at == delivery.given
    })
}
