//! What was fetched, and how the engine takes it. After `rdkafka_queue.c` and
//! `rdkafka_partition.c` of librdkafka 2.12.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;

use super::broker::{ClientId, Cluster};
use super::log::{FetchedRecord, Position};
use super::session::{Op, Session};
use crate::group::partition::Partition;
use crate::handler::record::{OwnedRecord, Record};
use crate::kafka::end_code;
use crate::kafka::seam::{
    ConsumeError, Fetched, Fetcher, OutOfRange, PartitionHandle, TopicPartition,
};

/// What a client does for a partition (`rktp_fetch_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchState {
    /// To be started, at an offset or wherever the group is.
    Pending(Option<Position>),
    /// Where to begin is being looked up.
    Looking,
    Active,
    /// After an error, until the engine seeks or assigns again.
    Stopped,
}

/// An assigned partition (`rd_kafka_toppar_t`).
#[derive(Debug)]
pub(super) struct Toppar {
    pub(super) state: FetchState,
    /// The next offset to fetch.
    pub(super) position: Position,
    /// `rktp_app_pos`: behind the last message that was handed out.
    pub(super) handed_out: Option<Position>,
    /// `rktp_next_fetch_start`: where fetching begins again after a pause.
    pub(super) restart: Position,
    /// What was fetched by an earlier version is dropped.
    pub(super) version: u64,
    pub(super) is_in_flight: bool,
    /// Fetching waits for the validation of the position.
    pub(super) is_to_validate: bool,
    /// Paused by the engine.
    pub(super) is_paused: bool,
    /// Paused while a rebalance awaits its answer.
    pub(super) is_held: bool,
    /// The end that was reported last.
    pub(super) reported_end: Option<i64>,
    /// Fetched messages that were not handed out.
    pub(super) queued: usize,
    /// The topic's id and the leader's epoch, as the client knows them.
    pub(super) topic: u64,
    pub(super) leader_epoch: i32,
    /// To be committed automatically, and what was.
    pub(super) stored: Option<i64>,
    pub(super) committed: Option<i64>,
}

impl Toppar {
    pub(super) fn new(version: u64, start: Option<Position>) -> Self {
        let nowhere = Position {
            offset: 0,
            epoch: None,
        };
        Self {
            state: FetchState::Pending(start),
            position: start.unwrap_or(nowhere),
            handed_out: None,
            restart: start.unwrap_or(nowhere),
            version,
            is_in_flight: false,
            is_to_validate: false,
            is_paused: false,
            is_held: false,
            reported_end: None,
            queued: 0,
            topic: 0,
            leader_epoch: 0,
            stored: None,
            committed: None,
        }
    }

    /// Fetching begins again where it is to restart: answers on their way are dropped.
    pub(super) fn begin_again(&mut self, version: u64) {
        self.version = version;
        self.is_in_flight = false;
        self.queued = 0;
        self.position = self.restart;
        self.reported_end = None;
    }
}

/// What lies in the fetcher's queue.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) partition: TopicPartition,
    /// 0 in errors, which are handed out even after a revocation
    /// (`rd_kafka_op_version_outdated`).
    pub(super) version: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Record(FetchedRecord),
    End(i64),
    /// The brokers have nothing at the position, and fetching has stopped.
    Refused(OutOfRange),
    /// A fetch at this offset failed.
    Error(RDKafkaErrorCode, String, i64),
}

impl What {
    /// The position behind it. A read of a batch counts ends and errors as messages, whose
    /// epoch is 0 (the second loop of `rd_kafka_q_serve_rkmessages`).
    fn position(&self) -> Option<Position> {
        let (offset, epoch) = match self {
            Self::Record(record) => (record.offset, record.epoch),
            Self::End(offset) | Self::Error(.., offset) => (*offset, 0),
            Self::Refused(refused) => (refused.position?, 0),
        };
        Some(Position {
            offset: offset + 1,
            epoch: Some(epoch),
        })
    }
}

impl Cluster {
    /// Takes what lies in a client's queue (`rd_kafka_q_serve_rkmessages`), and fetches on.
    fn take_items(&mut self, client: ClientId, most: usize) -> Vec<(PartitionHandle, Item)> {
        let Some(session) = self.sessions.get_mut(&client) else {
            return Vec::new();
        };
        if session.is_dead || session.is_frozen {
            return Vec::new();
        }
        session.last_poll = Some(tokio::time::Instant::now());
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(item) = session.fetched.pop_front()
        {
            if session.hand_out(&item) {
                taken.push((session.handle(&item.partition), item));
            }
        }
        let partitions: Vec<_> = session.toppars.keys().cloned().collect();
        for partition in partitions {
            self.fetch(client, &partition);
        }
        taken
    }
}

impl Session {
    pub(super) fn enqueue(&mut self, partition: &TopicPartition, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        if !self.attached.contains(partition) {
            return self.push(Op::Stray(format!("{} items of {partition}", items.len())));
        }
        let was_empty = self.fetched.is_empty();
        self.fetched.extend(items);
        if was_empty && let Some(on_nonempty) = &self.on_nonempty {
            on_nonempty();
        }
    }

    pub(super) fn enqueue_error(
        &mut self,
        partition: &TopicPartition,
        version: u64,
        (code, text, offset): (RDKafkaErrorCode, String, i64),
    ) {
        let item = Item {
            partition: partition.clone(),
            version,
            what: What::Error(code, text, offset),
        };
        self.enqueue(partition, vec![item]);
    }

    /// Returns `true` if the item is not outdated, and notes that it is handed out.
    fn hand_out(&mut self, item: &Item) -> bool {
        let toppar = self.toppars.get_mut(&item.partition);
        let Some(toppar) = toppar.filter(|it| [0, it.version].contains(&item.version)) else {
            return item.version == 0;
        };
        if let What::Record(record) = &item.what {
            toppar.queued = toppar.queued.saturating_sub(1);
            if self.settings.auto_store {
                toppar.stored = Some(record.offset + 1);
            }
        }
        let position = item.what.position();
        if let Some(position) = position
            && toppar
                .handed_out
                .is_none_or(|before| before.offset < position.offset)
        {
            toppar.handed_out = Some(position);
        }
        true
    }

    fn handle(&mut self, partition: &TopicPartition) -> PartitionHandle {
        let known = self.handles.iter().position(|it| *it == partition.topic);
        let topic = known.unwrap_or_else(|| {
            self.handles.push(partition.topic.clone());
            self.handles.len() - 1
        });
        PartitionHandle {
            topic,
            partition: partition.partition,
        }
    }
}

/// The engine's end of a client's queue.
pub(crate) struct SimulatedFetcher {
    pub(super) cluster: Arc<Mutex<Cluster>>,
    pub(super) client: ClientId,
}

impl Fetcher for SimulatedFetcher {
    fn attach(&mut self, partition: &Partition) {
        if let Some(session) = self.cluster.lock().sessions.get_mut(&self.client) {
            session.attached.insert(partition.name());
        }
    }

    fn read(
        &mut self,
        most: usize,
        mut owner: impl FnMut(PartitionHandle, &dyn Fn() -> String) -> Option<Arc<Partition>>,
        mut sink: impl FnMut(Fetched),
    ) -> usize {
        // The engine calls the client from `sink`, so the lock is free by then.
        let items = self.cluster.lock().take_items(self.client, most);
        let taken = items.len();
        for (handle, item) in items {
            let Item {
                partition, what, ..
            } = item;
            let topic = || partition.topic.clone();
            match what {
                What::Record(record) => {
                    if let Some(owner) = owner(handle, &topic) {
                        sink(Fetched::Record(to_record(record, owner)));
                    }
                }
                What::End(end) => {
                    if let Some(owner) = owner(handle, &topic) {
                        sink(Fetched::End(owner, end));
                    }
                }
                What::Refused(refused) => {
                    if let Some(owner) = owner(handle, &topic) {
                        sink(Fetched::OutOfRange(owner, refused));
                    }
                }
                What::Error(code, text, _) => sink(Fetched::Error(ConsumeError {
                    code,
                    end: end_code(code),
                    text,
                    topic: partition.topic,
                    partition: Some(partition.partition),
                })),
            }
        }
        taken
    }
}

fn to_record(record: FetchedRecord, owner: Arc<Partition>) -> Record {
    let owned = OwnedRecord {
        topic: owner.topic.clone(),
        partition: owner.number,
        offset: record.offset,
        key: record.data.key,
        payload: record.data.value,
        timestamp: record.data.timestamp,
        headers: record.data.headers,
    };
    Record::owned_by_leader(owned, owner, record.epoch)
}
