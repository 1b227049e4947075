//! The offset to which the group goes back when a consumer with `commit: Read` ends with an
//! error.
//!
//! librdkafka commits read messages, periodically and once more when the client closes. With
//! [`Strategy::Read`] the committed offset may therefore be past the message that ended the
//! consumer, and past other messages that were read and not settled. Before the client closes,
//! each partition with unsettled messages is rewound: the group's offset goes back to the
//! lowest of them. This is the only place where a committed offset falls.

use std::sync::Arc;

use crate::commit::strategy::Strategy;
use crate::group::partition::Partition;

/// A partition whose committed offset must be set before the client closes.
pub(crate) struct Rewind {
    pub(crate) partition: Arc<Partition>,
    /// The lowest unsettled offset, from which the group continues.
    pub(crate) offset: i64,
}

/// Returns the rewinds of a consumer that ends with an error, in the order of the partitions'
/// names. There are none if only settled messages are committed anyway, nor for revoked
/// partitions, which have other owners.
pub(crate) fn rewinds<'a>(
    partitions: impl IntoIterator<Item = &'a Arc<Partition>>,
    strategy: Strategy,
) -> Vec<Rewind> {
    if strategy.redelivers() {
        return Vec::new();
    }
    let kept = partitions.into_iter().filter(|it| !it.is_revoked());
    let mut rewinds: Vec<_> = kept
        .filter_map(|partition| {
            Some(Rewind {
                offset: partition.lowest_unsettled()?,
                partition: Arc::clone(partition),
            })
        })
        .collect();
    rewinds.sort_unstable_by(|one, other| one.name().cmp(&other.name()));
    rewinds
}

impl Rewind {
    fn name(&self) -> (&str, i32) {
        (&self.partition.topic, self.partition.number)
    }

    /// Logs that the group goes back.
    pub(crate) fn log(&self) {
        tracing::info!(
            topic = self.partition.topic,
            partition = self.partition.number,
            offset = self.offset,
            "the group goes back to the first message that was read but not handled; later messages come again"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::observe::metrics::Metrics;

    /// A partition of which four messages were read, from offset 5 on.
    fn partition(number: i32) -> Arc<Partition> {
        let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
        let partition = Partition::new("orders", number, 1, &metrics, Arc::default(), None);
        let mut failed = [0; 4];
        let messages = (5..).zip(&mut failed);
        partition.deliver(messages.map(|(offset, failed)| (offset, None, failed)));
        Arc::new(partition)
    }

    fn offsets(partitions: &[Arc<Partition>], strategy: Strategy) -> Vec<(i32, i64)> {
        let rewinds = rewinds(partitions, strategy);
        rewinds.iter().for_each(Rewind::log);
        let offsets = rewinds.iter();
        offsets.map(|it| (it.partition.number, it.offset)).collect()
    }

    #[test]
    fn a_partition_goes_back_to_the_message_that_ended_the_consumer() {
        let failed = partition(0);
        failed.settle(iter::once(5..6));
        failed.abandon(6);
        failed.settle(iter::once(7..9));
        assert_eq!(offsets(&[failed], Strategy::Read), [(0, 6)]);
    }

    #[test]
    fn a_partition_goes_back_to_what_was_queued_and_not_begun() {
        let queued = partition(0);
        queued.settle(iter::once(5..7));
        let settled = partition(1);
        settled.settle(iter::once(5..9));
        let failed = partition(2);
        failed.abandon(5);
        assert_eq!(
            offsets(&[failed, settled, queued], Strategy::Read),
            [(0, 7), (2, 5)],
            "a settled partition keeps its offset"
        );
    }

    #[test]
    fn only_where_reading_commits_and_the_partition_is_kept_does_it_go_back() {
        for strategy in [
            Strategy::Handled,
            Strategy::Transaction,
            Strategy::EachMessage,
        ] {
            assert!(offsets(&[partition(0)], strategy).is_empty());
        }
        let revoked = partition(0);
        revoked.revoke();
        assert!(offsets(&[revoked], Strategy::Read).is_empty());
    }
}
