//! A small consumer for the tests of the model: it answers the group, reads and notes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::group::partition::Partition;
use crate::kafka::seam::{
    Client as _, CommitEntry, CommitOutcome, ConsumeError, Event, Fetched, Fetcher as _, PollError,
    StartOffset, TopicPartition,
};
use crate::kafka::simulated::fetcher::SimulatedFetcher;
use crate::kafka::simulated::{
    GroupProtocol, Kafka, KafkaSettings, MemberSettings, Produce, SimulatedClient, TopicKind,
};
use crate::observe::metrics::Metrics;
use crate::program::end_code::EndCode;

/// The longest time that a test may simulate.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) const TOPIC: &str = "orders";
pub(super) const GROUP: &str = "test.orders";

pub(super) struct Reader {
    pub(super) client: Arc<SimulatedClient>,
    fetcher: SimulatedFetcher,
    metrics: Metrics,
    pub(super) owned: BTreeMap<TopicPartition, Arc<Partition>>,
    pub(super) records: Vec<(i32, i64)>,
    pub(super) ends: Vec<(i32, i64)>,
    pub(super) errors: Vec<ConsumeError>,
    /// Partitions that stopped: the position that was refused, and where the log departs.
    pub(super) refusals: Vec<(i32, Option<i64>, Option<i64>)>,
    pub(super) poll_errors: Vec<RDKafkaErrorCode>,
    pub(super) strays: Vec<String>,
    pub(super) assigned: Vec<Vec<i32>>,
    pub(super) revoked: Vec<(Vec<i32>, bool)>,
    pub(super) outcomes: Vec<CommitOutcome>,
    /// Leaves announcements without an answer.
    pub(super) is_silent: bool,
    pub(super) unanswered: Vec<Event>,
    /// Has the client find by itself where to begin.
    pub(super) begins_by_itself: bool,
}

pub(super) fn cluster(seed: u64, partitions: i32) -> Kafka {
    let kafka = Kafka::new(seed, KafkaSettings::default());
    kafka.create_topic(TOPIC, partitions, TopicKind::default());
    kafka
}

pub(super) fn settings(protocol: GroupProtocol) -> MemberSettings {
    MemberSettings {
        protocol,
        topics: vec![TOPIC.into()],
        ..MemberSettings::default()
    }
}

pub(super) fn partition(number: i32) -> TopicPartition {
    TopicPartition {
        topic: TOPIC.into(),
        partition: number,
    }
}

/// Produces so many records to a partition.
pub(super) fn fill(kafka: &Kafka, partition: i32, count: usize) {
    for index in 0..count {
        let record = Produce {
            key: Some(format!("key {index}").into_bytes()),
            value: Some(vec![b'x'; 10]),
            ..Produce::default()
        };
        kafka.produce(TOPIC, partition, record);
    }
}

impl Reader {
    pub(super) fn join(kafka: &Kafka, settings: MemberSettings) -> Self {
        let wake = Arc::new(Notify::new());
        let client = kafka.member(GROUP, settings, Arc::clone(&wake));
        let notified = Arc::clone(&wake);
        let fetcher = client.fetcher(move || notified.notify_one());
        Self {
            client,
            fetcher,

            metrics: Metrics::new("", "").unwrap(),
            owned: BTreeMap::new(),
            records: Vec::new(),
            ends: Vec::new(),
            errors: Vec::new(),
            refusals: Vec::new(),
            poll_errors: Vec::new(),
            strays: Vec::new(),
            assigned: Vec::new(),
            revoked: Vec::new(),
            outcomes: Vec::new(),
            is_silent: false,
            unanswered: Vec::new(),
            begins_by_itself: false,
        }
    }

    pub(super) fn numbers(&self) -> Vec<i32> {
        self.owned.keys().map(|it| it.partition).collect()
    }

    /// The offsets that were read of a partition, in their order.
    pub(super) fn offsets(&self, partition: i32) -> Vec<i64> {
        let records = self.records.iter().filter(|(it, _)| *it == partition);
        records.map(|(_, offset)| *offset).collect()
    }

    pub(super) fn commit(&self, number: i32, offset: i64) {
        let entry = CommitEntry {
            topic: TOPIC,
            partition: number,
            offset,
            leader_epoch: None,
            metadata: "",
        };
        self.client.commit(entry).unwrap();
    }

    pub(super) fn seek(&self, number: i32, offset: i64) {
        let to = StartOffset {
            partition: partition(number),
            offset: Some(offset),
            leader_epoch: None,
        };
        self.client.seek(&to).unwrap();
    }

    /// Starts a partition that the client stopped reading.
    pub(super) fn restart(&mut self, number: i32, offset: i64) {
        let to = StartOffset {
            partition: partition(number),
            offset: Some(offset),
            leader_epoch: None,
        };
        self.client.restart(&[to], &[]).unwrap();
        for owned in self.owned.values() {
            self.fetcher.attach(owned);
        }
    }

    /// Does whatever there is to do, once.
    pub(super) async fn serve(&mut self) {
        loop {
            let polled = self.client.poll(Duration::ZERO);
            match polled.error {
                Some(PollError::Client(code)) => self.poll_errors.push(code),
                Some(PollError::StrayMessage(text)) => self.strays.push(text),
                None => {}
            }
            if !polled.more {
                break;
            }
        }
        while let Some(event) = self.client.next_event() {
            match event {
                Event::Commit(outcomes) => self.outcomes.extend(outcomes),
                event if self.is_silent => self.unanswered.push(event),
                event => self.answer(event).await,
            }
        }
        self.read(usize::MAX);
    }

    pub(super) fn read(&mut self, most: usize) {
        let owned = &self.owned;
        let (records, ends) = (&mut self.records, &mut self.ends);
        let (errors, refusals) = (&mut self.errors, &mut self.refusals);
        self.fetcher.read(
            most,
            |handle, topic| {
                let name = TopicPartition {
                    topic: topic(),
                    partition: handle.partition,
                };
                owned.get(&name).cloned()
            },
            |fetched| match fetched {
                Fetched::Record(record) => records.push((record.partition(), record.offset())),
                Fetched::End(partition, end) => ends.push((partition.number, end)),
                Fetched::OutOfRange(partition, refused) => {
                    refusals.push((partition.number, refused.position, refused.departs_at));
                    errors.push(ConsumeError {
                        code: RDKafkaErrorCode::AutoOffsetReset,
                        end: EndCode::OffsetLost,
                        text: String::new(),
                        topic: partition.topic.clone(),
                        partition: Some(partition.number),
                    });
                }
                Fetched::Error(error) => errors.push(error),
            },
        );
    }

    pub(super) async fn answer(&mut self, event: Event) {
        match event {
            Event::Assign(partitions) => {
                self.assigned
                    .push(partitions.iter().map(|it| it.partition).collect());
                let mut starts = Vec::new();
                let limit = Duration::from_secs(60);
                let found = self
                    .client
                    .committed(partitions.clone(), limit)
                    .await
                    .unwrap();
                for committed in found {
                    let name = committed.partition;
                    let (topic, number) = (name.topic.clone(), name.partition);
                    let owned =
                        Partition::new(&topic, number, 0, &self.metrics, Arc::default(), None);
                    self.fetcher.attach(&owned);
                    self.owned.insert(name.clone(), Arc::new(owned));
                    starts.push(StartOffset {
                        partition: name,
                        offset: (!self.begins_by_itself).then(|| committed.offset.unwrap_or(0)),
                        leader_epoch: None,
                    });
                }
                self.client.assign(&starts).unwrap();
            }
            Event::Revoke { partitions, lost } => {
                let numbers = partitions.iter().map(|it| it.partition).collect();
                self.revoked.push((numbers, lost));
                for partition in &partitions {
                    self.owned.remove(partition);
                }
                self.client.unassign(&partitions).unwrap();
            }
            Event::Commit(outcomes) => self.outcomes.extend(outcomes),
        }
    }

    /// Serves until a condition holds.
    pub(super) async fn until(&mut self, what: &str, is_met: impl Fn(&Self) -> bool) {
        until(what, &mut [self], |readers| is_met(readers[0])).await;
    }
}

/// Serves all readers until a condition holds.
pub(super) async fn until(
    what: &str,
    readers: &mut [&mut Reader],
    is_met: impl Fn(&[&mut Reader]) -> bool,
) {
    let began = Instant::now();
    loop {
        for reader in readers.iter_mut() {
            reader.serve().await;
        }
        if is_met(readers) {
            return;
        }
        assert!(began.elapsed() < LIMIT, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Serves all readers for a time.
pub(super) async fn run_for(time: Duration, readers: &mut [&mut Reader]) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        for reader in readers.iter_mut() {
            reader.serve().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The readers have all partitions, each one of them.
pub(super) fn share_all(readers: &[&mut Reader], partitions: i32) -> bool {
    let mut all = BTreeSet::new();
    let mut count = 0;
    for reader in readers {
        let numbers = reader.numbers();
        count += numbers.len();
        all.extend(numbers);
    }
    count == all.len() && all.into_iter().eq(0..partitions)
}
