//! Partitions that are paused because too many of their messages are held behind slow or
//! failing keys. Other partitions are still read.

use std::sync::Arc;

use prometheus::IntGauge;

use crate::group::partition::{Held, Partition};
use crate::group::rebalance::{put_back, warn_on_error};
use crate::kafka::Client;

/// The maximum number of messages that all partitions together may have held.
pub(crate) const MOST_MESSAGES: usize = 65_536;

/// The paused partitions.
pub(crate) struct Pauses {
    /// The maximum that all partitions together may have held.
    most: Held,
    metric: IntGauge,
    /// The partitions with read messages, which are to be checked.
    read: Vec<Arc<Partition>>,
    paused: Vec<Arc<Partition>>,
}

impl Pauses {
    /// Creates the pauses, with a gauge of their number. `most` is the maximum that all
    /// partitions together may have held, in bytes.
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

    /// If too many messages are held in total, pauses those of the read partitions that have
    /// more than their share; `assigned` is the number of partitions that share. The others may
    /// continue up to their share.
    ///
    /// librdkafka discards the fetched messages of a paused partition, so this is for stuck
    /// keys, and not for a run of one partition's messages.
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
                let name = partition.name();
                warn_on_error("pausing a partition", [&name], client.pause(&name));
                self.paused.push(partition);
                self.metric.inc();
            }
        }
    }

    /// Resumes partitions whose held messages have halved. Revoked partitions are forgotten:
    /// librdkafka does not pause them in their next assignment.
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
                let name = partition.name();
                warn_on_error("resuming a partition", [&name], client.resume(&name));
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
