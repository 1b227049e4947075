//! What happens in a run: a plain value, drawn from a seed, that a shrinker can make
//! smaller.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use penstock_crds::manifest;
use penstock_crds::names::TopicName;
use penstock_crds::spec::{Commit, HumanDuration};
use penstock_crds::validate::{Concurrency, ConsumeMode, FailureAction, ValidatedConsumer};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::record::Verdict;
use crate::gaps::METADATA_LIMIT;

/// The topic that consumers of a run read.
pub const TOPIC: &str = "orders";

/// The topic of dead letters.
pub const DEAD_LETTERS: &str = "orders-dead";

/// The topic that handlers produce to where commits are transactional.
pub const OUTPUT: &str = "orders-out";

/// The group of a run.
pub const GROUP: &str = "shop.orders";

/// How a group agrees on its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The classic protocol; every rebalance revokes everything.
    Eager,
    /// The classic protocol; only partitions that move are revoked.
    Cooperative,
    /// The protocol of KIP-848.
    Consumer,
}

/// How messages are given to the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message a call.
    Single,
    /// Several messages a call, under one time limit.
    Batch,
    /// Several messages a call; the handler keeps time and the order of keys by itself,
    /// as over gRPC.
    Stream,
}

/// A mode and its concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One handler, in order.
    InOrder,
    /// Handlers side by side, never two for one key.
    KeyOrdered(u16),
    /// Handlers side by side.
    Fast(u16),
}

/// What follows the last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The process ends and is started again.
    Stop,
    /// The message is skipped.
    Skip,
    /// The message is written to [`DEAD_LETTERS`].
    DeadLetter,
}

/// How a handler ends one delivery of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Handled.
    Done,
    /// Try again.
    Retry,
    /// Try again after this many milliseconds.
    RetryAfter(u32),
    /// The message can't be handled.
    Fail,
    /// Leave the message behind.
    Skip,
    /// Dead-letter the message.
    DeadLetter,
    /// The handler panics; in a batch everything in it fails.
    Panic,
    /// The handler does not answer until its time is over.
    Hang,
    /// The batch's answer ends before this message.
    Missing,
}

/// One delivery of a message, as the handler will take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Time until the answer, in milliseconds.
    pub latency: u32,
    /// The answer.
    pub answer: Answer,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it is produced, in milliseconds from the start.
    pub at: u32,
    /// The partition.
    pub partition: i32,
    /// The key, if any.
    pub key: Option<u8>,
    /// `false` if the value can't be decoded.
    pub valid: bool,
    /// The first deliveries of it; all that follow are handled at once.
    pub attempts: Vec<Attempt>,
}

/// Something that happens to the members or to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is started, unless it runs.
    Start(u8),
    /// A member is told to stop, as by SIGTERM.
    Stop(u8),
    /// A member's process is gone.
    Kill(u8),
    /// A member is frozen for so many milliseconds.
    Freeze(u8, u32),
    /// The group's coordinator moves.
    MoveCoordinator,
    /// A partition's leader moves.
    MoveLeader(i32),
    /// The next commits are refused this way, so many times.
    RefuseCommits(Refusal, u8),
    /// The answer to the next commit gets lost; it was applied or not.
    LoseCommit {
        /// The coordinator has applied it.
        applied: bool,
    },
    /// The next look-ups fail, so many times.
    FailLookUps(u8),
    /// Fetches fail, so many times.
    FailFetches {
        /// How often.
        times: u8,
        /// The client reports the error; others it deals with alone.
        reported: bool,
    },
    /// No broker answers for so many milliseconds.
    Unreachable(u32),
    /// A control marker is written to a partition.
    Marker(i32),
    /// An aborted transaction of so many records is written to a partition.
    Aborted(i32, u8),
    /// A third party opens a transaction, or continues it, with so many messages in a
    /// partition. It stays open until the end of disturbances, unless it is ended.
    OpenTransaction(i32, u8),
    /// The third party ends its transaction.
    EndTransaction {
        /// It is committed; otherwise aborted.
        commits: bool,
    },
    /// So many hundredths of a partition's log are deleted, from its start.
    DeleteRecords(i32, u8),
    /// A replica becomes the leader that lacks the newest records, so many.
    Truncate(i32, u8),
    /// The topic is deleted and created again.
    Recreate,
    /// The topic gets another partition.
    AddPartition,
    /// A partition is compacted: a record stays if the bit of its offset, modulo 8, is set.
    Compact(i32, u8),
    /// The next transaction is aborted by the brokers.
    AbortTransaction,
    /// The next dead letters are refused, so many times.
    RefuseLetters(u8),
}

/// How a commit is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The group rebalances.
    RebalanceInProgress,
    /// The coordinator moves.
    NotCoordinator,
    /// The request timed out.
    RequestTimedOut,
    /// The metadata is longer than the brokers take.
    MetadataTooLarge,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Seeds all that is not written here: network latencies, hashes.
    pub seed: u64,
    /// How the group agrees.
    pub protocol: Protocol,
    /// The consumers' mode.
    pub mode: Mode,
    /// What is committed.
    pub commit: Commit,
    /// How messages are given to the handler.
    pub shape: Shape,
    /// `consumeBatchSize`.
    pub batch_size: u32,
    /// `maxAttempts`.
    pub max_attempts: u32,
    /// The first back-off, in milliseconds; it doubles up to eight times that.
    pub backoff: u32,
    /// What follows the last attempt.
    pub on_failure: OnFailure,
    /// `handler.timeout`, in milliseconds.
    pub timeout: u32,
    /// `stopTimeout`, in milliseconds.
    pub stop_timeout: u32,
    /// How often handled offsets are committed, in milliseconds.
    pub commit_interval: u32,
    /// A group without offsets begins at the end: `offsetReset: Latest`.
    pub begins_at_end: bool,
    /// A group whose offsets are lost continues at the end: `onOffsetLost: Latest`.
    pub skips_lost: bool,
    /// `offset.metadata.max.bytes` of the brokers.
    pub metadata_limit: usize,
    /// Partitions of [`TOPIC`] at the beginning.
    pub partitions: i32,
    /// Members that are started at the beginning.
    pub members: u8,
    /// The messages.
    pub messages: Vec<Message>,
    /// The events, each with its moment in milliseconds.
    pub events: Vec<(u32, Event)>,
}

/// The most members at a time.
pub const MAX_MEMBERS: u8 = 4;

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
        scenario
    }

    /// The consumer that a manifest with these settings comes to.
    pub(crate) fn consumer(&self) -> ValidatedConsumer {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let mut consumer = template().clone();
        let replicas = 1;
        let handlers = |number: u16| Concurrency::new(number.into()).expect("a small number");
        consumer.mode = match self.mode {
            Mode::InOrder => ConsumeMode::InOrder,
            Mode::KeyOrdered(number) => ConsumeMode::KeyOrdered {
                handlers: handlers(number),
                replicas,
            },
            Mode::Fast(number) => ConsumeMode::Fast {
                handlers: handlers(number),
                replicas,
            },
        };
        consumer.commit = self.commit;
        consumer.consume_batch_size = NonZeroU32::new(self.batch_size).unwrap_or(NonZeroU32::MIN);
        consumer.stop_timeout = millis(self.stop_timeout);
        consumer.handler.timeout = human(self.timeout);
        consumer.delivery.max_attempts =
            NonZeroU32::new(self.max_attempts).unwrap_or(NonZeroU32::MIN);
        consumer.delivery.initial = millis(self.backoff);
        consumer.delivery.max = millis(self.backoff * 8);
        consumer.delivery.factor = 2.0;
        // Drawn from the thread's own generator, which no seed decides.
        consumer.delivery.jitter = 0.0;
        consumer.delivery.on_failure = match self.on_failure {
            OnFailure::Stop => FailureAction::Stop,
            OnFailure::Skip => FailureAction::Skip,
            OnFailure::DeadLetter => FailureAction::DeadLetter(dead_letter_topic()),
        };
        consumer
    }

    /// The wait before the attempt that follows the `failed`th, in milliseconds.
    pub fn wait_after(&self, failed: u32) -> u64 {
        let longest = u64::from(self.backoff) * 8;
        let doubled = u64::from(self.backoff) << failed.saturating_sub(1).min(16);
        doubled.min(longest)
    }

    /// Returns `true` if a delivery that ended so, at this attempt, settles its message:
    /// nothing more is done with it.
    pub fn settles(&self, verdict: Verdict, attempt: u32) -> bool {
        let gives_up = self.on_failure != OnFailure::Stop;
        match verdict {
            Verdict::Done | Verdict::Skip => true,
            Verdict::Fail | Verdict::DeadLetter => gives_up,
            Verdict::Retry | Verdict::Panic | Verdict::TimedOut => {
                gives_up && attempt >= self.max_attempts
            }
            Verdict::CutShort | Verdict::Void | Verdict::Open => false,
        }
    }

    /// Returns `true` if the topic is compacted.
    pub(super) fn is_compacted(&self) -> bool {
        let compacts = |event: &Event| matches!(event, Event::Compact(..));
        self.events.iter().any(|(_, event)| compacts(event))
    }

    /// Returns `true` if an offset may come to name another message.
    pub fn replaces_log(&self) -> bool {
        let replaces = |event: &Event| matches!(event, Event::Truncate(..) | Event::Recreate);
        self.events.iter().any(|(_, event)| replaces(event))
    }

    /// Returns `true` if a member may be evicted from its group while it runs.
    pub fn may_evict(&self) -> bool {
        self.may_evict_from().is_some()
    }

    /// Returns from when on a member may be evicted from its group while it runs: librdkafka
    /// sends no heartbeats while it waits for a commit whose answer is lost, and none arrive
    /// while no broker can be reached.
    pub fn may_evict_from(&self) -> Option<Duration> {
        let evicts =
            |event: &Event| matches!(event, Event::LoseCommit { .. } | Event::Unreachable(_));
        let mut events = self.events.iter();
        let first = events.find(|(_, event)| evicts(event));
        first.map(|(at, _)| Duration::from_millis((*at).into()))
    }

    /// Returns `true` if the brokers take less metadata than by default: what is known beyond
    /// a commit may have no room then.
    pub fn is_short_of_metadata(&self) -> bool {
        self.metadata_limit < METADATA_LIMIT
    }

    /// Returns `true` if nothing happens that may lose a commit on its way, or the time to
    /// make it.
    pub fn is_orderly(&self) -> bool {
        let orderly = |event: &Event| {
            matches!(
                event,
                Event::Start(_)
                    | Event::Stop(_)
                    | Event::MoveLeader(_)
                    | Event::Marker(_)
                    | Event::Aborted(..)
                    | Event::FailFetches { .. }
                    | Event::OpenTransaction(..)
                    | Event::EndTransaction { .. }
                    | Event::DeleteRecords(..)
                    | Event::AddPartition
                    | Event::Compact(..)
            )
        };
        self.events.iter().all(|(_, event)| orderly(event))
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

fn pick<T: Copy>(draw: &mut StdRng, choices: &[T]) -> T {
    choices[draw.random_range(0..choices.len())]
}

/// A consumer in which everything that a scenario does not set has its default.
fn template() -> &'static ValidatedConsumer {
    static TEMPLATE: OnceLock<ValidatedConsumer> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let text = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: KafkaConsumer\nmetadata:\n  name: orders\nspec:\n  group: {GROUP}\n  topics: [{TOPIC}]\n  mode: InOrder\n  kafka:\n    bootstrapServers: simulated:9092\n  handler:\n    protocol: Embedded\n    image: registry.example/orders:1\n"
        );
        match manifest::read_one(&text) {
            Ok((_, consumer)) => consumer,
            Err(errors) => panic!("the simulation's manifest is refused: {errors}"),
        }
    })
}

fn human(millis: u32) -> HumanDuration {
    let parsed = format!("{millis}ms").parse();
    parsed.unwrap_or(HumanDuration::from_secs(1))
}

pub(super) fn dead_letter_topic() -> TopicName {
    TopicName::parse(DEAD_LETTERS).expect("the name is a topic's")
}
