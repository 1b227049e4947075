//! How many messages each group has yet to handle, read from Kafka one consumer
//! after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::spec::OffsetReset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::client::{self, Client, Connection};
use super::directory::Directory;
use crate::controller::Triggers;
use crate::key::Key;

/// Longest time for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Clients at once, so that a broker that does not answer holds up few others.
const CLIENTS: usize = 8;

/// Shortest time between two clients: with very many consumers each is read less
/// often instead of all at once.
const PACE: Duration = Duration::from_millis(100);

/// Whose lag is read, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct LagTarget {
    /// The cluster.
    pub connection: Arc<Connection>,
    /// The group.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
    /// Where the group begins without a committed offset.
    pub reset: OffsetReset,
}

/// Reads lags in the background.
pub struct LagReader {
    state: Mutex<HashMap<Key, Entry>>,
    interval: Duration,
    triggers: Triggers,
}

struct Entry {
    target: LagTarget,
    due: Instant,
    lag: Option<i64>,
}

impl LagReader {
    /// Each lag is read every `interval`; consumers whose lag has changed are sent
    /// to `triggers`.
    pub fn new(interval: Duration, triggers: Triggers) -> Self {
        Self {
            state: Mutex::default(),
            interval,
            triggers,
        }
    }

    /// The lag as it was last read. From now on it is read again and again.
    pub fn watch(&self, consumer: &Key, target: LagTarget) -> Option<i64> {
        let mut state = self.state.lock();
        match state.get_mut(consumer) {
            Some(entry) if entry.target == target => entry.lag,
            _ => {
                let entry = Entry {
                    target,
                    due: Instant::now(),
                    lag: None,
                };
                state.insert(consumer.clone(), entry);
                None
            }
        }
    }

    /// Stops reading a consumer's lag.
    pub fn forget(&self, consumer: &Key) {
        self.state.lock().remove(consumer);
    }

    /// Reads lags for ever.
    pub async fn run(self: Arc<Self>, directory: Arc<Directory>) {
        let clients = Arc::new(Semaphore::new(CLIENTS));
        loop {
            sleep(PACE).await;
            let Some((consumer, target)) = self.next() else {
                continue;
            };
            let Ok(client) = Arc::clone(&clients).acquire_owned().await else {
                return;
            };
            let (reader, directory) = (Arc::clone(&self), Arc::clone(&directory));
            tokio::spawn(async move {
                let partitions = directory.partitions(&consumer, &target.topics).await;
                let lag = read(&target, partitions).await;
                reader.note(&consumer, &target, lag);
                drop(client);
            });
        }
    }

    /// The consumer whose lag is due, and puts it off.
    fn next(&self) -> Option<(Key, LagTarget)> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let (consumer, entry) = state.iter_mut().find(|(_, entry)| entry.due <= now)?;
        entry.due = now + self.interval;
        Some((consumer.clone(), entry.target.clone()))
    }

    fn note(&self, consumer: &Key, target: &LagTarget, lag: Result<Option<i64>, KafkaError>) {
        let lag = match lag {
            Ok(lag) => lag,
            Err(error) => {
                tracing::debug!(%consumer, "the lag can't be read: {error}");
                None
            }
        };
        let mut state = self.state.lock();
        let Some(entry) = state
            .get_mut(consumer)
            .filter(|entry| entry.target == *target)
        else {
            return;
        };
        if entry.lag != lag {
            entry.lag = lag;
            self.triggers.wake(consumer);
        }
    }
}

/// Messages between what is committed and the end, in all partitions that the
/// group has begun; nothing when it has begun none.
async fn read(
    target: &LagTarget,
    partitions: Vec<(String, i32)>,
) -> Result<Option<i64>, KafkaError> {
    if partitions.is_empty() {
        return Ok(None);
    }
    let client = client::client(&target.connection, Some(&target.group)).await?;
    let asking = Arc::clone(&client);
    let reset = target.reset;
    let answer = client::served(&client, async move {
        spawn_blocking(move || lag(&asking, &partitions, reset)).await
    })
    .await;
    client::retire(client);
    match answer {
        Some(Ok(lag)) => lag,
        Some(Err(_)) | None => Ok(None),
    }
}

fn lag(
    client: &Client,
    partitions: &[(String, i32)],
    reset: OffsetReset,
) -> Result<Option<i64>, KafkaError> {
    let mut names = TopicPartitionList::new();
    for (topic, count) in partitions {
        names.add_partition_range(topic, 0, count - 1);
    }
    let committed = client.committed_offsets(names.clone(), TIMEOUT)?;
    let mut ends = names.clone();
    ends.set_all_offsets(Offset::End)?;
    let ends = client.offsets_for_times(ends, TIMEOUT)?;
    let beginnings = match reset {
        OffsetReset::Earliest => {
            let mut beginnings = names;
            beginnings.set_all_offsets(Offset::Beginning)?;
            Some(client.offsets_for_times(beginnings, TIMEOUT)?)
        }
        OffsetReset::Latest | OffsetReset::Fail => None,
    };
    let position = |list: &TopicPartitionList, topic: &str, partition: i32| {
        let element = list.find_partition(topic, partition)?;
        element.offset().to_raw().filter(|offset| *offset >= 0)
    };
    let mut lag = None;
    for end in ends.elements() {
        let (topic, partition) = (end.topic(), end.partition());
        let from = position(&committed, topic, partition).or_else(|| {
            let beginnings = beginnings.as_ref()?;
            position(beginnings, topic, partition)
        });
        if let (Some(from), Some(end)) = (from, end.offset().to_raw()) {
            *lag.get_or_insert(0) += (end - from).max(0);
        }
    }
    Ok(lag)
}
