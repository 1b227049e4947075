//! Partitions that are not read for a while, because too much of theirs is held
//! behind keys that are slow or fail. The others are read on.

use std::sync::Arc;

use prometheus::IntGauge;

use crate::kafka::Client;
use crate::partition::{Held, Partition};
use crate::rebalance::{put_back, warn_on_error};

/// Most messages that all partitions together may have held.
pub(crate) const MOST_MESSAGES: usize = 65_536;

/// The paused partitions.
pub(crate) struct Pauses {
    /// What all partitions together may have held.
    most: Held,
    metric: IntGauge,
    /// Those that something was read of, to be looked at.
    read: Vec<Arc<Partition>>,
    paused: Vec<Arc<Partition>>,
}

impl Pauses {
    /// None, and a gauge of their number. `most` is what all partitions together may
    /// have held, in bytes.
    pub(crate) fn new(most: usize, metric: IntGauge) -> Self {
        Self {
            most: Held {
                messages: MOST_MESSAGES,
                bytes: most,
            },
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

    /// Once too much is held in all, pauses those of the partitions read that have more
    /// than their share of it; `assigned` is the number of partitions that share. The
    /// others may go on up to theirs.
    ///
    /// librdkafka drops what it has fetched of a paused partition, so that is for keys
    /// that are stuck, and not for a run of one partition's messages.
    pub(crate) fn pause(&mut self, client: &impl Client, held: Held, assigned: usize) {
        if !held.exceeds(self.most) {
            self.read.clear();
            return;
        }
        let share = share(self.most, assigned);
        for partition in self.read.drain(..) {
            if partition.is_active() && partition.held().exceeds(share) && partition.pause() {
                tracing::debug!(
                    topic = partition.topic,
                    partition = partition.number,
                    "pausing a partition: too many messages wait for keys in work"
                );
                warn_on_error("pausing a partition", client.pause(&partition.name()));
                self.paused.push(partition);
                self.metric.inc();
            }
        }
    }

    /// Reads those on whose held messages have halved. Those that were given up are
    /// forgotten: librdkafka has no pause for them in their next assignment.
    pub(crate) fn resume(&mut self, client: &impl Client) {
        let resumed = self.paused.extract_if(.., |partition| {
            !partition.is_active() || partition.may_resume()
        });
        for partition in resumed {
            tracing::debug!(
                topic = partition.topic,
                partition = partition.number,
                "resuming a partition"
            );
            self.metric.dec();
            if partition.is_active() {
                put_back(client, std::iter::once(&partition));
                warn_on_error("resuming a partition", client.resume(&partition.name()));
            }
        }
    }
}

fn share(of: Held, partitions: usize) -> Held {
    let partitions = partitions.max(1);
    Held {
        messages: of.messages / partitions,
        bytes: of.bytes / partitions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_what_may_be_held() {
        let most = Held {
            messages: 800,
            bytes: 1600,
        };
        assert_eq!(share(most, 0), most);
        let eighth = share(most, 8);
        assert_eq!((eighth.messages, eighth.bytes), (100, 200));
    }
}
