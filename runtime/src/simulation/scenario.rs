//! What happens in a run: a plain value, drawn from a seed, that a shrinker can make
//! smaller.

mod consumer;
mod draw;
mod themes;

pub(super) use consumer::dead_letter_topic;

use std::time::Duration;

use penstock_crds::spec::Commit;

use super::record::Verdict;
use crate::offsets::gaps::METADATA_LIMIT;

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
