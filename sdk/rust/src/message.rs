//! The message that a Rust handler receives.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::v1::{Batch, Delivery};

/// A message from Kafka, in one attempt.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The consumer group.
    pub group: Arc<str>,
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// The number of the partition's assignment to the runtime. Work for a partition with a
    /// lower epoch than its current one comes too late.
    pub epoch: u64,
    /// Offset.
    pub offset: i64,
    /// Milliseconds since the epoch, if the message has a time.
    pub timestamp_ms: Option<i64>,
    /// Key, if any.
    pub key: Option<Bytes>,
    /// Value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// The number of this attempt at the message, from 1.
    pub attempt: u32,
    /// The deadline of this attempt, which began right before the call.
    pub deadline: SystemTime,
}

impl Delivered {
    /// Returns a key that identifies the message: the same at every attempt and in every
    /// process.
    pub fn idempotency_key(&self) -> String {
        let Self {
            group,
            topic,
            partition,
            offset,
            ..
        } = self;
        format!("{group}/{topic}/{partition}/{offset}")
    }

    /// Creates the message from a waiting one of the batch. Its attempt begins now.
    pub(crate) fn of(head: &Head, waiting: Waiting, now: SystemTime) -> Self {
        let Waiting { run, delivery, .. } = waiting;
        let run = &head.runs[run];
        let headers = delivery.headers.into_iter();
        Self {
            group: Arc::clone(&head.group),
            topic: Arc::clone(&run.topic),
            partition: run.partition,
            epoch: run.epoch,
            offset: delivery.offset,
            timestamp_ms: delivery.timestamp_ms,
            key: delivery.key,
            value: delivery.value,
            headers: headers.map(|header| (header.name, header.value)).collect(),
            attempt: delivery.attempt,
            deadline: now + head.timeout,
        }
    }
}

/// The fields that the messages of a batch share.
pub(crate) struct Head {
    group: Arc<str>,
    /// The time limit of an attempt.
    timeout: Duration,
    begin_by: SystemTime,
    runs: Vec<RunHead>,
}

impl Head {
    /// Returns `true` if a message of the batch may still begin.
    pub(crate) fn may_begin(&self, now: SystemTime) -> bool {
        now <= self.begin_by
    }
}

struct RunHead {
    topic: Arc<str>,
    partition: i32,
    epoch: u64,
}

/// A message of a batch that waits for its lane. It becomes a [`Delivered`] only when it is
/// handled: that type is larger, and each step on the way would move it.
pub(crate) struct Waiting {
    /// The number of the delivery.
    pub(crate) id: u64,
    /// The index of its run in the batch.
    run: usize,
    delivery: Delivery,
}

impl Waiting {
    pub(crate) fn key(&self) -> Option<&Bytes> {
        self.delivery.key.as_ref()
    }
}

/// Splits a batch into its messages.
pub(crate) fn split(
    group: &Arc<str>,
    timeout: Duration,
    batch: Batch,
) -> (Head, impl Iterator<Item = Waiting> + use<>) {
    let begin_by_ms = u64::try_from(batch.begin_by_ms).unwrap_or(0);
    let apart = batch.runs.into_iter().map(|run| {
        let head = RunHead {
            topic: run.topic.into(),
            partition: run.partition,
            epoch: run.epoch,
        };
        (head, run.deliveries)
    });
    let (heads, runs): (Vec<_>, Vec<_>) = apart.unzip();
    let head = Head {
        group: Arc::clone(group),
        timeout,
        begin_by: UNIX_EPOCH + Duration::from_millis(begin_by_ms),
        runs: heads,
    };
    let deliveries = runs
        .into_iter()
        .enumerate()
        .flat_map(|(run, deliveries)| deliveries.into_iter().map(move |it| (run, it)));
    let waiting = (batch.first_id..)
        .zip(deliveries)
        .map(|(id, (run, delivery))| Waiting { id, run, delivery });
    (head, waiting)
}
