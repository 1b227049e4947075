//! Draws a scenario from a seed.

use penstock_crds::spec::Commit;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{
    Answer, Attempt, Event, MAX_MEMBERS, Message, Mode, OnFailure, Protocol, Refusal, Scenario,
    Shape, themes,
};
use crate::offsets::gaps::METADATA_LIMIT;

impl Scenario {
    /// Draws a scenario.
    pub fn from_seed(seed: u64) -> Self {
        let mut draw = StdRng::seed_from_u64(seed);
        let mode = mode(&mut draw);
        let commit = commit(&mut draw, mode);
        let partitions = draw.random_range(1..=4);
        let length = pick(&mut draw, &[2_000, 10_000, 40_000]);
        let on_failure = pick(
            &mut draw,
            &[OnFailure::Stop, OnFailure::Skip, OnFailure::DeadLetter],
        );
        let timeout = pick(&mut draw, &[200, 1_000, 5_000]);
        let members = draw.random_range(1..=3);
        let shape = pick(&mut draw, &[Shape::Single, Shape::Batch, Shape::Stream]);
        let mut scenario = Self {
            seed,
            protocol: pick(
                &mut draw,
                &[Protocol::Eager, Protocol::Cooperative, Protocol::Consumer],
            ),
            mode,
            commit,
            shape,
            batch_size: pick(&mut draw, &[1, 2, 5, 10, 50]),
            max_attempts: draw.random_range(1..=5),
            backoff: pick(&mut draw, &[10, 100, 1_000, 10_000]),
            on_failure,
            timeout,
            stop_timeout: pick(&mut draw, &[500, 3_000, 10_000]),
            commit_interval: pick(&mut draw, &[100, 1_000, 5_000]),
            begins_at_end: draw.random_bool(0.25),
            skips_lost: draw.random_bool(0.25),
            metadata_limit: METADATA_LIMIT,
            partitions,
            members,
            messages: Vec::new(),
            events: Vec::new(),
        };
        let calm = draw.random_bool(0.2);
        if !calm {
            let count = draw.random_range(1..=8);
            scenario.events = (0..count)
                .map(|_| (draw.random_range(0..length), event(&mut draw, partitions)))
                .collect();
            scenario.events.sort_by_key(|(at, _)| *at);
        }
        let trouble = pick(&mut draw, &[0.0, 0.05, 0.3]);
        let count = draw.random_range(1..=60);
        scenario.messages = (0..count)
            .map(|_| message(&mut draw, &scenario, length, trouble))
            .collect();
        if draw.random_bool(0.1) {
            scenario.metadata_limit = pick(&mut draw, &[16, 32, 64, 96]);
        }
        themes::set(&mut draw, &mut scenario);
        scenario
    }
}

fn mode(draw: &mut StdRng) -> Mode {
    let handlers = pick(draw, &[1, 2, 4, 8]);
    match draw.random_range(0..3) {
        0 => Mode::InOrder,
        1 => Mode::KeyOrdered(handlers),
        _ => Mode::Fast(handlers),
    }
}

fn commit(draw: &mut StdRng, mode: Mode) -> Commit {
    match draw.random_range(0..4) {
        0 => Commit::Transactional,
        1 if matches!(mode, Mode::Fast(_)) => Commit::Read,
        _ => Commit::Handled,
    }
}

fn message(draw: &mut StdRng, scenario: &Scenario, length: u32, trouble: f64) -> Message {
    let events = scenario.events.iter();
    let added = events.filter(|(_, event)| *event == Event::AddPartition);
    let partitions = scenario.partitions + i32::try_from(added.count()).unwrap_or(0);
    let attempts = match draw.random_bool(trouble) {
        true => (0..draw.random_range(1..=6))
            .map(|_| attempt(draw, scenario))
            .collect(),
        false => vec![Attempt {
            latency: latency(draw, scenario),
            answer: Answer::Done,
        }],
    };
    Message {
        at: match draw.random_bool(0.5) {
            true => 0,
            false => draw.random_range(0..length),
        },
        partition: draw.random_range(0..partitions),
        key: draw.random_bool(0.8).then(|| draw.random_range(0..6)),
        valid: draw.random_bool(0.97),
        attempts,
    }
}

fn attempt(draw: &mut StdRng, scenario: &Scenario) -> Attempt {
    let mut answers = vec![
        Answer::Retry,
        Answer::Retry,
        Answer::Retry,
        Answer::RetryAfter(draw.random_range(1..2_000)),
        Answer::Fail,
        Answer::Skip,
        Answer::DeadLetter,
        Answer::Panic,
        Answer::Hang,
        Answer::Done,
    ];
    if scenario.shape != Shape::Single {
        answers.push(Answer::Missing);
    }
    Attempt {
        latency: latency(draw, scenario),
        answer: pick(draw, &answers),
    }
}

/// Mostly short, sometimes just below or beyond the limit.
fn latency(draw: &mut StdRng, scenario: &Scenario) -> u32 {
    match draw.random_range(0..10) {
        0..5 => 0,
        5..8 => draw.random_range(1..20),
        8 => draw.random_range(1..scenario.timeout),
        _ => scenario.timeout - 1,
    }
}

fn event(draw: &mut StdRng, partitions: i32) -> Event {
    let member = draw.random_range(0..MAX_MEMBERS);
    let partition = draw.random_range(0..partitions);
    match draw.random_range(0..28) {
        0..4 => Event::Start(member),
        4..8 => Event::Stop(member),
        8..10 => Event::Kill(member),
        10 => Event::Freeze(member, pick(draw, &[200, 3_000, 20_000])),
        11 => Event::MoveCoordinator,
        12 => Event::MoveLeader(partition),
        13 => Event::RefuseCommits(
            pick(
                draw,
                &[
                    Refusal::RebalanceInProgress,
                    Refusal::NotCoordinator,
                    Refusal::RequestTimedOut,
                    Refusal::MetadataTooLarge,
                ],
            ),
            draw.random_range(1..5),
        ),
        14 => Event::LoseCommit {
            applied: draw.random_bool(0.5),
        },
        15 => Event::FailLookUps(draw.random_range(1..4)),
        16 => Event::FailFetches {
            times: draw.random_range(1..4),
            reported: draw.random_bool(0.5),
        },
        17 => Event::Unreachable(pick(draw, &[500, 5_000])),
        18 => match draw.random_bool(0.5) {
            true => Event::Marker(partition),
            false => Event::Aborted(partition, draw.random_range(1..5)),
        },
        19 => match draw.random_bool(0.5) {
            true => Event::AbortTransaction,
            false => Event::RefuseLetters(draw.random_range(1..3)),
        },
        _ => log_event(draw, partition),
    }
}

/// Something that happens to the topic.
fn log_event(draw: &mut StdRng, partition: i32) -> Event {
    match draw.random_range(0..8) {
        0..2 => Event::DeleteRecords(partition, pick(draw, &[20, 50, 80, 100])),
        2 => Event::Truncate(partition, draw.random_range(1..6)),
        3 => Event::Recreate,
        4 => Event::AddPartition,
        5 => Event::OpenTransaction(partition, draw.random_range(1..4)),
        6 => Event::EndTransaction {
            commits: draw.random_bool(0.5),
        },
        _ => Event::Compact(partition, draw.random_range(0..=255)),
    }
}

pub(super) fn pick<T: Copy>(draw: &mut StdRng, choices: &[T]) -> T {
    choices[draw.random_range(0..choices.len())]
}
