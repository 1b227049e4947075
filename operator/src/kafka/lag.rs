//! How far each group has come, read from Kafka one consumer after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::spec::OffsetReset;
use rdkafka::error::KafkaError;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::client::{self, Client, Connection, Isolation, Partitions};
use super::directory::Directory;
use super::offsets;
use super::positions::{PartitionOffsets, Positions};
use crate::controller::Triggers;
use crate::key::Key;

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
    /// The group reads messages of open transactions too.
    pub reads_uncommitted: bool,
}

/// Reads the positions of groups in the background, and with them their lag.
pub struct LagReader {
    state: Mutex<HashMap<Key, Entry>>,
    interval: Duration,
    triggers: Triggers,
}

struct Entry {
    target: LagTarget,
    due: Instant,
    /// What was read last.
    positions: Option<Arc<Positions>>,
}

impl LagReader {
    /// Each group is read every `interval`; consumers whose group has moved are sent to
    /// `triggers`.
    pub fn new(interval: Duration, triggers: Triggers) -> Self {
        Self {
            state: Mutex::default(),
            interval,
            triggers,
        }
    }

    /// Returns the positions as they were last read; `None` before the first reading.
    /// From now on they are read again and again.
    pub fn watch(&self, consumer: &Key, target: LagTarget) -> Option<Arc<Positions>> {
        let mut state = self.state.lock();
        match state.get_mut(consumer) {
            Some(entry) if entry.target == target => entry.positions.clone(),
            _ => {
                let entry = Entry {
                    target,
                    due: Instant::now(),
                    positions: None,
                };
                state.insert(consumer.clone(), entry);
                None
            }
        }
    }

    /// Returns the positions of a group as they were last read from these brokers.
    pub fn last(&self, consumer: &Key, group: &str, brokers: &str) -> Option<Arc<Positions>> {
        let state = self.state.lock();
        let entry = state.get(consumer)?;
        let is_same = entry.target.group == group && entry.target.connection.brokers() == brokers;
        entry.positions.clone().filter(|_| is_same)
    }

    /// Stops reading a consumer's positions.
    pub fn forget(&self, consumer: &Key) {
        self.state.lock().remove(consumer);
    }

    /// Reads positions forever.
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
                let positions = read(&target, partitions).await;
                reader.note(&consumer, &target, positions);
                drop(client);
            });
        }
    }

    /// Takes the consumer that is due, and puts it off.
    fn next(&self) -> Option<(Key, LagTarget)> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let (consumer, entry) = state.iter_mut().find(|(_, entry)| entry.due <= now)?;
        entry.due = now + self.interval;
        Some((consumer.clone(), entry.target.clone()))
    }

    fn note(&self, consumer: &Key, target: &LagTarget, positions: Positions) {
        if let Some(why) = &positions.unread {
            tracing::debug!(%consumer, error = why, "positions can't be read");
        }
        let mut state = self.state.lock();
        let Some(entry) = state
            .get_mut(consumer)
            .filter(|entry| entry.target == *target)
        else {
            return;
        };
        if entry.positions.as_deref() != Some(&positions) {
            entry.positions = Some(Arc::new(positions));
            self.triggers.wake(consumer);
        }
    }
}

/// Reads a group's offsets and those of its partitions.
async fn read(target: &LagTarget, partitions: Vec<(String, Partitions)>) -> Positions {
    if partitions.is_empty() {
        return Positions::unread("the topics' partitions are not known");
    }
    let listed = |topic: &String| partitions.iter().any(|(listed, _)| listed == topic);
    let missing: Vec<String> = target
        .topics
        .iter()
        .filter(|topic| !listed(topic))
        .cloned()
        .collect();
    match ask(target, partitions).await {
        Ok(mut partitions) => {
            partitions.extend(missing.iter().cloned().map(without_partitions));
            Positions {
                unlisted_topics: missing.into_iter().collect(),
                ..Positions::of(&partitions, target.reset)
            }
        }
        Err(why) => Positions::unread(why),
    }
}

/// A topic that the brokers do not list counts as one partition that can't be read.
fn without_partitions(topic: String) -> PartitionOffsets {
    PartitionOffsets {
        topic,
        partition: 0,
        offsets: Err("the brokers do not list the topic".to_owned()),
    }
}

async fn ask(
    target: &LagTarget,
    partitions: Vec<(String, Partitions)>,
) -> Result<Vec<PartitionOffsets>, String> {
    let isolation = match target.reads_uncommitted {
        true => Isolation::Uncommitted,
        false => Isolation::Committed,
    };
    let mut read = with_client(target, isolation, move |client| {
        offsets::ask(client, &partitions)
    })
    .await?;
    if isolation == Isolation::Committed && read.iter().any(offsets::is_beyond) {
        read = with_client(target, Isolation::Uncommitted, move |client| {
            offsets::ask_log_ends(client, &mut read).map(|()| read)
        })
        .await?;
    }
    Ok(read)
}

/// Has a client of the group's own ask something.
async fn with_client<T: Send + 'static>(
    target: &LagTarget,
    isolation: Isolation,
    question: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, String> {
    let client = client::client(&target.connection, Some(&target.group), isolation)
        .await
        .map_err(|error| error.to_string())?;
    let asking = Arc::clone(&client);
    let answer = client::served(&client, async move {
        spawn_blocking(move || question(&asking)).await
    })
    .await;
    client::retire(client);
    match answer {
        Some(Ok(answer)) => answer.map_err(|error| error.to_string()),
        Some(Err(_)) => Err("the request was aborted".to_owned()),
        None => Err("the brokers refuse the connection".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(brokers: &str, group: &str) -> LagTarget {
        let servers = ("bootstrap.servers".to_owned(), brokers.to_owned());
        LagTarget {
            connection: Arc::new(Connection {
                properties: [servers].into(),
                token: None,
            }),
            group: group.to_owned(),
            topics: vec!["orders".to_owned()],
            reset: OffsetReset::Latest,
            reads_uncommitted: false,
        }
    }

    #[test]
    fn positions_are_those_of_the_group_and_the_brokers_that_they_were_read_from() {
        let (triggers, _woken) = Triggers::new();
        let reader = LagReader::new(Duration::from_secs(60), triggers);
        let consumer = Key::new("shop", "orders");
        let read = target("old:9092", "billing.orders");
        assert_eq!(reader.watch(&consumer, read.clone()), None);
        reader.note(&consumer, &read, Positions::default());
        let last = |group: &str, brokers: &str| reader.last(&consumer, group, brokers).is_some();
        assert!(last("billing.orders", "old:9092"));
        assert!(!last("billing.orders", "new:9092"));
        assert!(!last("billing.other", "old:9092"));
        // Nor are they those of other brokers once these are asked.
        let other = target("new:9092", "billing.orders");
        assert_eq!(reader.watch(&consumer, other), None);
        assert!(!last("billing.orders", "new:9092"));
        reader.note(&consumer, &read, Positions::default());
        assert!(
            !last("billing.orders", "new:9092"),
            "an answer that came late"
        );
    }
}
