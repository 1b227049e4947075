//! Rules about what consumers write: records and dead letters.

use std::collections::{BTreeMap, BTreeSet};

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{Mode, OnFailure, Run, Scenario, Verdict};

use super::{Rule, Violation};

/// Where a record comes from, as its handler wrote it: `partition/offset`.
fn origin(value: &str) -> Option<(i32, i64)> {
    let (partition, offset) = value.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

pub(super) fn exactly_once(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if scenario.commit != Commit::Transactional {
        return Vec::new();
    }
    let rule = Rule::ExactlyOnce;
    let mut violations = Vec::new();
    let mut counts: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    let mut newest: BTreeMap<(i32, Option<&str>), i64> = BTreeMap::new();
    for (key, value) in &run.outputs {
        let Some(message) = origin(value) else {
            continue;
        };
        *counts.entry(message).or_default() += 1;
        let lane = match scenario.mode {
            Mode::InOrder => Some((message.0, None)),
            Mode::KeyOrdered(_) => key.as_deref().map(|key| (message.0, Some(key))),
            Mode::Fast(_) => None,
        };
        if let Some(lane) = lane {
            let before = newest.insert(lane, message.1);
            if before.is_some_and(|before| before > message.1) {
                let text = format!("the record of {message:?} comes behind that of {before:?}");
                violations.push(Violation::of(rule, message, text));
            }
        }
    }
    for produced in run.produced.iter().filter(|produced| produced.valid) {
        let message = (produced.partition, produced.offset);
        let count = counts.get(&message).copied().unwrap_or(0);
        let deliveries = run.deliveries.iter();
        let mut ours = deliveries.filter(|it| (it.partition, it.offset) == message);
        let may_be_given_up =
            ours.any(|it| it.verdict != Verdict::Done && scenario.settles(it.verdict, it.attempt));
        let right = count == 1 || (count == 0 && may_be_given_up);
        if !right {
            let text = format!("{message:?} has {count} output records");
            violations.push(Violation::of(rule, message, text));
        }
    }
    violations
}

pub(super) fn dead_letters_written(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if scenario.on_failure != OnFailure::DeadLetter || scenario.commit == Commit::Read {
        return Vec::new();
    }
    let letters: BTreeSet<_> = run
        .letters
        .iter()
        .map(|it| (it.partition, it.offset))
        .collect();
    let mut violations = Vec::new();
    for produced in run.produced.iter().filter(|produced| produced.valid) {
        let message = (produced.partition, produced.offset);
        let deliveries = run.deliveries.iter();
        let mut ours = deliveries.filter(|it| (it.partition, it.offset) == message);
        let left = ours.any(|it| matches!(it.verdict, Verdict::Done | Verdict::Skip));
        if !left && !letters.contains(&message) {
            let text = format!("{message:?} was given up and is not among the dead letters");
            violations.push(Violation::of(Rule::DeadLettersWritten, message, text));
        }
    }
    violations
}
