//! Compares the tracker with a naive model over millions of random steps: deliveries, verdicts
//! in any order, commits, stops and crashes.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::offsets::gaps::METADATA_LIMIT;

const SEEDS: u64 = 4;
const STEPS: usize = 500_000;

/// The maximum number of messages in flight.
const MOST: usize = 48;

/// The state of a commit at the brokers.
struct Commit {
    offset: i64,
    text: String,
    /// All that was settled at its time, beyond the offset.
    settled: BTreeSet<i64>,
    attempts: BTreeMap<i64, u32>,
}

/// A partition, its consumer, and the truth about both.
struct World {
    seed: u64,
    random: StdRng,
    tracker: OffsetTracker,
    commit: Commit,
    /// The maximum length of a text at the brokers.
    limit: usize,
    /// Offset of the message to be read next.
    position: i64,
    /// Offsets that are no messages: transaction markers, or compacted away.
    holes: BTreeSet<i64>,
    /// Handed out by this tracker, or known of by it, and not settled.
    open: BTreeSet<i64>,
    in_flight: BTreeSet<i64>,
    /// Done with, as this tracker knows, beyond what it may commit.
    settled: BTreeSet<i64>,
    attempts: BTreeMap<i64, u32>,
    begun: bool,
}

#[test]
fn agrees_with_a_naive_tracker_over_millions_of_steps() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step();
            world.check(step);
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        // Some worlds have brokers that take little.
        let limit = match seed % 2 {
            0 => METADATA_LIMIT,
            _ => 40,
        };
        Self {
            seed,
            limit,
            random: StdRng::seed_from_u64(seed),
            tracker: OffsetTracker::default(),
            commit: Commit {
                offset: 0,
                text: String::new(),
                settled: BTreeSet::new(),
                attempts: BTreeMap::new(),
            },
            position: 0,
            holes: BTreeSet::new(),
            open: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            settled: BTreeSet::new(),
            attempts: BTreeMap::new(),
            begun: false,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..1000) {
            0 => self.stop(),
            1 => self.crash(),
            2..20 => self.commit(),
            20..460 if self.in_flight.len() < MOST => self.deliver(),
            460..900 => self.settle(),
            900..980 => self.fail(),
            _ => {
                // A slow one stays, and the others run ahead.
                for _ in 0..self.random.random_range(0..30) {
                    self.deliver();
                    self.settle();
                }
            }
        }
    }

    fn deliver(&mut self) {
        if self.in_flight.len() >= MOST {
            return;
        }
        // A hole stays a hole for those who read it again; and a message may
        // become one by compaction.
        while self.holes.contains(&self.position) || self.random.random_bool(0.02) {
            self.holes.insert(self.position);
            self.position += 1;
        }
        let offset = self.position;
        self.position += 1;
        self.begun = true;
        let expected = match self.settled.contains(&offset) {
            true => Delivered::AlreadyHandled,
            false => Delivered::New,
        };
        let seed = self.seed;
        assert_eq!(
            self.tracker.deliver(offset, Some(offset)),
            expected,
            "seed {seed}, offset {offset}"
        );
        if expected == Delivered::New {
            self.open.insert(offset);
            self.in_flight.insert(offset);
            let made = self.attempts.get(&offset).copied().unwrap_or(0);
            assert_eq!(
                self.tracker.attempts(offset),
                made,
                "seed {seed}, offset {offset}"
            );
        }
    }

    /// One in flight, seldom the oldest.
    fn pick(&mut self) -> Option<i64> {
        let place = match self.random.random_bool(0.03) {
            true => 0,
            false => self.random.random_range(0..MOST),
        };
        self.in_flight.iter().nth(place).copied()
    }

    fn settle(&mut self) {
        let Some(first) = self.pick() else { return };
        let mut offsets = first..first + 1;
        while self.in_flight.contains(&offsets.end) && self.random.random_bool(0.5) {
            offsets.end += 1;
        }
        self.tracker.settle(offsets.clone());
        for offset in offsets {
            self.in_flight.remove(&offset);
            self.open.remove(&offset);
            self.attempts.remove(&offset);
            self.settled.insert(offset);
        }
    }

    fn fail(&mut self) {
        let Some(offset) = self.pick() else { return };
        let made = self.tracker.attempts(offset) + 1;
        self.tracker.fail(offset, made);
        self.attempts.insert(offset, made);
    }

    fn committable(&self) -> Option<i64> {
        self.begun
            .then(|| self.open.first().copied().unwrap_or(self.position))
    }

    /// Commits what may be, and holds the text against the truth.
    fn commit(&mut self) {
        let Some(offset) = self.tracker.committable() else {
            return;
        };
        let seed = self.seed;
        let gaps = self.tracker.gaps(offset);
        let text = gaps.encode(self.limit);
        assert!(text.len() <= self.limit, "seed {seed}: {}", text.len());
        let read = Gaps::decode(text.as_bytes(), offset).unwrap();
        let read = read.unwrap_or_else(|| Gaps::new(offset, offset, [], []));
        let ahead = offset..self.position.max(gaps.horizon());
        for at in ahead.clone() {
            let settled = self.settled.contains(&at);
            let truth = settled || (self.holes.contains(&at) && at < self.position);
            assert!(
                !read.is_complete(at) || truth || self.holes.contains(&at),
                "seed {seed}: {at} is not settled: {read:?}"
            );
            assert!(
                !settled || gaps.is_complete(at),
                "seed {seed}: {at} is settled: {gaps:?}"
            );
        }
        let mut kept: BTreeMap<_, _> = read.attempts().iter().copied().collect();
        if self.limit == METADATA_LIMIT {
            let known = self
                .attempts
                .iter()
                .filter(|(at, _)| !self.holes.contains(at));
            let known: BTreeMap<_, _> = known.map(|(at, made)| (*at, *made)).collect();
            kept.retain(|at, _| !self.holes.contains(at));
            assert_eq!(kept, known, "seed {seed}");
        }
        self.commit = Commit {
            offset,
            text,
            settled: ahead.filter(|at| read.is_complete(*at)).collect(),
            attempts: kept,
        };
    }

    /// Abandons messages in flight, and makes a last commit.
    fn stop(&mut self) {
        for offset in std::mem::take(&mut self.in_flight) {
            self.tracker.abandon(offset);
        }
        self.check(usize::MAX);
        self.commit();
        self.crash();
    }

    /// Lets another consumer continue from the last commit.
    fn crash(&mut self) {
        let commit = &self.commit;
        let gaps = Gaps::decode(commit.text.as_bytes(), commit.offset).unwrap();
        self.tracker = gaps.map_or_else(OffsetTracker::default, OffsetTracker::resume);
        self.position = commit.offset;
        self.settled = commit.settled.clone();
        self.attempts = commit.attempts.clone();
        self.open.clear();
        self.in_flight.clear();
        self.begun = false;
        self.holes = self.holes.split_off(&commit.offset);
    }

    /// A commit that one message asks for passes no other that is open.
    fn check_commit_behind(&self, context: &str) {
        let oldest = self.in_flight.first().copied();
        for message in oldest.into_iter().chain(self.in_flight.last().copied()) {
            let expected = (oldest == Some(message)).then_some(message + 1);
            let found = self.tracker.committable_behind(message);
            // Held back by one that was abandoned, which is open and not in flight.
            let first_open = self.open.range(..message).next().is_none();
            let expected = expected.filter(|_| first_open);
            assert_eq!(found, expected, "{context}, message {message}");
        }
    }

    fn check(&mut self, step: usize) {
        let context = || format!("seed {}, step {step}", self.seed);
        let committable = self.committable();
        assert_eq!(self.tracker.committable(), committable, "{}", context());
        assert_eq!(
            self.tracker.in_flight(),
            self.in_flight.len(),
            "{}",
            context()
        );
        self.check_commit_behind(&context());
        // Earlier offsets are no longer needed.
        if let Some(committable) = committable
            && step.is_multiple_of(512)
        {
            self.settled = self.settled.split_off(&committable.min(self.commit.offset));
        }
    }
}
