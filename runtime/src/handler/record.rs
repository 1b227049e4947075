//! Messages from Kafka, and the view of their handlers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::group::partition::Partition;
use crate::kafka::NativeMessage;

/// The memory that librdkafka and Penstock use for a message besides its bytes.
const OVERHEAD: usize = 256;

/// The position of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            partition,
            offset,
        } = self;
        write!(f, "topic {topic} partition {partition} offset {offset}")
    }
}

/// A message from Kafka. Its bytes stay in the memory of the Kafka client; none are copied.
pub struct Record(Source);

enum Source {
    Native(NativeMessage<Arc<Partition>>),
    /// Boxed, as only tests have it: a record is moved several times. The number is its leader
    /// epoch, if known.
    Owned(Box<(OwnedRecord, Arc<Partition>, Option<i32>)>),
}

/// The parts of a message, to create a [`Record`] without Kafka in a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Key, if any.
    pub key: Option<Vec<u8>>,
    /// Value; none is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
    /// Headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    pub(crate) fn native(message: NativeMessage<Arc<Partition>>) -> Self {
        Self(Source::Native(message))
    }

    pub(crate) fn owned(record: OwnedRecord, partition: Arc<Partition>) -> Self {
        Self(Source::Owned(Box::new((record, partition, None))))
    }

    /// Creates the record with a leader epoch.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn owned_by_leader(
        record: OwnedRecord,
        partition: Arc<Partition>,
        leader_epoch: i32,
    ) -> Self {
        Self(Source::Owned(Box::new((
            record,
            partition,
            Some(leader_epoch),
        ))))
    }

    pub(crate) fn assignment(&self) -> &Arc<Partition> {
        match &self.0 {
            Source::Native(message) => message.keeper(),
            Source::Owned(owned) => &owned.1,
        }
    }

    /// Returns `true` if both messages came with the same assignment of the same partition.
    pub(crate) fn is_assigned_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.assignment(), other.assignment())
    }

    /// Returns `true` if an attempt may begin: the partition neither drains nor is revoked.
    pub(crate) fn may_begin(&self) -> bool {
        self.assignment().may_begin()
    }

    /// Completes when the partition drains.
    pub(crate) async fn when_draining(&self) {
        self.assignment().when_draining().await;
    }

    /// Completes when the partition is revoked.
    pub(crate) async fn when_revoked(&self) {
        self.assignment().when_revoked().await;
    }

    /// Returns the topic.
    pub fn topic(&self) -> &str {
        &self.assignment().topic
    }

    /// Returns the number of the partition.
    pub fn partition(&self) -> i32 {
        self.assignment().number
    }

    /// Returns topic, partition and offset.
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic().to_owned(),
            partition: self.partition(),
            offset: self.offset(),
        }
    }

    /// Returns the offset.
    pub fn offset(&self) -> i64 {
        match &self.0 {
            Source::Native(message) => message.offset(),
            Source::Owned(owned) => owned.0.offset,
        }
    }

    /// Returns the key, if there is one.
    pub fn key(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Native(message) => message.key(),
            Source::Owned(owned) => owned.0.key.as_deref(),
        }
    }

    /// Returns the value; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Native(message) => message.payload(),
            Source::Owned(owned) => owned.0.payload.as_deref(),
        }
    }

    /// Returns the message's time in milliseconds since the epoch, if it has one.
    pub fn timestamp(&self) -> Option<i64> {
        match &self.0 {
            Source::Native(message) => message.timestamp(),
            Source::Owned(owned) => owned.0.timestamp,
        }
    }

    /// Returns the leader epoch with which the message was written, if the brokers report it.
    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        match &self.0 {
            Source::Native(message) => message.leader_epoch(),
            Source::Owned(owned) => owned.2,
        }
    }

    /// Returns the headers in their order; a value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        (0..).map_while(|index| match &self.0 {
            Source::Native(message) => message.header(index),
            Source::Owned(owned) => owned
                .0
                .headers
                .get(index)
                .map(|(name, value)| (name.as_str(), value.as_deref())),
        })
    }

    /// Returns the bytes that the message holds in memory.
    pub(crate) fn weight(&self) -> usize {
        OVERHEAD + self.key().map_or(0, <[u8]>::len) + self.payload().map_or(0, <[u8]>::len)
    }

    /// Returns the number of the partition's assignment to this process. Work with a lower
    /// epoch than the partition's current one comes too late.
    pub fn epoch(&self) -> u64 {
        self.assignment().epoch
    }
}

impl From<OwnedRecord> for Record {
    /// Creates a record without a consumer, for tests of handlers and decoders.
    fn from(record: OwnedRecord) -> Self {
        let partition = Partition::unassigned(&record.topic, record.partition);
        Self::owned(record, Arc::new(partition))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic(), self.partition(), self.offset())
    }
}

/// A message for a handler: the record, its decoded value, and the number of the attempt.
#[derive(Debug)]
pub struct Message<'a, T> {
    pub(crate) record: &'a Record,
    pub(crate) data: &'a T,
    pub(crate) attempt: u32,
}

impl<'a, T> Message<'a, T> {
    /// Creates a message, for tests of handlers.
    pub fn new(record: &'a Record, data: &'a T, attempt: u32) -> Self {
        Self {
            record,
            data,
            attempt,
        }
    }

    /// Returns the decoded value.
    pub fn data(&self) -> &'a T {
        self.data
    }

    /// Returns the number of this attempt at the message, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl<T> Deref for Message<'_, T> {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.record
    }
}
