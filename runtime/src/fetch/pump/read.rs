//! Reads messages, ends of partitions and errors from Kafka.

use std::sync::Arc;

use super::Pump;
use super::positions::report_departure;
use crate::commit::commits::entry;
use crate::group::partition::Partition;
use crate::kafka::{Client, FetchError, Fetched, Fetcher as _, judge_fetch};
use crate::process::worker::{Delivery, Job, arrive};
use crate::program::telemetry::SPANS;
use crate::queue::Queued as _;

impl<C: Client> Pump<C> {
    /// Reads available messages, up to the size of a read, and notes them with their
    /// partitions. Returns the number of messages and reports.
    pub(super) fn read(&mut self) -> usize {
        let _consume = tracing::info_span!(target: SPANS, "kafka.consume").entered();
        let Self {
            messages,
            assignment,
            pending,
            recovery,
            pauses,
            parts,
            read_size,
            fetch_errors,
            ..
        } = self;
        // Noted once the messages before them have arrived.
        let (mut ends, mut refused, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let metrics = &parts.metrics;
        let mut stored: Vec<(Arc<Partition>, i64)> = Vec::new();
        let read = messages.read(
            read_size.messages(),
            |handle, topic| assignment.owner(handle, topic),
            |fetched| match fetched {
                Fetched::Record(record) => {
                    let partition = record.assignment();
                    let departure = partition.note_epoch(record.offset(), record.leader_epoch());
                    departure.inspect(|it| report_departure(metrics, partition, it));
                    partition.set_displaced(false);
                    recovery.note_arrival(partition);
                    if parts.stores {
                        let next = record.offset() + 1;
                        match stored.last_mut() {
                            Some((last, offset)) if Arc::ptr_eq(last, partition) => *offset = next,
                            _ => stored.push((Arc::clone(partition), next)),
                        }
                    }
                    let lane = parts.lanes.as_ref().and_then(|lanes| {
                        pauses.note(partition);
                        Some(lanes.find(&partition.topic, partition.number, record.key()?))
                    });
                    pending.push_back(Delivery::Message(Job::new(record, lane)));
                }
                Fetched::End(partition, end) => {
                    partition.set_displaced(true);
                    recovery.note_arrival(&partition);
                    let position = partition.read_position();
                    if parts.stores && position.is_none_or(|next| next <= end) {
                        stored.push((Arc::clone(&partition), end));
                    }
                    ends.push((partition, end));
                }
                Fetched::OutOfRange(partition, range) => refused.push((partition, range)),
                Fetched::Error(error) => match judge_fetch(error.code) {
                    FetchError::End => {}
                    FetchError::Retried => {
                        parts.metrics.count_fetch_error(error.code);
                        fetch_errors.note(&error.topic, error.code, &error.text);
                        failed.push(error);
                    }
                    FetchError::Fatal => pending.push_back(Delivery::Error(error)),
                },
            },
        );
        arrive(pending);
        for (partition, end) in ends {
            partition.reach(end);
        }
        for (partition, range) in refused {
            recovery.note(partition, range);
        }
        for error in failed {
            let partition = error
                .partition
                .and_then(|it| assignment.get(&error.topic, it));
            partition.inspect(|partition| partition.set_displaced(true));
        }
        store(&*parts.client, &stored);
        if let Some(newest) = pending.back() {
            read_size.note(newest.weight());
        }
        read
    }
}

/// Stores the offsets after the messages that were read, for the client to commit.
fn store(client: &impl Client, read: &[(Arc<Partition>, i64)]) {
    for (partition, offset) in read {
        let point = partition.point_at(*offset);
        if let Err(reason) = client.store(entry(partition, &point)) {
            // The partition was just revoked, and its next owner begins before this offset.
            tracing::debug!(
                topic = partition.topic,
                partition = partition.number,
                offset,
                error = %reason,
                "the offset could not be stored"
            );
        }
    }
}
