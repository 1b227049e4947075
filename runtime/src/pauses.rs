//! Partitions that are not read for a while, because too much of theirs is held
//! behind keys that are slow or fail. The others are read on.

use std::sync::Arc;

use prometheus::IntGauge;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::kafka::Consumer;
use crate::partition::{Held, Partition};

/// Most that all partitions together may have held. A read may go above it by one
/// read's messages.
const MOST: Held = Held {
    messages: 8_192,
    bytes: 16 * 1024 * 1024,
};

/// The paused partitions.
pub(crate) struct Pauses {
    metric: IntGauge,
    /// Those that something was read of, to be looked at.
    read: Vec<Arc<Partition>>,
    paused: Vec<Arc<Partition>>,
}

impl Pauses {
    /// None, and a gauge of their number.
    pub(crate) fn new(metric: IntGauge) -> Self {
        Self {
            metric,
            read: Vec::new(),
            paused: Vec::new(),
        }
    }

    /// Notes that a message of the partition was read.
    pub(crate) fn note(&mut self, partition: &Arc<Partition>) {
        let known = self.read.iter().rev().any(|it| Arc::ptr_eq(it, partition));
        if !known {
            self.read.push(Arc::clone(partition));
        }
    }

    /// Pauses those that something was read of and that have more than their share
    /// held; `assigned` is the number of partitions that share.
    pub(crate) fn pause(&mut self, consumer: &Consumer, assigned: usize) {
        let share = share_of(assigned);
        for partition in self.read.drain(..) {
            if partition.is_active() && partition.held().exceeds(share) && partition.pause() {
                let (topic, number) = (&partition.topic, partition.number);
                tracing::debug!("pausing {topic}/{number}: too much waits for keys in work");
                warn_on_error("pausing", consumer.pause(&list(&partition)));
                self.paused.push(partition);
                self.metric.inc();
            }
        }
    }

    /// Reads those on whose held messages have halved. Those that were given up are
    /// forgotten: librdkafka has no pause for them in their next assignment.
    pub(crate) fn resume(&mut self, consumer: &Consumer) {
        let resumed = self.paused.extract_if(.., |partition| {
            !partition.is_active() || partition.may_resume()
        });
        for partition in resumed {
            tracing::debug!("resuming {}/{}", partition.topic, partition.number);
            warn_on_error("resuming", consumer.resume(&list(&partition)));
            self.metric.dec();
        }
    }
}

fn share_of(assigned: usize) -> Held {
    let partitions = assigned.max(1);
    Held {
        messages: MOST.messages / partitions,
        bytes: MOST.bytes / partitions,
    }
}

fn list(partition: &Partition) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(&partition.topic, partition.number);
    list
}

fn warn_on_error(what: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::warn!("{what} a partition failed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_what_may_be_held() {
        assert_eq!(share_of(0), MOST);
        let share = share_of(8);
        assert_eq!((share.messages, share.bytes), (1024, 2 * 1024 * 1024));
    }
}
