//! A run as the oracle of the tests on a real Kafka takes it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_crds::spec::Commit;
use penstock_runtime::simulation::{self, Mode, Run, Scenario, TOPIC};
use penstock_tests::Position;
use penstock_tests::groups::CommitSample;
use penstock_tests::oracle::{self, Disruption, Evidence};
use penstock_tests::produce::Produced;
use penstock_tests::recorder::{Delivery, Verdict};

use super::{Rule, Violation};

/// The time within which a process that was frozen notices that its partitions are
/// others': it polls twice a second.
const NOTICE: Duration = Duration::from_secs(1);

/// Status codes for endings that HTTP has none for.
const SKIPPED: u16 = 480;
const DEAD_LETTERED: u16 = 481;
const PANICKED: u16 = 500;
const TIMED_OUT: u16 = 504;

/// What the oracle finds, partition by partition: a move of one explains nothing in
/// another.
pub(super) fn violations(scenario: &Scenario, run: &Run) -> Vec<Violation> {
    let origin = Instant::now();
    let mut violations = Vec::new();
    for partition in 0..scenario.partitions {
        let evidence = evidence(scenario, run, partition, origin);
        for (rule, theirs) in rules(scenario) {
            if let Err(found) = evidence.check(&[theirs]) {
                violations.extend(found.found.iter().map(|violation| {
                    let position = violation.position();
                    let message = (position.partition, position.offset);
                    Violation::of(rule, message, violation.to_string())
                }));
            }
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
    if scenario.may_evict() {
        // A member that was evicted without noticing goes on beside its successor.
        return rules;
    }
    match scenario.mode {
        Mode::InOrder => rules.push((Rule::InOrder, oracle::Rule::InOrder)),
        Mode::KeyOrdered(_) => rules.push((Rule::KeyOrder, oracle::Rule::KeyOrder)),
        Mode::Fast(_) => {}
    }
    rules
}

fn evidence(scenario: &Scenario, run: &Run, partition: i32, origin: Instant) -> Evidence {
    let produced: Vec<_> = run
        .produced
        .iter()
        .enumerate()
        .filter(|(_, it)| it.partition == partition && it.valid)
        .map(|(seq, it)| Produced {
            seq: seq as u64,
            position: position(partition, it.offset),
        })
        .collect();
    let invalid = run.produced.iter().filter(|it| !it.valid);
    let skipped = invalid
        .map(|it| (it.partition, it.offset))
        .chain(run.holes.iter().copied())
        .filter(|(of, _)| *of == partition)
        .map(|(_, offset)| position(partition, offset));
    let deliveries: Vec<_> = run
        .deliveries
        .iter()
        .filter(|it| it.partition == partition)
        .filter(|it| it.verdict != simulation::Verdict::Void && !is_of_a_zombie(run, it))
        .filter(|it| cut_off(scenario, run, it).is_none_or(|cut| it.begun < cut))
        .collect();
    let settles = {
        let scenario = scenario.clone();
        move |delivery: &Delivery| settles(&scenario, delivery)
    };
    let given = deliveries
        .iter()
        .map(|it| {
            let cut = frozen_out(run, it).or_else(|| cut_off(scenario, run, it));
            convert(it, cut, origin)
        })
        .collect();
    Evidence::new(&produced, given)
        .skipped(skipped)
        .commits(samples(run, partition, origin))
        .disruptions(moves(&deliveries, origin))
        .settled_by(settles)
}

/// A process that was frozen until its partitions were others' goes on for a moment, until
/// it notices. Nothing that it begins then counts, and no client can keep it from beginning.
fn is_of_a_zombie(run: &Run, delivery: &simulation::Delivery) -> bool {
    let had_it = |frozen: Duration| {
        let mut deliveries = run.deliveries.iter();
        deliveries.any(|it| {
            (it.process, it.epoch) == (delivery.process, delivery.epoch) && it.begun <= frozen
        })
    };
    freezes(run, delivery.process).any(|(frozen, thawed)| {
        (thawed..=thawed.saturating_add(NOTICE)).contains(&delivery.begun)
            && had_it(frozen)
            && is_taken_over(run, delivery, frozen, delivery.begun)
    })
}

/// The moment at which a delivery was frozen, if its partition was another's before it
/// ended: whatever it came to does not count.
fn frozen_out(run: &Run, delivery: &simulation::Delivery) -> Option<Duration> {
    let ended = delivery.ended.unwrap_or(Duration::MAX);
    freezes(run, delivery.process)
        .map(|(frozen, _)| frozen)
        .find(|frozen| {
            (delivery.begun..=ended).contains(frozen)
                && is_taken_over(run, delivery, *frozen, ended)
        })
}

/// The moment at which a call was cut off, if it took longer than a revocation waits for:
/// then another process was given its partition, and its verdict does not count.
fn cut_off(scenario: &Scenario, run: &Run, delivery: &simulation::Delivery) -> Option<Duration> {
    let limit = Duration::from_millis(scenario.stop_timeout.into());
    let ended = delivery.ended.unwrap_or(Duration::MAX);
    let others = run
        .deliveries
        .iter()
        .filter(|it| it.partition == delivery.partition && it.process != delivery.process);
    let taken_over = others
        .map(|it| it.given)
        .filter(|given| (delivery.given + limit..=ended).contains(given));
    taken_over.min()
}

/// When a process was frozen, and thawed.
fn freezes(run: &Run, of: usize) -> impl Iterator<Item = (Duration, Duration)> {
    let moments = move |wanted: simulation::Happened| {
        let moments = run.processes.iter();
        moments
            .filter(move |(_, process, happened)| *process == of && *happened == wanted)
            .map(|(at, ..)| *at)
    };
    let thawed = moments(simulation::Happened::Thawed).chain([Duration::MAX]);
    moments(simulation::Happened::Frozen).zip(thawed)
}

/// Whether another process began a message of the partition in this time.
fn is_taken_over(run: &Run, delivery: &simulation::Delivery, from: Duration, to: Duration) -> bool {
    run.deliveries.iter().any(|it| {
        it.partition == delivery.partition
            && it.process != delivery.process
            && (from..=to).contains(&it.begun)
    })
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

fn samples(run: &Run, partition: i32, origin: Instant) -> Vec<CommitSample> {
    let commits = run.commits.iter().filter(|it| it.partition == partition);
    commits
        .map(|commit| CommitSample {
            asked: origin + commit.at,
            answered: origin + commit.at,
            offsets: BTreeMap::from([((TOPIC.to_owned(), partition), commit.offset)]),
        })
        .collect()
}

fn convert(
    delivery: &simulation::Delivery,
    frozen_out: Option<Duration>,
    origin: Instant,
) -> Delivery {
    use simulation::Verdict as Ended;
    let verdict = match delivery.verdict {
        _ if frozen_out.is_some() => Verdict::Abandoned,
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
        end: frozen_out.or(delivery.ended).map(|ended| origin + ended),
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
