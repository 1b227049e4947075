//! Rules about offsets that the brokers no longer have.

use std::time::Duration;

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{
    Committed, Happened, Loss, Produced, Removal, Run, Scenario, Verdict, log_at,
};

use super::evidence::{LogName, begin, commits};
use super::{Rule, Violation};

pub(super) fn losses_counted(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    let counted = run.losses.iter().map(count).sum::<u64>();
    if counted != run.lost_messages {
        let text = format!(
            "{} are counted as lost, and {counted} named",
            run.lost_messages
        );
        violations.push(Violation {
            rule: Rule::LossesCounted,
            message: None,
            text,
        });
    }
    for loss in &run.losses {
        let found = match loss.reason.as_str() {
            "retention" => retention(scenario, run, loss),
            _ => other_log(scenario, run, loss),
        };
        violations.extend(found.map(|text| {
            let message = (loss.partition, loss.skipped.0);
            Violation::of(Rule::LossesCounted, message, format!("{text}: {loss:?}"))
        }));
    }
    if scenario.commit != Commit::Read {
        violations.extend(unnamed(scenario, run));
    }
    violations
}

fn count(loss: &Loss) -> u64 {
    let skipped = u64::try_from(loss.skipped.1 - loss.skipped.0).unwrap_or(0);
    skipped + loss.unsettled
}

/// Messages of the log that the partition had at a loss, among the offsets that it names.
fn named<'a>(run: &'a Run, loss: &'a Loss) -> impl Iterator<Item = &'a Produced> {
    let log = log_at(&run.cuts, loss.partition, loss.at);
    run.produced.iter().filter(move |it| {
        (it.partition, it.log) == (loss.partition, log)
            && (loss.skipped.0..loss.skipped.1).contains(&it.offset)
    })
}

/// What is wrong with a report that retention passed a position.
fn retention(scenario: &Scenario, run: &Run, loss: &Loss) -> Option<&'static str> {
    let was_there = |it: &Produced| it.removed.is_none_or(|(at, _)| at > loss.at);
    if !scenario.skips_lost && named(run, loss).any(was_there) {
        return Some("a message that the brokers have is named as lost");
    }
    // A process that was frozen or evicted may be behind its successor.
    let was_frozen = run
        .processes
        .iter()
        .any(|(_, process, happened)| *process == loss.process && *happened == Happened::Frozen);
    let committed = run.commits.iter().filter(|it| {
        it.partition == loss.partition
            && it.at < loss.at
            && log_at(&run.cuts, loss.partition, it.at)
                == log_at(&run.cuts, loss.partition, loss.at)
    });
    let mut committed = committed.map(|it| it.offset);
    let committed = match scenario.commit {
        // A consumer that ends by a failure takes back what was read and not handled.
        Commit::Read => committed.next_back(),
        _ => committed.max(),
    };
    let is_lower = committed.is_some_and(|committed| loss.skipped.0 < committed);
    let may_be = was_frozen || scenario.may_evict() || !run.cuts.is_empty();
    (is_lower && !may_be).then_some("what was committed is named as lost")
}

/// What is wrong with a report that a log is gone.
fn other_log(scenario: &Scenario, run: &Run, loss: &Loss) -> Option<&'static str> {
    let mut cuts = run.cuts.iter();
    if !cuts.any(|cut| cut.partition == loss.partition && cut.at <= loss.at) {
        return Some("the log was neither truncated nor created again");
    }
    let is_there = |it: &Produced| it.removed.is_none_or(|(at, _)| at > loss.at);
    if !scenario.skips_lost && named(run, loss).any(is_there) {
        return Some("messages of the new log are named as lost");
    }
    let open = run.deliveries.iter().filter(|it| {
        (it.process, it.partition) == (loss.process, loss.partition)
            && it.begun < loss.at
            && it.ended.is_none_or(|ended| ended >= loss.at)
            && it.verdict == Verdict::CutShort
            && is_gone(run, it.seq, loss.at)
    });
    // Where reading went on, the log may be cut once more: what is read there tells of it.
    let departures = run.losses.iter().filter(|it| {
        it.is_departure
            && !std::ptr::eq(*it, loss)
            && (it.process, it.partition) == (loss.process, loss.partition)
            && it.at >= loss.at
            && it.offset >= loss.offset
    });
    let unsettled = loss.unsettled + departures.map(|it| it.unsettled).sum::<u64>();
    let is_less = unsettled < open.count() as u64;
    is_less.then_some("more messages were with handlers than are named as unsettled")
}

/// Whether a message went with the log that held it.
fn is_gone(run: &Run, seq: usize, by: Duration) -> bool {
    let message = run.produced.iter().find(|it| it.seq == seq);
    let removed = message.and_then(|it| it.removed);
    removed.is_some_and(|(at, how)| {
        at <= by && matches!(how, Removal::Truncation | Removal::Recreation)
    })
}

/// Commits while a partition had this log. Those that follow a topic which was created again
/// unnoticed are of the topic before, with which the brokers forgot the group's offsets.
fn offsets_in(run: &Run, log: LogName) -> Vec<&Committed> {
    if begin(run, log).is_some_and(|cut| cut.topic.is_some()) {
        return commits(run, log);
    }
    let commits = run.commits.iter();
    let commits = commits.filter(|it| it.partition == log.0);
    commits
        .filter(|it| log_at(&run.cuts, it.partition, it.at) == log.1)
        .collect()
}

/// Messages that retention took from a group with an offset before them, and that no
/// process named.
fn unnamed(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let retained = |it: &&Produced| {
        let taken = it.removed.filter(|(_, by)| *by == Removal::Retention);
        it.valid && taken.is_some()
    };
    let mut violations = Vec::new();
    for message in run.produced.iter().filter(retained) {
        let removed = message.removed.map_or(Duration::MAX, |(at, _)| at);
        let mut deliveries = run.deliveries.iter().filter(|it| it.seq == message.seq);
        let is_settled = deliveries.any(|it| scenario.settles(it.verdict, it.attempt));
        let mut cuts = run.cuts.iter();
        let was_cut = cuts.any(|cut| cut.partition == message.partition && cut.at >= removed);
        let had_offset = offsets_in(run, (message.partition, message.log))
            .iter()
            .any(|it| it.at < removed && it.offset <= message.offset);
        if is_settled || was_cut || !had_offset {
            continue;
        }
        let mut losses = run.losses.iter();
        let is_named = losses.any(|loss| {
            // A message may be skipped first, and be removed later. Of a log that was cut,
            // those before where reading goes on are counted and not named.
            let is_skipped = (loss.skipped.0..loss.skipped.1).contains(&message.offset);
            let is_counted = loss.unsettled > 0 && message.offset < loss.offset;
            loss.partition == message.partition
                && (loss.at >= removed || log_at(&run.cuts, loss.partition, loss.at) >= message.log)
                && (is_skipped || is_counted)
        });
        if !is_named {
            let place = (message.partition, message.offset);
            let text = format!("{place:?} was lost to retention, and no process says so");
            violations.push(Violation::of(Rule::LossesCounted, place, text));
        }
    }
    violations
}
