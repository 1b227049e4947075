//! Rules about messages that come again under another assignment, and about the ends of
//! assignments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{Delivery, Event, Happened, Mode, Run, Scenario, Shape, TOPIC};

use super::deliveries::{by_message, has_failed, is_orderly, settles};
use super::{Rule, Violation};

/// The time that a consumer which ends has at least for its last commit.
const LAST_COMMIT: Duration = Duration::from_secs(1);

pub(super) fn attempts_counted(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    // Until the id of the topic is read, attempts at messages of the earlier log are counted.
    let mut violations = match scenario.replaces_log() {
        true => Vec::new(),
        false => attempts_made(run),
    };
    violations.extend(attempts_kept(scenario, run));
    violations.extend(attempts_begin_again(scenario, run));
    violations
}

fn place(delivery: &Delivery) -> (i32, i64) {
    (delivery.partition, delivery.offset)
}

/// Another owner counts on, where nothing keeps it from knowing.
fn attempts_kept(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !is_orderly(scenario, run) {
        return violations;
    }
    for deliveries in by_message(run).into_values() {
        let message = place(deliveries[0]);
        for two in deliveries.windows(2) {
            let (first, second) = (two[0], two[1]);
            if has_failed(first) && !settles(scenario, first) && second.attempt <= first.attempt {
                let text = format!(
                    "{message:?} came as attempt {} after {} failed, in an orderly run",
                    second.attempt, first.attempt
                );
                violations.push(Violation::of(Rule::AttemptsCounted, message, text));
            }
        }
    }
    violations
}

/// A message names an attempt only if all before it were made, and failed.
fn attempts_made(run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    for deliveries in by_message(run).into_values() {
        let message = place(deliveries[0]);
        let mut failed = 0;
        for delivery in deliveries {
            if delivery.attempt > failed + 1 {
                let text = format!(
                    "{message:?} names attempt {}, and {failed} failed",
                    delivery.attempt
                );
                violations.push(Violation::of(Rule::AttemptsCounted, message, text));
            }
            failed += u32::from(has_failed(delivery));
        }
    }
    violations
}

/// The message that ended a consumer has all its attempts again: its handler may have been
/// mended.
fn attempts_begin_again(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    // A stop that has no time left aborts the transaction that forgets the attempts.
    let is_transactional = scenario.commit == Commit::Transactional;
    let has_no_time = scenario.stop_timeout < 1_000 && is_transactional;
    if !scenario.is_orderly() || scenario.is_short_of_metadata() || has_no_time {
        return violations;
    }
    for deliveries in by_message(run).into_values() {
        let message = place(deliveries[0]);
        for two in deliveries.windows(2) {
            if two[0].process != two[1].process
                && has_ended_its_consumer(run, two[0])
                && is_last_of_its_process(run, two[0])
                && !is_out_of_time(scenario, run, two[0])
                && two[1].attempt > 1
            {
                let text = format!(
                    "{message:?} ended its consumer, and came again as attempt {}",
                    two[1].attempt
                );
                violations.push(Violation::of(Rule::AttemptsCounted, message, text));
            }
        }
    }
    violations
}

/// Returns `true` if the consumer that ended by this message was refused a commit then, because
/// the group rebalanced, and had no time left to send it again.
fn is_out_of_time(scenario: &Scenario, run: &Run, delivery: &Delivery) -> bool {
    let failed = delivery.ended.unwrap_or(Duration::MAX);
    let limit = Duration::from_millis(scenario.stop_timeout.into()).max(LAST_COMMIT);
    let ours = |process: usize| process == delivery.process;
    let mut refused = run.refused_commits.iter();
    let mut processes = run.processes.iter();
    refused.any(|(at, process)| ours(*process) && *at >= failed)
        && processes.any(|(at, process, happened)| {
            let has_ended = matches!(happened, Happened::Ended(_));
            ours(*process) && has_ended && *at >= failed.saturating_add(limit)
        })
}

/// Returns `true` if the consumer ended because its handler failed at this message.
fn has_ended_its_consumer(run: &Run, delivery: &Delivery) -> bool {
    let (partition, offset) = place(delivery);
    let place = format!("topic {TOPIC} partition {partition} offset {offset}: the handler failed");
    run.processes.iter().any(|(_, process, happened)| {
        let error = match happened {
            Happened::Ended(Some(error)) => error,
            _ => return false,
        };
        *process == delivery.process && error.starts_with(&place)
    })
}

/// Returns `true` if a member may work on although its partitions are others', because it
/// cannot know, or if an offset does not name one message.
fn may_be_a_zombie(scenario: &Scenario) -> bool {
    let freezes = |event: &Event| matches!(event, Event::Freeze(..));
    scenario.may_evict()
        || scenario.replaces_log()
        || scenario.events.iter().any(|(_, event)| freezes(event))
}

/// An attempt ends with the assignment of its partition. One in a call with messages of other
/// partitions goes on, and does not count: no consumer ends by it.
pub(super) fn ends_with_its_assignment(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if may_be_a_zombie(scenario) {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for delivery in &run.deliveries {
        let ended = delivery.ended.unwrap_or(Duration::MAX);
        let is_others = run.deliveries.iter().any(|it| {
            it.partition == delivery.partition
                && it.process != delivery.process
                && delivery.given < it.begun
                && it.begun < ended
        });
        if !is_others {
            continue;
        }
        let message = place(delivery);
        let process = delivery.process;
        if scenario.shape == Shape::Single {
            let text = format!("{message:?} was with process {process} when its partition was not");
            violations.push(Violation::of(Rule::DuplicatesExplained, message, text));
        } else if has_ended_its_consumer(run, delivery) && is_last_of_its_process(run, delivery) {
            let text = format!("{message:?} ended process {process}, which had lost it");
            violations.push(Violation::of(Rule::EndsExplained, message, text));
        }
    }
    violations
}

fn is_last_of_its_process(run: &Run, delivery: &Delivery) -> bool {
    let is_later = |it: &Delivery| {
        (it.process, it.partition, it.offset)
            == (delivery.process, delivery.partition, delivery.offset)
            && it.begun > delivery.begun
    };
    !run.deliveries.iter().any(is_later)
}

/// Messages that have an order come again in that order: with a message all behind it.
pub(super) fn comes_again_in_order(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if may_be_a_zombie(scenario) || scenario.commit == Commit::Read {
        return Vec::new();
    }
    let rule = match scenario.mode {
        Mode::InOrder => Rule::InOrder,
        Mode::KeyOrdered(_) => Rule::KeyOrder,
        Mode::Fast(_) => return Vec::new(),
    };
    let removed: BTreeSet<usize> = run
        .produced
        .iter()
        .filter(|it| it.removed.is_some())
        .map(|it| it.seq)
        .collect();
    let mut lanes: BTreeMap<_, Vec<&Delivery>> = BTreeMap::new();
    let left = run.deliveries.iter();
    for delivery in left.filter(|it| !removed.contains(&it.seq)) {
        let lane = match rule {
            Rule::InOrder => (delivery.partition, None),
            _ if delivery.key.is_none() => continue,
            _ => (delivery.partition, delivery.key.clone()),
        };
        lanes.entry(lane).or_default().push(delivery);
    }
    let mut violations = Vec::new();
    for deliveries in lanes.values() {
        for (index, again) in deliveries.iter().enumerate() {
            let behind = deliveries[..index].iter().find(|it| {
                it.offset > again.offset
                    && settles(scenario, it)
                    && it.ended.is_some_and(|ended| ended < again.begun)
                    && !deliveries[index..]
                        .iter()
                        .any(|later| later.offset == it.offset)
            });
            if let Some(behind) = behind {
                let message = place(again);
                let text = format!(
                    "{message:?} came again behind offset {}, which did not",
                    behind.offset
                );
                violations.push(Violation::of(rule, message, text));
            }
        }
    }
    violations
}
