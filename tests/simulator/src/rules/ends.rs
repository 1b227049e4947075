//! Rules about consumers that end by a failure, and about what was read by then.

use std::collections::BTreeMap;

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{
    Delivery, Event, Happened, OnFailure, Produced, Run, Scenario, Verdict,
};

use super::{Rule, Violation};

/// How the error of a stop begins that handlers held up.
const BUSY: &str = "handlers were still busy";

pub(super) fn ends_explained(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let is_fenced = |event: &Event| {
        // The brokers abort a transaction that takes too long, and fence its producer.
        scenario.commit == Commit::Transactional && matches!(event, Event::Freeze(..))
    };
    let may_end = |event: &Event| may_end_one(event) || is_fenced(event);
    if scenario.events.iter().any(|(_, event)| may_end(event)) {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for (at, process, happened) in &run.processes {
        let Happened::Ended(Some(error)) = happened else {
            continue;
        };
        let mut deliveries = run.deliveries.iter();
        let has_failed = deliveries.any(|it| it.process == *process && is_failure(it));
        let is_asked_for = scenario.on_failure == OnFailure::Stop && has_failed;
        if !is_asked_for && !error.contains(BUSY) {
            violations.push(Violation {
                rule: Rule::EndsExplained,
                message: None,
                text: format!(
                    "process {process} ended at {at:?} without a failed message: {error}"
                ),
            });
        }
    }
    violations
}

fn is_failure(delivery: &Delivery) -> bool {
    use Verdict::{DeadLetter, Fail, Panic, Retry, TimedOut};
    matches!(
        delivery.verdict,
        Fail | DeadLetter | Retry | Panic | TimedOut
    )
}

/// Returns `true` for events that a consumer may end by: what it needs the brokers for they
/// refuse, or do not answer for long.
fn may_end_one(event: &Event) -> bool {
    matches!(
        event,
        Event::RefuseCommits(..)
            | Event::RefuseLetters(_)
            | Event::LoseCommit { .. }
            | Event::Unreachable(_)
            | Event::AbortTransaction
    )
}

pub(super) fn read_kept_in_orderly_runs(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let skips = scenario.begins_at_end || scenario.skips_lost;
    if scenario.commit != Commit::Read || !scenario.is_orderly() || skips {
        return Vec::new();
    }
    let mut committed: BTreeMap<i32, i64> = BTreeMap::new();
    for commit in &run.commits {
        committed.insert(commit.partition, commit.offset);
    }
    let mut violations = Vec::new();
    let is_kept = |produced: &&Produced| produced.valid && produced.removed.is_none();
    for produced in run.produced.iter().filter(is_kept) {
        let message = (produced.partition, produced.offset);
        let is_passed = committed.get(&message.0).is_some_and(|it| *it > message.1);
        let mut deliveries = run.deliveries.iter();
        let is_settled = deliveries.any(|it| {
            (it.partition, it.offset) == message && scenario.settles(it.verdict, it.attempt)
        });
        if is_passed && !is_settled {
            let text = format!("{message:?} was read, and is committed without being settled");
            let rule = Rule::ReadKeptInOrderlyRuns;
            violations.push(Violation::of(rule, message, text));
        }
    }
    violations
}
