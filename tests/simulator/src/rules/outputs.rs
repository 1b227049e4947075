//! Rules about what consumers write: records and dead letters.

use std::collections::{BTreeMap, BTreeSet};

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{Mode, OnFailure, Produced, Run, Scenario, Verdict};

use super::{Rule, Violation};

/// Returns `true` if the group was sent back before the message: it comes again, from a log
/// that may be another.
fn is_read_again(run: &Run, message: &Produced) -> bool {
    let mut losses = run.losses.iter().filter(|it| it.reason != "retention");
    losses.any(|it| it.partition == message.partition && it.offset <= message.offset)
}

pub(super) fn exactly_once(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if scenario.commit != Commit::Transactional {
        return Vec::new();
    }
    let rule = Rule::ExactlyOnce;
    let mut violations = Vec::new();
    let produced: BTreeMap<_, _> = run.produced.iter().map(|it| (it.seq, it)).collect();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let mut newest: BTreeMap<(i32, Option<&str>), (u32, i64)> = BTreeMap::new();
    for (key, value) in &run.outputs {
        let message = value.parse().ok().and_then(|seq| produced.get(&seq));
        let Some(message) = message else {
            continue;
        };
        *counts.entry(message.seq).or_default() += 1;
        let lane = match scenario.mode {
            Mode::InOrder => Some((message.partition, None)),
            Mode::KeyOrdered(_) => key.as_deref().map(|key| (message.partition, Some(key))),
            Mode::Fast(_) => None,
        };
        if let Some(lane) = lane.filter(|_| !is_read_again(run, message)) {
            let position = (message.log, message.offset);
            let before = newest.insert(lane, position);
            if let Some(before) = before.filter(|before| *before > position) {
                let place = (message.partition, message.offset);
                let text = format!("the record of {place:?} comes behind that of {}", before.1);
                violations.push(Violation::of(rule, place, text));
            }
        }
    }
    for message in run.produced.iter().filter(|it| it.valid) {
        let count = counts.get(&message.seq).copied().unwrap_or(0);
        let right = match count {
            0 => {
                message.is_passed
                    || message.removed.is_some()
                    || is_given_up(scenario, run, message)
            }
            1 => true,
            _ => is_read_again(run, message),
        };
        if !right {
            let place = (message.partition, message.offset);
            let text = format!("{place:?} has {count} output records");
            violations.push(Violation::of(rule, place, text));
        }
    }
    violations
}

fn is_given_up(scenario: &Scenario, run: &Run, message: &Produced) -> bool {
    let mut deliveries = run.deliveries.iter().filter(|it| it.seq == message.seq);
    deliveries.any(|it| it.verdict != Verdict::Done && scenario.settles(it.verdict, it.attempt))
}

pub(super) fn dead_letters_written(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    if scenario.on_failure != OnFailure::DeadLetter || scenario.commit == Commit::Read {
        return Vec::new();
    }
    let letters: BTreeSet<_> = run.letters.iter().filter_map(|it| it.seq).collect();
    let mut violations = Vec::new();
    for message in run.produced.iter().filter(|it| it.valid) {
        let ours = run.deliveries.iter().filter(|it| it.seq == message.seq);
        let mut settling = ours.filter(|it| scenario.settles(it.verdict, it.attempt));
        let is_excused = message.is_passed || message.removed.is_some();
        let left = match settling.next() {
            Some(first) => {
                let mut all = std::iter::once(first).chain(settling);
                all.any(|it| matches!(it.verdict, Verdict::Done | Verdict::Skip))
            }
            None => is_excused,
        };
        if !left && !letters.contains(&message.seq) && !is_excused {
            let place = (message.partition, message.offset);
            let text = format!("{place:?} was given up and is not among the dead letters");
            violations.push(Violation::of(Rule::DeadLettersWritten, place, text));
        }
    }
    violations
}
