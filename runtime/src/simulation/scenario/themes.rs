//! Scenarios around one subject, whose parts seldom meet by chance.

use std::ops::Range;

use penstock_crds::spec::Commit;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::draw::pick;
use super::{Answer, Attempt, Event, Message, Mode, OnFailure, Protocol, Refusal, Scenario, Shape};

/// Of a hundred scenarios, so many have each of the subjects.
const SHARE: u32 = 4;

/// Gives some scenarios a subject.
pub(super) fn set(draw: &mut StdRng, scenario: &mut Scenario) {
    match draw.random_range(0..100) / SHARE {
        0 => unseen_truncation(draw, scenario),
        1 => little_room(draw, scenario),
        2 => uncommitted_start(draw, scenario),
        _ => {}
    }
}

/// The log is truncated, and grows again, while nobody reads it and the metadata says that
/// messages behind the committed offset are settled.
fn unseen_truncation(draw: &mut StdRng, scenario: &mut Scenario) {
    out_of_order(draw, scenario);
    let read = draw.random_range(4..16);
    let slow = draw.random_range(0..3);
    scenario.messages = (0..read)
        .map(|index| message(draw, 0, if index == slow { unanswered() } else { done(0) }))
        .collect();
    let gone = joined(draw, scenario, 500..4_000);
    let cut = gone + draw.random_range(50..500);
    // A restart takes a second, and the group waits for the process that is gone.
    let grown = cut + 400;
    let written = draw.random_range(1..20);
    for _ in 0..written {
        let at = draw.random_range(cut..grown);
        scenario.messages.push(message(draw, at, done(0)));
    }
    scenario.events = vec![
        (gone, Event::Kill(0)),
        (cut, Event::Truncate(0, draw.random_range(1..read))),
    ];
    if draw.random_bool(0.3) {
        scenario.events[0].1 = Event::Stop(0);
        scenario.events.push((grown + 5_000, Event::Start(0)));
    }
}

/// The brokers take little metadata, and there is much to say: messages settle in any order,
/// fail again and again, and their partition moves.
fn little_room(draw: &mut StdRng, scenario: &mut Scenario) {
    out_of_order(draw, scenario);
    scenario.metadata_limit = pick(draw, &[32, 48, 64]);
    scenario.backoff = pick(draw, &[10, 100]);
    scenario.max_attempts = 5;
    scenario.members = draw.random_range(1..=2);
    let count = draw.random_range(20..60);
    scenario.messages = (0..count)
        .map(|_| {
            let at = pick(draw, &[0, 0, 3_000, 5_000]);
            let attempts = match draw.random_range(0..10) {
                0..3 => retried(draw),
                3 => unanswered(),
                _ => done(draw.random_range(0..1_000)),
            };
            message(draw, at, attempts)
        })
        .collect();
    let first = joined(draw, scenario, 500..3_000);
    let second = first + draw.random_range(200..15_000);
    let moves = [
        Event::Kill(0),
        Event::Kill(0),
        Event::Stop(0),
        Event::Start(2),
    ];
    scenario.events = vec![
        (first, pick(draw, &moves)),
        (
            second,
            pick(draw, &[Event::Kill(0), Event::Start(0), Event::Start(3)]),
        ),
        (second + draw.random_range(200..5_000), Event::Kill(1)),
    ];
}

/// A group begins at the end, and its process is gone before the brokers took a commit.
fn uncommitted_start(draw: &mut StdRng, scenario: &mut Scenario) {
    scenario.begins_at_end = true;
    scenario.commit = Commit::Handled;
    scenario.partitions = draw.random_range(1..=2);
    scenario.members = 1;
    let refusals = draw.random_range(10..40);
    let refused = Event::RefuseCommits(Refusal::RebalanceInProgress, refusals);
    let begun = joined(draw, scenario, 0..1);
    let count = draw.random_range(10..40);
    scenario.messages = (0..count)
        .map(|_| {
            let at = begun + draw.random_range(0..4_000);
            let attempts = match draw.random_bool(0.3) {
                true => retried(draw),
                false => done(draw.random_range(0..200)),
            };
            message(draw, at, attempts)
        })
        .collect();
    scenario.events = vec![
        (0, refused),
        (begun + draw.random_range(100..4_000), Event::Kill(0)),
    ];
}

/// Messages of one partition settle in any order, and are committed often.
fn out_of_order(draw: &mut StdRng, scenario: &mut Scenario) {
    let handlers = pick(draw, &[4, 8]);
    scenario.mode = match draw.random_bool(0.5) {
        true => Mode::Fast(handlers),
        false => Mode::KeyOrdered(handlers),
    };
    scenario.commit = match draw.random_bool(0.5) {
        true => Commit::Transactional,
        false => Commit::Handled,
    };
    scenario.shape = pick(draw, &[Shape::Single, Shape::Single, Shape::Stream]);
    scenario.batch_size = pick(draw, &[1, 2, 5]);
    scenario.on_failure = pick(draw, &[OnFailure::Skip, OnFailure::DeadLetter]);
    scenario.timeout = 5_000;
    scenario.commit_interval = 100;
    scenario.begins_at_end = false;
    scenario.skips_lost = false;
    scenario.partitions = 1;
    scenario.members = 1;
}

/// Returns a moment so long after the first member has its partitions. A group of the classic
/// protocol waits for three seconds before it begins.
fn joined(draw: &mut StdRng, scenario: &Scenario, after: Range<u32>) -> u32 {
    let begun = match scenario.protocol {
        Protocol::Eager | Protocol::Cooperative => 3_000,
        Protocol::Consumer => 0,
    };
    begun + draw.random_range(after)
}

fn message(draw: &mut StdRng, at: u32, attempts: Vec<Attempt>) -> Message {
    Message {
        at,
        partition: 0,
        key: draw.random_bool(0.8).then(|| draw.random_range(0..20)),
        valid: true,
        attempts,
    }
}

fn done(latency: u32) -> Vec<Attempt> {
    let answer = Answer::Done;
    vec![Attempt { latency, answer }]
}

/// The handler does not answer, time after time.
fn unanswered() -> Vec<Attempt> {
    let (latency, answer) = (0, Answer::Hang);
    vec![Attempt { latency, answer }; 3]
}

fn retried(draw: &mut StdRng) -> Vec<Attempt> {
    let (latency, answer) = (draw.random_range(0..50), Answer::Retry);
    vec![Attempt { latency, answer }; draw.random_range(1..5)]
}
