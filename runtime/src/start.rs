//! Where reading begins in partitions that are taken on.
//!
//! Looked up here rather than by librdkafka, which has a defect (2.12): where it
//! must look up the beginning or the end of a partition, and the partition is given
//! away before the answer, the answer starts another look-up. That one ends when the
//! partition may be ours again, and sends its reading back to the beginning, or on
//! to the end past messages that nobody handled. Given a number to begin at, it has
//! nothing to look up.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::kafka::{Consumer, TopicPartition};
use crate::rebalance::to_list;

/// Longest time for one request. Without an answer librdkafka looks it up after all.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Partitions that are about to be taken on.
pub(crate) struct Joining {
    pub(crate) partitions: Vec<TopicPartition>,
    found: oneshot::Receiver<TopicPartitionList>,
}

impl Joining {
    /// Begins to look up where to begin; `wake` is notified of the end. `reset`
    /// says where a partition without a committed offset begins.
    pub(crate) fn start(
        consumer: &Arc<Consumer>,
        partitions: Vec<TopicPartition>,
        reset: Offset,
        wake: Arc<Notify>,
    ) -> Self {
        let consumer = Arc::clone(consumer);
        let names = to_list(&partitions);
        let (sender, found) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let offsets = offsets(&consumer, &names, reset).unwrap_or_else(|error| {
                tracing::warn!("looking up where to begin failed: {error}");
                names
            });
            // Before the pump is told: closing needs the only reference.
            drop(consumer);
            // Fails only when the pump is gone.
            let _ = sender.send(offsets);
            wake.notify_one();
        });
        Self { partitions, found }
    }

    /// Where to begin, once it is known.
    pub(crate) fn offsets(&mut self) -> Option<TopicPartitionList> {
        match self.found.try_recv() {
            Ok(offsets) => Some(offsets),
            Err(TryRecvError::Empty) => None,
            // It panicked: librdkafka looks it up after all.
            Err(TryRecvError::Closed) => Some(to_list(&self.partitions)),
        }
    }

    /// Waits until it is known where to begin.
    pub(crate) async fn finish(self) -> (Vec<TopicPartition>, TopicPartitionList) {
        let offsets = self.found.await;
        let offsets = offsets.unwrap_or_else(|_| to_list(&self.partitions));
        (self.partitions, offsets)
    }
}

/// The committed offsets, and the beginning or the end where there are none.
fn offsets(
    consumer: &Consumer,
    names: &TopicPartitionList,
    reset: Offset,
) -> KafkaResult<TopicPartitionList> {
    let mut found = consumer.committed_offsets(names.clone(), REQUEST_LIMIT)?;
    let mut missing = TopicPartitionList::new();
    for element in found.elements() {
        element.error()?;
        if element.offset() == Offset::Invalid {
            // Asked for by time, where the two ends have times of their own.
            missing.add_partition_offset(element.topic(), element.partition(), reset)?;
        }
    }
    if missing.count() == 0 || reset == Offset::Invalid {
        return Ok(found);
    }
    for element in consumer
        .offsets_for_times(missing, REQUEST_LIMIT)?
        .elements()
    {
        element.error()?;
        let (topic, partition) = (element.topic(), element.partition());
        found.set_partition_offset(topic, partition, element.offset())?;
    }
    Ok(found)
}
