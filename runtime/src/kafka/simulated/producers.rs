//! Producers at the brokers: appending, and transactions with their coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::broker::Cluster;
use super::group::{Committer, PendingOffsets, StoredOffset};
use super::log::TransactionNumber;
use super::settings::Produce;
use crate::kafka::seam::TopicPartition;

/// A transactional id.
#[derive(Debug, Default)]
pub(super) struct Producer {
    /// Requests of an earlier epoch are fenced.
    pub(super) epoch: u64,
    pub(super) open: Option<OpenTransaction>,
}

#[derive(Debug)]
pub(super) struct OpenTransaction {
    pub(super) number: TransactionNumber,
    partitions: BTreeSet<TopicPartition>,
    groups: BTreeSet<String>,
}

/// By which a producer is known.
#[derive(Debug, Clone)]
pub(super) struct ProducerIdentity {
    pub(super) id: String,
    pub(super) epoch: u64,
}

impl Cluster {
    /// Appends a record outside of any transaction. Returns its offset.
    pub(super) fn append(&mut self, partition: &TopicPartition, data: Produce) -> Option<i64> {
        let offset = self.log(partition)?.append(data, None);
        self.wake_fetches(partition);
        Some(offset)
    }

    /// Chooses the partition of a record: the given one, else by the key, else at random.
    pub(super) fn choose_partition(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
    ) -> Result<TopicPartition, RDKafkaErrorCode> {
        let counts = self.counts(&[topic.to_owned()]);
        let count = counts.get(topic).copied().filter(|count| *count > 0);
        let count = count.ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
        let chosen = match (partition, key) {
            (Some(partition), _) if partition >= count => {
                return Err(RDKafkaErrorCode::UnknownPartition);
            }
            (Some(partition), _) => partition,
            (None, Some(key)) => remainder(u64::from(crc32fast::hash(key)), count),
            (None, None) => {
                let number = self.number();
                remainder(number, count)
            }
        };
        Ok(TopicPartition {
            topic: topic.to_owned(),
            partition: chosen,
        })
    }

    /// `InitProducerId`: fences an earlier producer, and aborts what it left open.
    pub(super) fn init_producer(&mut self, id: &str) -> ProducerIdentity {
        let producer = self.producers.entry(id.to_owned()).or_default();
        producer.epoch += 1;
        let epoch = producer.epoch;
        self.end_open(id, false);
        self.note(format_args!("producer {id} begins epoch {epoch}"));
        ProducerIdentity {
            id: id.to_owned(),
            epoch,
        }
    }

    /// Returns the open transaction of a producer; begins one if there is none.
    fn open_transaction(
        &mut self,
        by: &ProducerIdentity,
        timeout: Duration,
    ) -> Result<&mut OpenTransaction, RDKafkaErrorCode> {
        let number = self.number();
        let producer = self.producers.get_mut(&by.id);
        let producer = producer.filter(|it| it.epoch == by.epoch);
        let producer = producer.ok_or(RDKafkaErrorCode::InvalidProducerEpoch)?;
        let is_new = producer.open.is_none();
        if is_new {
            let (id, epoch) = (by.id.clone(), by.epoch);
            producer.open = Some(OpenTransaction {
                number,
                partitions: BTreeSet::new(),
                groups: BTreeSet::new(),
            });
            self.after(timeout, move |cluster| cluster.expire(&id, epoch, number));
        }
        let producer = self.producers.get_mut(&by.id);
        let open = producer.and_then(|producer| producer.open.as_mut());
        open.ok_or(RDKafkaErrorCode::InvalidTransactionalState)
    }

    /// The coordinator ends a transaction that was open for too long, and fences its
    /// producer (KIP-447, `TransactionCoordinator.abortTimedOutTransactions`).
    fn expire(&mut self, id: &str, epoch: u64, number: TransactionNumber) {
        let Some(producer) = self.producers.get_mut(id) else {
            return;
        };
        let is_open = producer
            .open
            .as_ref()
            .is_some_and(|open| open.number == number);
        if producer.epoch == epoch && is_open {
            producer.epoch += 1;
            self.note(format_args!("producer {id}: a transaction timed out"));
            self.end_open(id, false);
        }
    }

    /// Appends a record to a producer's transaction.
    pub(super) fn produce_in_transaction(
        &mut self,
        by: &ProducerIdentity,
        timeout: Duration,
        partition: &TopicPartition,
        data: Produce,
    ) -> Result<i64, RDKafkaErrorCode> {
        if self.log(partition).is_none() {
            return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
        }
        let open = self.open_transaction(by, timeout)?;
        open.partitions.insert(partition.clone());
        let number = open.number;
        let log = self.log(partition);
        let log = log.ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
        let offset = log.append(data, Some(number));
        self.wake_fetches(partition);
        Ok(offset)
    }

    /// `TxnOffsetCommit`: the group's generation fences (KIP-447).
    pub(super) fn commit_in_transaction(
        &mut self,
        by: &ProducerIdentity,
        timeout: Duration,
        group: &str,
        committer: &Committer,
        offsets: Vec<(TopicPartition, StoredOffset)>,
    ) -> Result<(), RDKafkaErrorCode> {
        let open = self.open_transaction(by, timeout)?;
        open.groups.insert(group.to_owned());
        let number = open.number;
        self.validate_commit(group, committer, &offsets, true)?;
        let mut pending = BTreeMap::new();
        for (partition, stored) in offsets {
            pending.insert(partition, (stored, self.number()));
        }
        let group = self.groups.entry(group.to_owned()).or_default();
        let entry = group
            .pending
            .entry(number)
            .or_insert_with(|| PendingOffsets {
                committer: committer.clone(),
                offsets: BTreeMap::new(),
            });
        entry.offsets.extend(pending);
        Ok(())
    }

    /// `EndTxn`.
    pub(super) fn end_transaction(
        &mut self,
        by: &ProducerIdentity,
        commits: bool,
    ) -> Result<(), RDKafkaErrorCode> {
        let producer = self.producers.get(&by.id);
        let producer = producer.filter(|it| it.epoch == by.epoch);
        producer.ok_or(RDKafkaErrorCode::InvalidProducerEpoch)?;
        self.end_open(&by.id, commits);
        Ok(())
    }

    /// Writes the markers of whatever a producer has open.
    fn end_open(&mut self, id: &str, commits: bool) {
        let producer = self.producers.get_mut(id);
        let Some(open) = producer.and_then(|producer| producer.open.take()) else {
            return;
        };
        let end = if commits { "commits" } else { "aborts" };
        self.note(format_args!(
            "producer {id} {end} transaction {}",
            open.number
        ));
        for partition in &open.partitions {
            if let Some(log) = self.log(partition) {
                log.end_transaction(open.number, commits);
            }
            self.wake_fetches(partition);
        }
        for name in &open.groups {
            let group = self.groups.get_mut(name);
            let pending = group.and_then(|group| group.pending.remove(&open.number));
            let Some(pending) = pending.filter(|_| commits) else {
                continue;
            };
            for (partition, stored) in pending.offsets {
                self.store(name, &pending.committer, &partition, stored, true);
            }
        }
    }
}

fn remainder(number: u64, count: i32) -> i32 {
    let count = u64::from(count.unsigned_abs()).max(1);
    i32::try_from(number % count).unwrap_or(0)
}
