//! A run as the oracle of the tests on a real Kafka takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{
    self, Committed, Cut, Loss, Mode, Run, Scenario, TOPIC, log_at, passed_below,
};
use penstock_tests::Position;
use penstock_tests::groups::CommitSample;
use penstock_tests::oracle::{self, Disruption, Evidence};
use penstock_tests::produce::Produced;
use penstock_tests::recorder::{Delivery, Verdict};

use super::owners::Owners;
use super::{Rule, Violation};

/// Status codes for endings that HTTP has none for.
const SKIPPED: u16 = 480;
const DEAD_LETTERED: u16 = 481;
const PANICKED: u16 = 500;
const TIMED_OUT: u16 = 504;

/// What the oracle finds, partition by partition: a move of one explains nothing in
/// another.
pub(super) fn violations(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let origin = Instant::now();
    let owners = Owners::new(scenario, run);
    let mut violations = Vec::new();
    for log in logs(run) {
        let evidence = evidence(scenario, run, &owners, log, origin);
        let reports = cut_reports(run, log).count();
        for (rule, theirs) in rules(scenario) {
            if theirs == oracle::Rule::CommitsNeverGoBack && reports > 1 {
                // Each report of a log that is gone sets the group back.
                continue;
            }
            if let Err(found) = evidence.check(&[theirs]) {
                violations.extend(found.found.iter().map(|violation| {
                    let position = violation.position();
                    let message = (position.partition, position.offset);
                    Violation::of(rule, message, violation.to_string())
                }));
            }
        }
    }
    if scenario.commit != Commit::Read {
        violations.extend(commits_before_removals(scenario, run));
    }
    violations
}

/// A partition, and the number of one of its logs.
pub(super) type LogName = (i32, u32);

fn logs(run: &Run) -> BTreeSet<LogName> {
    let messages = run.produced.iter().map(|it| (it.partition, it.log));
    let holes = run
        .holes
        .iter()
        .map(|(partition, log, _)| (*partition, *log));
    messages.chain(holes).collect()
}

/// When the log was cut, and what of.
pub(super) fn begin(run: &Run, (partition, log): LogName) -> Option<&Cut> {
    let mut cuts = run.cuts.iter();
    cuts.find(|cut| (cut.partition, cut.log) == (partition, log))
}

/// The id of the topic that a log is of, if the topic was created again.
fn topic(run: &Run, (partition, number): LogName) -> Option<u128> {
    let cuts = run.cuts.iter();
    let until = cuts.filter(|cut| cut.partition == partition && cut.log <= number);
    until.filter_map(|cut| cut.topic).next_back()
}

/// What processes that set the group back said, while a partition had this log, about the
/// log before it.
fn cut_reports(run: &Run, (partition, log): LogName) -> impl Iterator<Item = &Loss> {
    let losses = run.losses.iter();
    let losses = losses.filter(|it| it.reason != "retention" && !it.is_departure);
    losses.filter(move |it| it.partition == partition && log_at(&run.cuts, partition, it.at) == log)
}

/// The end of a log at a moment.
fn end_at(run: &Run, (partition, number): LogName, at: Duration) -> i64 {
    let messages = run
        .produced
        .iter()
        .filter(|it| (it.partition, it.log) == (partition, number) && it.at <= at);
    let holes = run.holes.iter();
    let holes = holes.filter(|(of, log, _)| (*of, *log) == (partition, number));
    let offsets = messages.map(|it| it.offset).chain(holes.map(|it| it.2));
    let start = begin(run, (partition, number)).map_or(0, |cut| cut.start);
    offsets.map(|it| it + 1).max().unwrap_or(start).max(start)
}

/// Commits of a log's offsets. Of one that follows another they count from the moment on at
/// which the group was set back to it: an earlier one may still be of the log before.
pub(super) fn commits(run: &Run, log: LogName) -> Vec<&Committed> {
    let (partition, number) = log;
    let all = run.commits.iter().filter(|it| it.partition == partition);
    let all = all.filter(|it| log_at(&run.cuts, partition, it.at) == number);
    if begin(run, log).is_none() {
        return all.collect();
    }
    // What was decided before the log was cut, and reported after that, is of the log before.
    let is_of_log = |it: &&Loss| it.offset <= end_at(run, log, it.at);
    match cut_reports(run, log).find(is_of_log) {
        Some(report) => {
            let since = all.skip_while(|it| it.at < report.at || it.offset != report.offset);
            since.collect()
        }
        None if is_reported_later(run, log) => Vec::new(),
        None => {
            let deliveries = run.deliveries.iter().filter(|it| is_of(run, it, log));
            let first = deliveries.map(|it| it.begun).min().unwrap_or(Duration::MAX);
            // One that names another topic is of the log before: the next owner compares them.
            let topic = topic(run, log);
            let is_of_topic = |it: &&Committed| match (topic, it.topic) {
                (Some(topic), Some(named)) => topic == named,
                (None, _) | (_, None) => true,
            };
            let since = all.skip_while(|it| it.at < first);
            since.filter(is_of_topic).collect()
        }
    }
}

/// Whether the first report behind the beginning of a log came when that was gone: what was
/// committed meanwhile is of the log before.
fn is_reported_later(run: &Run, log: LogName) -> bool {
    let after = |at: Duration| begin(run, log).is_some_and(|cut| at > cut.at);
    let mut reports = run.losses.iter().filter(|it| {
        it.partition == log.0 && it.reason != "retention" && !it.is_departure && after(it.at)
    });
    reports.any(|it| log_at(&run.cuts, log.0, it.at) > log.1)
}

fn is_of(run: &Run, delivery: &simulation::Delivery, log: LogName) -> bool {
    let message = run.produced.iter().find(|it| it.seq == delivery.seq);
    message.is_some_and(|it| (it.partition, it.log) == log)
}

/// Whether the message was removed from its log, or passed, and never settled: then nothing
/// waits for it.
fn is_taken_away(scenario: &Scenario, run: &Run, owners: &Owners<'_>, seq: usize) -> bool {
    let message = run.produced.iter().find(|it| it.seq == seq);
    let is_excused = message.is_some_and(|it| it.removed.is_some() || it.is_passed);
    let mut deliveries = run.deliveries.iter().filter(|it| it.seq == seq);
    let is_settled = deliveries
        .any(|it| scenario.settles(it.verdict, it.attempt) && owners.void_from(it).is_none());
    is_excused && !is_settled
}

/// Messages that were removed are left to commits, but only from then on.
fn commits_before_removals(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let mut violations = Vec::new();
    for message in run.produced.iter().filter(|it| it.valid) {
        let Some((removed, _)) = message.removed else {
            continue;
        };
        let log = (message.partition, message.log);
        let passed = begin(run, log).map(|cut| {
            let (produced, deliveries) = (&run.produced, &run.deliveries);
            passed_below(
                cut,
                &run.cuts,
                produced,
                deliveries,
                &run.commits,
                &run.losses,
            )
        });
        if passed.is_some_and(|passed| message.offset < passed) {
            // Taken for a message of the log before, which is excused.
            continue;
        }
        let deliveries = run.deliveries.iter().filter(|it| it.seq == message.seq);
        let settled = deliveries
            .filter(|it| scenario.settles(it.verdict, it.attempt))
            .filter_map(|it| it.ended)
            .min();
        let commits = commits(run, log);
        let too_far = commits.iter().find(|it| {
            it.at < removed
                && it.at > message.at
                && it.offset > message.offset
                && settled.is_none_or(|settled| settled > it.at)
        });
        // The group may have begun behind it, or skipped it.
        let may_pass = scenario.begins_at_end || scenario.skips_lost;
        if let Some(commit) = too_far.filter(|_| !may_pass) {
            let place = (message.partition, message.offset);
            let text = format!(
                "{} was committed while {place:?} was not settled",
                commit.offset
            );
            violations.push(Violation::of(Rule::CommitsWithinSettled, place, text));
        }
    }
    violations
}

fn rules(scenario: &Scenario) -> Vec<(Rule, oracle::Rule)> {
    if scenario.commit == Commit::Read {
        // What was read may be committed, and lost by a kill.
        return Vec::new();
    }
    let mut rules = vec![
        (Rule::EverythingSettled, oracle::Rule::EverythingSettled),
        (
            Rule::CommitsWithinSettled,
            oracle::Rule::CommitsWithinSettled,
        ),
        (Rule::CommitsNeverGoBack, oracle::Rule::CommitsNeverGoBack),
    ];
    match scenario.mode {
        Mode::InOrder => rules.push((Rule::InOrder, oracle::Rule::InOrder)),
        Mode::KeyOrdered(_) => rules.push((Rule::KeyOrder, oracle::Rule::KeyOrder)),
        Mode::Fast(_) => {}
    }
    rules
}

fn evidence(
    scenario: &Scenario,
    run: &Run,
    owners: &Owners<'_>,
    log: LogName,
    origin: Instant,
) -> Evidence {
    let (partition, number) = log;
    let messages = run.produced.iter();
    let messages: Vec<_> = messages
        .filter(|it| (it.partition, it.log) == log)
        .collect();
    let produced: Vec<_> = messages
        .iter()
        .filter(|it| it.valid)
        .map(|it| Produced {
            seq: it.seq as u64,
            position: position(partition, it.offset),
        })
        .collect();
    let left_out = messages
        .iter()
        .filter(|it| !it.valid || it.is_passed || it.removed.is_some())
        .map(|it| it.offset);
    let holes = run.holes.iter();
    let holes = holes
        .filter(|(of, log, _)| (*of, *log) == (partition, number))
        .map(|(.., offset)| *offset);
    // The last record that was kept of the log before.
    let kept = begin(run, log).filter(|cut| cut.start > 0);
    let skipped = left_out.chain(holes).chain(kept.map(|cut| cut.start - 1));
    let skipped = skipped.map(|offset| position(partition, offset));
    let deliveries: Vec<_> = run
        .deliveries
        .iter()
        .filter(|it| is_of(run, it, log) && !is_taken_away(scenario, run, owners, it.seq))
        .filter(|it| it.verdict != simulation::Verdict::Void)
        .filter(|it| owners.void_from(it).is_none_or(|void| it.begun < void))
        .collect();
    let settles = {
        let scenario = scenario.clone();
        move |delivery: &Delivery| settles(&scenario, delivery)
    };
    let given = deliveries
        .iter()
        .map(|it| convert(it, owners.void_from(it), origin))
        .collect();
    Evidence::new(&produced, given)
        .skipped(skipped)
        .commits(samples(run, log, origin))
        .disruptions(moves(&deliveries, origin))
        .settled_by(settles)
}

/// The partition is assigned again between two deliveries: that explains what comes again.
fn moves(deliveries: &[&simulation::Delivery], origin: Instant) -> Vec<Disruption> {
    let mut moves = Vec::new();
    for two in deliveries.windows(2) {
        if (two[0].process, two[0].epoch) != (two[1].process, two[1].epoch) {
            let (from, to) = (origin + two[0].begun, origin + two[1].begun);
            moves.push(Disruption::between(from, to).keeping_attempts());
        }
    }
    moves
}

fn samples(run: &Run, log: LogName, origin: Instant) -> Vec<CommitSample> {
    let commits = commits(run, log).into_iter();
    commits
        .map(|commit| CommitSample {
            asked: origin + commit.at,
            answered: origin + commit.at,
            offsets: BTreeMap::from([((TOPIC.to_owned(), log.0), commit.offset)]),
        })
        .collect()
}

fn convert(
    delivery: &simulation::Delivery,
    void_from: Option<Duration>,
    origin: Instant,
) -> Delivery {
    use simulation::Verdict as Ended;
    let verdict = match delivery.verdict {
        _ if void_from.is_some() => Verdict::Abandoned,
        Ended::Open => Verdict::Open,
        Ended::Done => Verdict::Answered(204),
        Ended::Retry => Verdict::Answered(503),
        Ended::Fail => Verdict::Answered(422),
        Ended::Skip => Verdict::Answered(SKIPPED),
        Ended::DeadLetter => Verdict::Answered(DEAD_LETTERED),
        Ended::Panic => Verdict::Answered(PANICKED),
        Ended::TimedOut => Verdict::Answered(TIMED_OUT),
        Ended::CutShort | Ended::Void => Verdict::Abandoned,
    };
    Delivery {
        position: position(delivery.partition, delivery.offset),
        key: delivery.key.clone(),
        attempt: delivery.attempt,
        method: String::new(),
        path: String::new(),
        headers: BTreeMap::from([("ce-kafkaepoch".to_owned(), delivery.epoch.to_string())]),
        body: Vec::new(),
        connection: delivery.process,
        start: origin + delivery.begun,
        end: void_from.or(delivery.ended).map(|ended| origin + ended),
        verdict,
    }
}

fn settles(scenario: &Scenario, delivery: &Delivery) -> bool {
    let Verdict::Answered(status) = delivery.verdict else {
        return false;
    };
    let ended = match status {
        204 => simulation::Verdict::Done,
        SKIPPED => simulation::Verdict::Skip,
        DEAD_LETTERED => simulation::Verdict::DeadLetter,
        422 => simulation::Verdict::Fail,
        _ => simulation::Verdict::Retry,
    };
    scenario.settles(ended, delivery.attempt)
}

fn position(partition: i32, offset: i64) -> Position {
    Position::new(TOPIC, partition, offset)
}
