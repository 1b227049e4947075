//! Reads the positions of each group from Kafka, one consumer after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::spec::OffsetReset;
use tokio::time::{Instant, sleep};

use super::client::{self, Client, ListError, Partitions};
use super::cluster::jittered;
use super::directory::Directory;
use super::offsets;
use super::policy::BrokerPolicy;
use super::positions::{PartitionOffsets, Positions};
use super::settings::{Connection, Isolation};
use super::slots::{Slot, Slots};
use crate::key::Key;
use crate::triggers::Triggers;

/// The number of concurrent clients, in total and for one namespace: a broker that does not answer
/// delays few others, and none of another namespace.
const CLIENTS: (usize, usize) = (8, 2);

/// The maximum time for the offsets of one group.
const LIMIT: Duration = Duration::from_secs(60);

/// The minimum time between two clients: with very many consumers, each group is read less often
/// instead of all at the same time.
const PACE: Duration = Duration::from_millis(100);

/// The number of turns for which a namespace's last one is remembered.
const MAX_TURNS: u64 = 100_000;

/// The group whose positions are read, and its settings.
#[derive(Clone, PartialEq, Eq)]
pub struct LagTarget {
    /// The cluster.
    pub connection: Arc<Connection>,
    /// The group.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
    /// The start of a group without a committed offset.
    pub reset: OffsetReset,
    /// Is `true` if the group reads messages of open transactions too.
    pub reads_uncommitted: bool,
}

/// Reads the positions of groups in the background, and with them their lag.
pub struct LagReader {
    state: Mutex<State>,
    interval: Duration,
    triggers: Triggers,
    clients: Slots,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The turn at which each namespace was served last.
    turns: HashMap<Arc<str>, u64>,
    turn: u64,
}

struct Entry {
    target: LagTarget,
    due: Instant,
    /// The positions as last read.
    positions: Option<Arc<Positions>>,
}

impl LagReader {
    /// Creates a reader. It reads each group every `interval`, and `triggers` wakes the consumers
    /// whose group has moved.
    pub fn new(interval: Duration, triggers: Triggers) -> Self {
        Self {
            state: Mutex::default(),
            interval,
            triggers,
            clients: Slots::new(CLIENTS.0, CLIENTS.1),
        }
    }

    /// Returns the positions as last read; `None` before the first reading. From now on they are
    /// read periodically.
    pub fn watch(&self, consumer: &Key, target: LagTarget) -> Option<Arc<Positions>> {
        let entries = &mut self.state.lock().entries;
        match entries.get_mut(consumer) {
            Some(entry) if entry.target == target => entry.positions.clone(),
            _ => {
                let entry = Entry {
                    target,
                    due: Instant::now(),
                    positions: None,
                };
                entries.insert(consumer.clone(), entry);
                None
            }
        }
    }

    /// Returns the positions of a group as last read from these brokers.
    pub fn last(&self, consumer: &Key, group: &str, brokers: &str) -> Option<Arc<Positions>> {
        let state = self.state.lock();
        let entry = state.entries.get(consumer)?;
        let is_same = entry.target.group == group && entry.target.connection.brokers() == brokers;
        entry.positions.clone().filter(|_| is_same)
    }

    /// Stops reading a consumer's positions.
    pub fn forget(&self, consumer: &Key) {
        self.state.lock().entries.remove(consumer);
    }

    /// Reads positions forever.
    pub async fn run(self: Arc<Self>, directory: Arc<Directory>) {
        loop {
            sleep(PACE).await;
            let Some((consumer, target, slot)) = self.next() else {
                continue;
            };
            let (reader, directory) = (Arc::clone(&self), Arc::clone(&directory));
            tokio::spawn(async move {
                let partitions = directory.partitions(&consumer, &target.topics);
                let slot = Arc::new(slot);
                let positions = read(&slot, &target, directory.policy(), partitions).await;
                reader.note(&consumer, &target, positions);
            });
        }
    }

    /// Takes a consumer that is due and schedules its next reading. Namespaces take turns, so that
    /// a namespace with many consumers or slow brokers does not delay the others. Within a
    /// namespace, the consumer that has been due longest is next.
    fn next(&self) -> Option<(Key, LagTarget, Slot)> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State {
            entries,
            turns,
            turn,
        } = &mut *state;
        let mut due: HashMap<Arc<str>, (&Key, &mut Entry)> = HashMap::new();
        for (consumer, entry) in entries.iter_mut().filter(|(_, entry)| entry.due <= now) {
            let is_earlier =
                |other: &(&Key, &mut Entry)| (entry.due, consumer) < (other.1.due, other.0);
            if due.get(&consumer.namespace).is_none_or(is_earlier) {
                due.insert(Arc::clone(&consumer.namespace), (consumer, entry));
            }
        }
        let mut due: Vec<(Arc<str>, (&Key, &mut Entry))> = due.into_iter().collect();
        due.sort_by_key(|(namespace, (_, entry))| (turns.get(namespace).copied(), entry.due));
        for (namespace, (consumer, entry)) in due {
            let Some(slot) = self.clients.try_take(&namespace) else {
                continue;
            };
            entry.due = now + jittered(self.interval);
            *turn += 1;
            turns.insert(namespace, *turn);
            let taken = (consumer.clone(), entry.target.clone(), slot);
            // A namespace whose turn was long ago need not be remembered: it comes first.
            turns.retain(|_, at| *at + MAX_TURNS > *turn);
            return Some(taken);
        }
        None
    }

    fn note(&self, consumer: &Key, target: &LagTarget, positions: Positions) {
        if let Some(why) = &positions.unread {
            tracing::debug!(%consumer, error = why, "the positions could not be read");
        }
        let mut state = self.state.lock();
        let Some(entry) = state
            .entries
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
async fn read(
    slot: &Arc<Slot>,
    target: &LagTarget,
    policy: &Arc<BrokerPolicy>,
    partitions: Vec<(String, Partitions)>,
) -> Positions {
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
    match ask(slot, target, policy, partitions).await {
        Ok(mut partitions) => {
            partitions.extend(missing.iter().cloned().map(without_partitions));
            Positions {
                unlisted_topics: missing.into_iter().collect(),
                ..Positions::of(&partitions, target.reset)
            }
        }
        Err(error) => Positions::unread(error.to_string()),
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
    slot: &Arc<Slot>,
    target: &LagTarget,
    policy: &Arc<BrokerPolicy>,
    partitions: Vec<(String, Partitions)>,
) -> Result<Vec<PartitionOffsets>, ListError> {
    let isolation = match target.reads_uncommitted {
        true => Isolation::Uncommitted,
        false => Isolation::Committed,
    };
    let (connection, group) = (&target.connection, Some(target.group.as_str()));
    let question = move |client: &Client| offsets::ask(client, &partitions);
    let ask = client::ask(slot, connection, policy, group, isolation, LIMIT, question);
    let mut read = ask.await?;
    if isolation == Isolation::Committed && read.iter().any(offsets::is_beyond) {
        let isolation = Isolation::Uncommitted;
        let question =
            move |client: &Client| offsets::ask_log_ends(client, &mut read).map(|()| read);
        let ask = client::ask(slot, connection, policy, group, isolation, LIMIT, question);
        read = ask.await?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    fn target(brokers: &str, group: &str) -> LagTarget {
        let servers = ("bootstrap.servers".to_owned(), brokers.to_owned());
        LagTarget {
            connection: Arc::new(Connection::new("shop", [servers].into(), None)),
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

    fn watch(reader: &LagReader, namespace: &str, name: &str) {
        let target = target("kafka:9092", "billing.orders");
        reader.watch(&Key::new(namespace, name), target);
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_whose_brokers_are_slow_holds_up_no_other() {
        let reader = LagReader::new(Duration::from_secs(60), Triggers::new().0);
        for number in 0..100 {
            watch(&reader, "noisy", &format!("c{number}"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch(&reader, "quiet", "orders");
        let taken: Vec<_> = std::iter::from_fn(|| reader.next()).collect();
        let namespaces: Vec<&str> = taken
            .iter()
            .map(|(consumer, _, _)| &*consumer.namespace)
            .collect();
        assert_eq!(namespaces, ["noisy", "quiet", "noisy"]);
        drop(taken);
        // Consumers that were not read come first.
        let next = reader.next().unwrap();
        assert_eq!(&*next.0.namespace, "noisy");
        let state = reader.state.lock();
        let dues: HashSet<Instant> = state.entries.values().map(|it| it.due).collect();
        assert!(dues.len() >= 4, "they are spread in time");
    }

    /// As many namespaces as it takes to have every client, each with a long backlog.
    #[tokio::test(start_paused = true)]
    async fn namespaces_with_a_backlog_do_not_starve_another() {
        let reader = LagReader::new(Duration::from_secs(60), Triggers::new().0);
        for number in 0..100 {
            for namespace in ["a", "b", "c", "d"] {
                watch(&reader, namespace, &format!("c{number}"));
            }
        }
        let mut busy: VecDeque<_> = std::iter::from_fn(|| reader.next()).collect();
        assert_eq!(busy.len(), CLIENTS.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch(&reader, "late", "orders");
        // One answer frees one client, and namespaces take turns from then on.
        busy.pop_front();
        let first = reader.next().unwrap();
        assert_eq!(&*first.0.namespace, "late");
        busy.push_back(first);
        let mut served = Vec::new();
        for _ in 0..8 {
            busy.pop_front();
            let next = reader.next().unwrap();
            served.push(next.0.namespace.to_string());
            busy.push_back(next);
        }
        for namespace in ["a", "b", "c", "d"] {
            let turns = served.iter().filter(|it| *it == namespace).count();
            assert_eq!(turns, 2, "{served:?}");
        }
    }
}
