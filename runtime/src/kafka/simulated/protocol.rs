//! Requests to a group's coordinator, and its answers.

use std::collections::BTreeSet;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::assignor::{Candidate, Plan};
use super::group::StoredOffset;
use crate::kafka::seam::{Committed, TopicPartition};

#[derive(Debug)]
pub(super) enum Request {
    Join {
        member: String,
        owned: BTreeSet<TopicPartition>,
    },
    Sync {
        member: String,
        generation: i32,
        /// The leader gives the assignment of all members.
        plan: Option<Plan>,
    },
    Heartbeat {
        member: String,
        generation: i32,
    },
    Leave {
        member: String,
    },
    /// A heartbeat of KIP-848.
    Beat {
        member: String,
        epoch: i32,
        /// The request names everything, so the answer does.
        is_full: bool,
        /// The partitions that the member has, where it says so.
        owned: Option<BTreeSet<TopicPartition>>,
    },
    Commit {
        member: String,
        generation: i32,
        batch: CommitBatch,
    },
    FetchOffsets {
        number: u64,
        partitions: Vec<TopicPartition>,
        is_stable: bool,
    },
}

#[derive(Debug)]
pub(super) enum Response {
    Join(Result<Joined, RDKafkaErrorCode>),
    Sync(Result<BTreeSet<TopicPartition>, RDKafkaErrorCode>),
    Heartbeat(Result<(), RDKafkaErrorCode>),
    Left,
    Beat(Result<BeatAnswer, RDKafkaErrorCode>),
    Commit(CommitBatch, Result<(), RDKafkaErrorCode>),
    FetchOffsets(u64, Result<Vec<Committed>, RDKafkaErrorCode>),
}

#[derive(Debug)]
pub(super) struct Joined {
    pub(super) member: String,
    pub(super) generation: i32,
    /// All members, for the leader, which assigns.
    pub(super) members: Option<Vec<Candidate>>,
}

#[derive(Debug)]
pub(super) struct BeatAnswer {
    pub(super) epoch: i32,
    /// Absent where it has not changed.
    pub(super) assignment: Option<BTreeSet<TopicPartition>>,
}

/// Offsets that are committed together.
#[derive(Debug, Clone)]
pub(super) struct CommitBatch {
    pub(super) offsets: Vec<(TopicPartition, StoredOffset)>,
    /// Set once the client waits for a coordinator to send it again.
    pub(super) deferred_until: Option<Instant>,
    /// How often it was sent again.
    pub(super) retries: u32,
}
