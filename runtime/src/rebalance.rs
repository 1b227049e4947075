//! Answers to the group: taking partitions on and giving them up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::{Consumer, TopicPartition};
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::strategy::Strategy;

/// Confirms an assignment: reading begins at the offsets of the list.
pub(crate) fn confirm(
    consumer: &Consumer,
    partitions: &[TopicPartition],
    list: &TopicPartitionList,
) {
    let confirmed = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        _ => consumer.assign(list),
    };
    warn_on_error("taking partitions on", confirmed);
    for TopicPartition { topic, partition } in partitions {
        tracing::info!("assigned {topic}/{partition}");
    }
}

/// Hands a partition's handled prefix to librdkafka, which commits it.
pub(crate) fn store(consumer: &Consumer, partition: &Partition) {
    let Some(offset) = partition.committable() else {
        return;
    };
    let mut offsets = TopicPartitionList::with_capacity(1);
    let stored = offsets
        .add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))
        .and_then(|()| consumer.store_offsets(&offsets));
    warn_on_error("storing an offset", stored);
}

/// Partitions that are being given up: no new messages of theirs are handed
/// out, and those in flight have until the limit.
pub(crate) struct Revocation {
    named: Vec<TopicPartition>,
    partitions: Vec<Arc<Partition>>,
    lost: bool,
    deadline: Instant,
}

impl Revocation {
    pub(crate) fn new(
        named: Vec<TopicPartition>,
        partitions: Vec<Arc<Partition>>,
        lost: bool,
        limit: Duration,
    ) -> Self {
        Self {
            named,
            partitions,
            lost,
            deadline: Instant::now() + limit,
        }
    }

    /// Whether nothing is in flight any more, or the limit has passed.
    pub(crate) fn is_due(&self) -> bool {
        let idle = self.partitions.iter().all(|p| p.in_flight() == 0);
        idle || Instant::now() >= self.deadline
    }

    /// Ends what is still in flight, commits what is handled and gives the
    /// partitions up.
    pub(crate) fn complete(self, consumer: &Consumer, strategy: Strategy, metrics: &Metrics) {
        // They may have been lost while the messages in flight were waited for.
        let lost = self.lost || consumer.assignment_lost();
        for partition in &self.partitions {
            partition.revoke();
            if strategy == Strategy::Handled && !lost {
                // Committed by librdkafka as part of the unassignment.
                store(consumer, partition);
            }
            metrics.forget_partition(&partition.topic, partition.number);
        }
        let given_up = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(&to_list(&self.named)),
            _ => consumer.unassign(),
        };
        warn_on_error("giving partitions up", given_up);
        crate::kafka::log_revoked(&self.named);
    }
}

/// The partitions in librdkafka's form, without offsets.
pub(crate) fn to_list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for TopicPartition { topic, partition } in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

fn warn_on_error(what: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::warn!("{what} failed: {error}");
    }
}
