//! The engine's interface to Kafka.
//!
//! The pump and its helpers see Kafka through these traits only. Two clients implement
//! them: [`Librdkafka`](super::Librdkafka), which every consumer runs on, and the simulated
//! one, by which one seed replays a whole run. The message path is generic over the
//! client, so the seam adds no call to it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::oneshot;

use crate::group::partition::Partition;
use crate::handler::record::Record;
use crate::program::end_code::EndCode;
use crate::transactions::{Outcome, Transaction};

/// A partition's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicPartition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The end of one partition's commit.
#[derive(Debug, Clone)]
pub(crate) struct CommitOutcome {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The committed offset; absent where there was nothing to commit.
    pub(crate) offset: Option<i64>,
    /// The metadata that was committed with it.
    pub(crate) metadata: String,
    pub(crate) result: Result<(), RDKafkaErrorCode>,
}

/// Events of the client since the last poll, in order.
#[derive(Debug)]
pub(crate) enum Event {
    /// These partitions belong to this member once the assignment is confirmed.
    Assign(Vec<TopicPartition>),
    /// These partitions must be revoked. `lost`: they already belong to others.
    Revoke {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    /// A commit ended.
    Commit(Vec<CommitOutcome>),
}

/// An offset to commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommitEntry<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The leader epoch of the last message before the offset, where it is known.
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) metadata: &'a str,
}

/// A group's committed offset of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) partition: TopicPartition,
    /// Absent where the group has committed nothing.
    pub(crate) offset: Option<i64>,
    pub(crate) leader_epoch: Option<i32>,
    /// The metadata of the offset, which any client may have written.
    pub(crate) metadata: Vec<u8>,
}

/// An end of a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// The log start: the first offset that is retained.
    Start,
    /// The offset that the next message will get.
    End,
}

/// The start of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartOffset {
    pub(crate) partition: TopicPartition,
    /// Absent: where the client finds by itself.
    pub(crate) offset: Option<i64>,
    /// The leader epoch of the message before the offset, where it is known: by it the
    /// client notices that the log was truncated.
    pub(crate) leader_epoch: Option<i32>,
}

/// The error of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LookUpError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: String,
}

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The result of [`Client::edges`]: a partition and its offset, or the error.
pub(crate) type FoundEdges = Vec<(TopicPartition, Result<i64, RDKafkaErrorCode>)>;

/// An error that the client put where a message would be.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeError {
    pub(crate) code: RDKafkaErrorCode,
    /// The code with which the runtime ends.
    pub(crate) end: EndCode,
    pub(crate) text: String,
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
}

/// The reason that a client cannot continue in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfRange {
    /// The offset that the brokers do not have; absent where the client does not name it.
    pub(crate) position: Option<i64>,
    /// The offset at which the partition's log departs from the messages that were read, if the
    /// client noticed that by the leader epoch: the log was truncated to this offset.
    pub(crate) departs_at: Option<i64>,
}

/// Names one incarnation of a topic: a topic that is deleted and created again has
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicId(pub(crate) u128);

/// A message or an event that was read from a partition.
pub(crate) enum Fetched {
    /// A message.
    Record(Record),
    /// The partition was read up to its end, which is this offset.
    End(Arc<Partition>, i64),
    /// The brokers have nothing at the position: the client reads nothing more of the
    /// partition until [`Client::restart`].
    OutOfRange(Arc<Partition>, OutOfRange),
    /// An error in the place of a message.
    Error(ConsumeError),
}

/// Names a partition without allocating: the client's handle of the topic, and the
/// partition's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PartitionHandle {
    pub(crate) topic: usize,
    pub(crate) partition: i32,
}

/// Reads the messages of assigned partitions.
pub(crate) trait Fetcher: Send + 'static {
    /// Sends a partition's messages here from now on. To be called before the partition
    /// is assigned.
    fn attach(&mut self, partition: &Partition);

    /// Takes what is there, at most `most` messages, and gives each to `sink`, with the
    /// partition that `owner` names for it. Does not wait. Messages without an owner are
    /// dropped. Returns the number of messages taken.
    fn read(
        &mut self,
        most: usize,
        owner: impl FnMut(PartitionHandle, &dyn Fn() -> String) -> Option<Arc<Partition>>,
        sink: impl FnMut(Fetched),
    ) -> usize;
}

/// A member of a consumer group.
pub(crate) trait Client: Send + Sync + Sized + 'static {
    type Fetcher: Fetcher;
    /// By what the group knows this member; it fences transactions.
    type Membership: Send + 'static;

    /// Creates the fetcher, which calls `on_nonempty` whenever it stops being empty.
    fn fetcher(self: &Arc<Self>, on_nonempty: impl Fn() + Send + Sync + 'static) -> Self::Fetcher;

    /// Returns `true` if events were announced since the last call.
    fn take_announcement(&self) -> bool;

    /// Lets the client report events, and waits for the first at most so long. Returns an
    /// error of the client as a whole, and whether there may be more to report.
    fn poll(&self, limit: Duration) -> Polled;

    /// The oldest event that was not taken yet.
    fn next_event(&self) -> Option<Event>;

    /// Lets the client answer revocations by itself, immediately.
    fn answer_by_itself(&self);

    /// Confirms an assignment: reading begins at these offsets.
    fn assign(&self, partitions: &[StartOffset]) -> Result<(), String>;

    /// Confirms a revocation.
    fn unassign(&self, partitions: &[TopicPartition]) -> Result<(), String>;

    /// Returns `true` if the assignment already belongs to others.
    fn is_assignment_lost(&self) -> bool;

    /// Continues reading at another offset.
    fn seek(&self, to: &StartOffset) -> Result<(), String>;

    /// Reads on at these offsets in partitions that the client stopped reading, see
    /// [`Fetched::OutOfRange`]. `others` are all other assigned partitions with their
    /// positions, for clients that can only replace the assignment as a whole.
    fn restart(&self, to: &[StartOffset], _others: &[StartOffset]) -> Result<(), String> {
        to.iter().try_for_each(|start| self.seek(start))
    }

    fn pause(&self, partition: &TopicPartition) -> Result<(), String>;

    fn resume(&self, partition: &TopicPartition) -> Result<(), String>;

    /// Sets the offset that automatic commits commit, also to a lower one.
    fn store(&self, entry: CommitEntry<'_>) -> Result<(), String>;

    /// Sends a commit. It ends as [`Event::Commit`].
    fn commit(&self, entry: CommitEntry<'_>) -> Result<(), RDKafkaErrorCode>;

    /// The end of a partition as of the last fetch. Asks no broker.
    fn high_watermark(&self, partition: &Partition) -> Option<i64>;

    /// The first offset of a partition that was retained as of the last fetch. Asks no
    /// broker.
    fn low_watermark(&self, _partition: &Partition) -> Option<i64> {
        None
    }

    /// The group's generation in which this member takes part; a new group's first is 1.
    /// `None` where it is not known.
    fn generation(&self) -> Option<i32> {
        None
    }

    /// By what the group knows this member; `None` while it is none.
    fn membership(&self) -> Option<Self::Membership>;

    /// Asks for the group's committed offsets.
    fn committed(
        self: &Arc<Self>,
        partitions: Vec<TopicPartition>,
        limit: Duration,
    ) -> impl Future<Output = Result<Vec<Committed>, LookUpError>> + Send;

    /// Asks for an end of each partition's log.
    fn edges(
        self: &Arc<Self>,
        wanted: Vec<(TopicPartition, Edge)>,
        limit: Duration,
    ) -> impl Future<Output = Result<FoundEdges, LookUpError>> + Send;

    /// Asks for the number of partitions of a topic.
    fn partition_count(
        self: &Arc<Self>,
        topic: String,
        limit: Duration,
    ) -> impl Future<Output = Result<i32, LookUpError>> + Send;

    /// Asks for the ids of topics. Topics without a known id are left out.
    fn topic_ids(
        self: &Arc<Self>,
        _topics: Vec<String>,
        _limit: Duration,
    ) -> impl Future<Output = Result<Vec<(String, TopicId)>, LookUpError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Leaves the group and closes the client.
    fn leave(self: Arc<Self>) -> impl Future<Output = ()> + Send;
}

/// The result of a poll.
#[derive(Debug, Default)]
pub(crate) struct Polled {
    /// The client reported something, so there may be more.
    pub(crate) more: bool,
    /// An error of the client as a whole.
    pub(crate) error: Option<PollError>,
}

/// An error of the client as a whole.
#[derive(Debug)]
pub(crate) enum PollError {
    /// An error of the client.
    Client(RDKafkaErrorCode),
    /// A message came past the fetcher.
    StrayMessage(String),
}

/// Commits what was produced together with offsets, one transaction at a time.
pub(crate) trait Transactional<M>: Send + 'static {
    /// Begins a transaction; its end arrives at the receiver.
    fn begin(&self, transaction: Transaction<M>) -> oneshot::Receiver<Outcome>;

    /// Warns of a transaction that takes long. Returns what it waits for, if that must
    /// not be waited for any longer.
    fn watch(&self) -> Option<String>;
}
