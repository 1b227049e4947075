//! A Kafka in memory, for simulations: one seed decides everything that happens.
//!
//! The cluster and its clients run on Tokio's clock, in one thread and with paused time.
//! Brokers answer as Apache Kafka does, clients behave as librdkafka 2.12 does; comments
//! name the places that the model follows.

#![cfg_attr(
    not(test),
    allow(dead_code, reason = "scenarios use a part of what the cluster can do")
)]

mod administrator;
mod assignment;
mod assignor;
mod broker;
mod classic;
mod client;
mod commits;
mod consumer_group;
mod consumer_member;
mod fetch;
mod fetcher;
mod group;
mod letters;
mod log;
mod membership;
mod producers;
mod protocol;
mod session;
mod settings;
mod tenures;
mod transactions;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::broker::Cluster;
pub(crate) use self::client::{Membership, SimulatedClient};
pub(crate) use self::group::AppliedCommit;
use self::letters::SimulatedLetters;
pub(crate) use self::log::StoredRecord;
use self::log::Topic;
pub(crate) use self::settings::{
    Cleanup, Fault, GroupProtocol, Isolation, KafkaSettings, MemberSettings, Produce, TopicKind,
};
pub(crate) use self::tenures::Tenure;
use self::transactions::SimulatedTransactions;
use super::seam::{TopicId, TopicPartition, Transactional};
use crate::process::dead_letter::LetterSink;

/// A simulated cluster, and whatever an administrator or a third-party producer does.
#[derive(Clone)]
pub(crate) struct Kafka {
    cluster: Arc<Mutex<Cluster>>,
}

impl Kafka {
    /// Creates a cluster without topics. Must be called within a Tokio runtime.
    pub(crate) fn new(seed: u64, settings: KafkaSettings) -> Self {
        Self {
            cluster: Cluster::start(seed, settings),
        }
    }

    // Topics.

    pub(crate) fn create_topic(&self, name: &str, partitions: i32, kind: TopicKind) {
        let mut cluster = self.cluster.lock();
        let id = cluster.number();
        let topic = Topic::new(id, to_count(partitions), kind);
        cluster.topics.insert(name.to_owned(), topic);
    }

    /// Appends a record. Returns its offset.
    ///
    /// # Panics
    ///
    /// Panics if there is no such partition.
    pub(crate) fn produce(&self, topic: &str, partition: i32, record: Produce) -> i64 {
        let mut cluster = self.cluster.lock();
        let offset = cluster.append(&named(topic, partition), record);
        known(offset, topic, partition)
    }

    /// Appends records of a transaction that is aborted, and its marker. Returns their
    /// offsets.
    pub(crate) fn produce_aborted(&self, topic: &str, partition: i32, count: usize) -> Range<i64> {
        self.appended(topic, partition, |log, number| {
            for index in 0..count {
                let record = Produce {
                    value: Some(format!("aborted {index}").into_bytes()),
                    ..Produce::default()
                };
                log.append(record, Some(number));
            }
            log.end_transaction(number, false);
        })
    }

    /// Appends a control marker, as a transaction leaves one at a partition. Returns its
    /// offset.
    pub(crate) fn put_control(&self, topic: &str, partition: i32) -> i64 {
        self.appended(topic, partition, log::Log::push_marker).start
    }

    /// Changes a log, and returns the offsets that were added.
    fn appended(
        &self,
        topic: &str,
        partition: i32,
        change: impl FnOnce(&mut log::Log, u64),
    ) -> Range<i64> {
        let mut added = 0..0;
        self.change(topic, partition, |log, number| {
            let start = log.end;
            change(log, number);
            added = start..log.end;
        });
        added
    }

    /// Removes the entries of a compacted topic that are not kept.
    pub(crate) fn compact(&self, topic: &str, partition: i32, keep: impl Fn(i64) -> bool) {
        let kind = self
            .cluster
            .lock()
            .topics
            .get(topic)
            .map(|topic| topic.kind);
        let kind = kind.unwrap_or_default();
        assert_eq!(kind.cleanup, Cleanup::Compact, "{topic} is not compacted");
        self.change(topic, partition, |log, _| log.compact(keep));
    }

    /// Deletes the records before an offset.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        self.change(topic, partition, |log, _| log.delete_before(before));
    }

    /// Another replica becomes the leader that lacks the records from an offset on.
    pub(crate) fn truncate(&self, topic: &str, partition: i32, to: i64) {
        self.change(topic, partition, |log, _| log.truncate(to));
    }

    /// Another replica becomes the leader.
    pub(crate) fn move_leader(&self, topic: &str, partition: i32) {
        let election = self.cluster.lock().settings.leader_election;
        self.change(topic, partition, |log, _| {
            log.leaderless_until = Some(Instant::now() + election);
            log.elect();
        });
    }

    /// Adds partitions up to a number.
    pub(crate) fn add_partitions(&self, topic: &str, to: i32) {
        let mut cluster = self.cluster.lock();
        if let Some(known) = cluster.topics.get_mut(topic) {
            known.grow(to_count(to));
        }
        cluster.note(format_args!("{topic} has {to} partitions"));
        cluster.announce_change(topic);
    }

    /// Deletes a topic and creates another of the same name, whose id it returns. Groups lose
    /// their offsets.
    pub(crate) fn recreate(&self, topic: &str, partitions: i32) -> TopicId {
        let id = self.cluster.lock().recreate(topic, to_count(partitions));
        TopicId(id.into())
    }

    fn change(&self, topic: &str, partition: i32, change: impl FnOnce(&mut log::Log, u64)) {
        let mut cluster = self.cluster.lock();
        let number = cluster.number();
        let name = named(topic, partition);
        let changed = cluster.log(&name).map(|log| {
            change(log, number);
            (log.start, log.end, log.epoch)
        });
        let (start, end, epoch) = known(changed, topic, partition);
        cluster.note(format_args!(
            "{name} is from {start} to {end}, epoch {epoch}"
        ));
        cluster.wake_fetches(&name);
    }

    // Groups.

    /// The coordinator of a group moves to another broker.
    pub(crate) fn move_coordinator(&self, group: &str) {
        self.cluster.lock().move_coordinator(group);
    }

    /// Sets a committed offset, as an administrator does to a group without members.
    ///
    /// # Panics
    ///
    /// Panics if the group has members.
    pub(crate) fn reset_offsets(&self, group: &str, topic: &str, partition: i32, to: i64) {
        self.cluster
            .lock()
            .reset_offset(group, &named(topic, partition), to);
    }

    /// Returns `true` if the group has no members.
    pub(crate) fn is_empty(&self, group: &str) -> bool {
        let cluster = self.cluster.lock();
        cluster.groups.get(group).is_none_or(group::Group::is_empty)
    }

    /// Creates a member of a group, which joins by itself. `wake` is notified whenever it
    /// has events.
    pub(crate) fn member(
        &self,
        group: &str,
        settings: MemberSettings,
        wake: Arc<Notify>,
    ) -> Arc<SimulatedClient> {
        SimulatedClient::start(&self.cluster, group, settings, wake)
    }

    // Producers.

    /// Begins, or continues, a third party's transaction with a record at a partition.
    /// Returns the record's offset.
    pub(crate) fn produce_foreign(&self, topic: &str, partition: i32, record: Produce) -> i64 {
        let mut cluster = self.cluster.lock();
        cluster.produce_foreign(&named(topic, partition), record)
    }

    /// Ends the third party's transaction.
    pub(crate) fn end_foreign_transaction(&self, commit: bool) {
        self.cluster.lock().end_foreign_transaction(commit);
    }

    /// Creates the transactional producer of a client's process. An earlier one with the
    /// same id is fenced, and what it left open is aborted. `wake` is notified of each end
    /// of a transaction.
    pub(crate) fn transactional(
        &self,
        id: &str,
        process: &SimulatedClient,
        timeout: Duration,
        wake: Arc<Notify>,
    ) -> Box<dyn Transactional<Membership>> {
        let client = process.id();
        let started = SimulatedTransactions::start(&self.cluster, client, id, timeout, wake);
        Box::new(started)
    }

    /// Creates a dead-letter producer.
    pub(crate) fn letters(&self) -> impl LetterSink + use<> {
        SimulatedLetters::new(Arc::clone(&self.cluster))
    }

    // Faults, and what has come of them.

    /// Plans a fault.
    pub(crate) fn fail(&self, next: Fault) {
        self.cluster.lock().fail(next);
    }

    /// Ends all faults, planned and present.
    pub(crate) fn end_faults(&self) {
        self.cluster.lock().forget_faults();
    }

    /// Returns the committed offset and metadata of each partition.
    pub(crate) fn committed(&self, group: &str) -> BTreeMap<(String, i32), (i64, String)> {
        let cluster = self.cluster.lock();
        let Some(group) = cluster.groups.get(group) else {
            return BTreeMap::new();
        };
        let offsets = group.offsets.iter().map(|(partition, (stored, _))| {
            let name = (partition.topic.clone(), partition.partition);
            (name, (stored.offset, stored.metadata.clone()))
        });
        offsets.collect()
    }

    /// Returns all commits that were applied, in their order.
    pub(crate) fn commit_log(&self, group: &str) -> Vec<AppliedCommit> {
        let cluster = self.cluster.lock();
        let group = cluster.groups.get(group);
        group.map(|group| group.applied.clone()).unwrap_or_default()
    }

    /// Returns when the coordinator refused a commit by its own rules, and of which client.
    pub(crate) fn refused_commits(&self, group: &str) -> Vec<(Duration, u64)> {
        let cluster = self.cluster.lock();
        let group = cluster.groups.get(group);
        group.map(|group| group.refused.clone()).unwrap_or_default()
    }

    /// Returns which client had which partition, in the order of the beginnings.
    pub(crate) fn tenures(&self, group: &str) -> Vec<Tenure> {
        let cluster = self.cluster.lock();
        let group = cluster.groups.get(group);
        group.map(|group| group.tenures.clone()).unwrap_or_default()
    }

    /// Returns what a reader of committed messages finds in a topic.
    pub(crate) fn visible(&self, topic: &str) -> Vec<StoredRecord> {
        let records = self.logs(topic, |number, log| {
            log.visible(number, Isolation::ReadCommitted)
        });
        records.into_iter().flatten().collect()
    }

    /// Returns the end of each partition.
    pub(crate) fn ends(&self, topic: &str) -> Vec<i64> {
        self.logs(topic, |_, log| log.end)
    }

    /// Returns the offsets of a partition's log that compaction has left.
    #[cfg(feature = "simulation")]
    pub(crate) fn offsets(&self, topic: &str, partition: i32) -> Vec<i64> {
        let name = named(topic, partition);
        let mut cluster = self.cluster.lock();
        let offsets = cluster.log(&name).map(|log| log.offsets());
        known(offsets, topic, partition)
    }

    /// Returns the log start of each partition.
    pub(crate) fn log_starts(&self, topic: &str) -> Vec<i64> {
        self.logs(topic, |_, log| log.start)
    }

    fn logs<T>(&self, topic: &str, see: impl Fn(i32, &log::Log) -> T) -> Vec<T> {
        let cluster = self.cluster.lock();
        let logs = cluster.topics.get(topic).map(|topic| &topic.partitions);
        let logs = logs.into_iter().flatten();
        (0..)
            .zip(logs)
            .map(|(number, log)| see(number, log))
            .collect()
    }

    /// Returns everything that happened, a line each, with the time in milliseconds.
    pub(crate) fn events(&self) -> Vec<String> {
        self.cluster.lock().events()
    }
}

fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

fn to_count(partitions: i32) -> usize {
    usize::try_from(partitions).unwrap_or(0)
}

#[track_caller]
fn known<T>(found: Option<T>, topic: &str, partition: i32) -> T {
    let Some(found) = found else {
        panic!("there is no partition {topic}/{partition}");
    };
    found
}
