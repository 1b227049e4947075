//! A client for tests that answers look-ups from a script, and notes its calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;

use super::seam::*;
use crate::group::partition::Partition;
use crate::handler::record::{OwnedRecord, Record};

/// The client. Everything is set by the test.
#[derive(Default)]
pub(crate) struct Scripted {
    pub(crate) generation: Option<i32>,
    pub(crate) partitions: i32,
    pub(crate) committed: Mutex<BTreeMap<TopicPartition, i64>>,
    /// The metadata of the committed offsets, where there is any.
    pub(crate) metadata: Mutex<BTreeMap<TopicPartition, String>>,
    /// The start and the end of each log; look-ups of others fail.
    pub(crate) logs: Mutex<BTreeMap<TopicPartition, (i64, i64)>>,
    pub(crate) ids: Mutex<Vec<(String, TopicId)>>,
    pub(crate) look_ups: Mutex<usize>,
    pub(crate) fetched: Mutex<VecDeque<(TopicPartition, Fetch)>>,
    pub(crate) events: Mutex<VecDeque<Event>>,
    /// Commits are answered only by [`Self::answer`].
    pub(crate) is_slow: AtomicBool,
    pub(crate) unanswered: Mutex<Vec<CommitOutcome>>,
    /// The commits that were sent, and where partitions were restarted.
    pub(crate) commits: Mutex<Vec<(i64, Option<i32>)>>,
    pub(crate) stored: Mutex<Vec<(i64, String)>>,
    pub(crate) restarts: Mutex<Vec<StartOffset>>,
    pub(crate) seeks: Mutex<Vec<StartOffset>>,
}

/// A read from a partition.
pub(crate) enum Fetch {
    Message(i64),
    /// A message, and the epoch of the leader that wrote it.
    Written(i64, i32),
    End(i64),
    OutOfRange(OutOfRange),
}

/// A client with the test's script.
pub(crate) struct Script(Arc<Scripted>);

impl Fetcher for Script {
    fn attach(&mut self, _: &Partition) {}

    fn read(
        &mut self,
        most: usize,
        mut owner: impl FnMut(PartitionHandle, &dyn Fn() -> String) -> Option<Arc<Partition>>,
        mut sink: impl FnMut(Fetched),
    ) -> usize {
        let mut fetched = self.0.fetched.lock();
        let count = fetched.len().min(most);
        for (TopicPartition { topic, partition }, fetch) in fetched.drain(..count) {
            let handle = PartitionHandle {
                topic: topic.len(),
                partition,
            };
            let Some(owner) = owner(handle, &|| topic.clone()) else {
                continue;
            };
            sink(match fetch {
                Fetch::Message(offset) => {
                    Fetched::Record(Record::owned(record(topic, partition, offset), owner))
                }
                Fetch::Written(offset, epoch) => {
                    let record = record(topic, partition, offset);
                    Fetched::Record(Record::owned_by_leader(record, owner, epoch))
                }
                Fetch::End(end) => Fetched::End(owner, end),
                Fetch::OutOfRange(refused) => Fetched::OutOfRange(owner, refused),
            });
        }
        count
    }
}

fn record(topic: String, partition: i32, offset: i64) -> OwnedRecord {
    OwnedRecord {
        topic,
        partition,
        offset,
        ..OwnedRecord::default()
    }
}

/// Returns a partition's name.
pub(crate) fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

impl Scripted {
    /// Lets the brokers accept the commits that were sent.
    pub(crate) fn answer(&self) {
        let outcomes = std::mem::take(&mut *self.unanswered.lock());
        self.events.lock().push_back(Event::Commit(outcomes));
    }

    /// Lets the brokers refuse the commits that were sent.
    pub(crate) fn refuse(&self, code: RDKafkaErrorCode) {
        for outcome in &mut *self.unanswered.lock() {
            outcome.result = Err(code);
        }
        self.answer();
    }
}

impl Client for Scripted {
    type Fetcher = Script;
    type Membership = ();

    fn fetcher(self: &Arc<Self>, _: impl Fn() + Send + Sync + 'static) -> Script {
        Script(Arc::clone(self))
    }

    fn take_announcement(&self) -> bool {
        !self.events.lock().is_empty()
    }

    fn poll(&self, _: Duration) -> Polled {
        Polled::default()
    }

    fn next_event(&self) -> Option<Event> {
        self.events.lock().pop_front()
    }

    fn answer_by_itself(&self) {}

    fn assign(&self, _: &[StartOffset]) -> Result<(), String> {
        Ok(())
    }

    fn unassign(&self, _: &[TopicPartition]) -> Result<(), String> {
        Ok(())
    }

    fn is_assignment_lost(&self) -> bool {
        false
    }

    fn seek(&self, to: &StartOffset) -> Result<(), String> {
        self.seeks.lock().push(to.clone());
        Ok(())
    }

    fn restart(&self, to: &[StartOffset], _: &[StartOffset]) -> Result<(), String> {
        self.restarts.lock().extend_from_slice(to);
        Ok(())
    }

    fn pause(&self, _: &TopicPartition) -> Result<(), String> {
        Ok(())
    }

    fn resume(&self, _: &TopicPartition) -> Result<(), String> {
        Ok(())
    }

    fn store(&self, entry: CommitEntry<'_>) -> Result<(), String> {
        let stored = (entry.offset, entry.metadata.to_owned());
        self.stored.lock().push(stored);
        Ok(())
    }

    fn commit(&self, entry: CommitEntry<'_>) -> Result<(), RDKafkaErrorCode> {
        let outcome = CommitOutcome {
            topic: entry.topic.to_owned(),
            partition: entry.partition,
            offset: Some(entry.offset),
            metadata: entry.metadata.to_owned(),
            result: Ok(()),
        };
        self.commits.lock().push((entry.offset, entry.leader_epoch));
        let name = named(entry.topic, entry.partition);
        self.metadata.lock().insert(name, entry.metadata.to_owned());
        self.unanswered.lock().push(outcome);
        if !self.is_slow.load(Ordering::Relaxed) {
            self.answer();
        }
        Ok(())
    }

    fn high_watermark(&self, _: &Partition) -> Option<i64> {
        None
    }

    fn generation(&self) -> Option<i32> {
        self.generation
    }

    fn membership(&self) -> Option<()> {
        Some(())
    }

    async fn committed(
        self: &Arc<Self>,
        partitions: Vec<TopicPartition>,
        _: Duration,
    ) -> Result<Vec<Committed>, LookUpError> {
        let (known, texts) = (self.committed.lock(), self.metadata.lock());
        let found = partitions.into_iter().map(|partition| Committed {
            offset: known.get(&partition).copied(),
            leader_epoch: None,
            metadata: texts.get(&partition).cloned().unwrap_or_default().into(),
            partition,
        });
        Ok(found.collect())
    }

    async fn edges(
        self: &Arc<Self>,
        wanted: Vec<(TopicPartition, Edge)>,
        _: Duration,
    ) -> Result<FoundEdges, LookUpError> {
        *self.look_ups.lock() += 1;
        let logs = self.logs.lock();
        let found = wanted.into_iter().map(|(partition, edge)| {
            let log = logs
                .get(&partition)
                .ok_or(RDKafkaErrorCode::LeaderNotAvailable);
            let offset = log.map(|(start, end)| match edge {
                Edge::Start => *start,
                Edge::End => *end,
            });
            (partition, offset)
        });
        Ok(found.collect())
    }

    async fn partition_count(self: &Arc<Self>, _: String, _: Duration) -> Result<i32, LookUpError> {
        Ok(self.partitions)
    }

    async fn topic_ids(
        self: &Arc<Self>,
        _: Vec<String>,
        _: Duration,
    ) -> Result<Vec<(String, TopicId)>, LookUpError> {
        Ok(self.ids.lock().clone())
    }

    async fn leave(self: Arc<Self>) {}
}
