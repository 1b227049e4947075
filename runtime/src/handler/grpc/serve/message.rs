//! A message as a handler in Rust sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::handler::grpc::v1::{Batch, Delivery};

/// One message of Kafka, given once.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The consumer group.
    pub group: Arc<str>,
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Counts the assignments of partitions to the runtime. What is done for a partition
    /// by a lower epoch than it had meanwhile is done too late.
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
    /// Which attempt at this message this is, from 1.
    pub attempt: u32,
    /// When the time for this attempt is over.
    pub deadline: SystemTime,
}

impl Delivered {
    /// Names the message for good: the same at every attempt, in whichever process.
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

    /// All messages of a batch, with their numbers.
    pub(super) fn all(group: &Arc<str>, batch: Batch) -> impl Iterator<Item = (u64, Self)> {
        let deadline_ms = u64::try_from(batch.deadline_ms).unwrap_or(0);
        let deadline = UNIX_EPOCH + Duration::from_millis(deadline_ms);
        let deliveries = batch.runs.into_iter().flat_map(move |run| {
            let topic: Arc<str> = run.topic.into();
            let (partition, epoch) = (run.partition, run.epoch);
            run.deliveries
                .into_iter()
                .map(move |delivery| Self::one(group, &topic, partition, epoch, deadline, delivery))
        });
        (batch.first_id..).zip(deliveries)
    }

    fn one(
        group: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
        epoch: u64,
        deadline: SystemTime,
        delivery: Delivery,
    ) -> Self {
        let headers = delivery.headers.into_iter();
        Self {
            group: Arc::clone(group),
            topic: Arc::clone(topic),
            partition,
            epoch,
            offset: delivery.offset,
            timestamp_ms: delivery.timestamp_ms,
            key: delivery.key,
            value: delivery.value,
            headers: headers.map(|header| (header.name, header.value)).collect(),
            attempt: delivery.attempt,
            deadline,
        }
    }
}
