//! The clusters that consumers name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Resolution;
use super::client::Partitions;
use super::cluster::{self, Cluster};
use super::policy::BrokerPolicy;
use super::settings::Connection;
use super::slots::Slots;
use crate::key::Key;
use crate::triggers::Triggers;

/// The number of concurrent listings, in total and for one namespace.
const SLOTS: (usize, usize) = (16, 3);

/// The number of passes that wait for an answer at the same time, in total and for one namespace.
/// There are twice as many concurrent passes, so half of them never wait for Kafka.
const SEATS: (usize, usize) = (16, 4);

/// The clusters, each held by the consumers that name it.
pub struct Directory {
    state: Mutex<State>,
    interval: Duration,
    triggers: Triggers,
    slots: Arc<Slots>,
    seats: Slots,
    policy: Arc<BrokerPolicy>,
}

#[derive(Default)]
struct State {
    clusters: HashMap<Arc<Connection>, Arc<Cluster>>,
    of: HashMap<Key, Arc<Connection>>,
}

impl Directory {
    /// Creates a directory. Listings are renewed every `interval`, and `triggers` wakes the
    /// consumers for which the answer changed. Clients connect only where `policy` allows it.
    pub fn new(interval: Duration, triggers: Triggers, policy: BrokerPolicy) -> Self {
        Self {
            state: Mutex::default(),
            interval,
            triggers,
            slots: Arc::new(Slots::new(SLOTS.0, SLOTS.1)),
            seats: Slots::new(SEATS.0, SEATS.1),
            policy: Arc::new(policy),
        }
    }

    /// Returns the stored connection that equals this one, so that thousands of consumers share it.
    pub fn share(&self, connection: Connection) -> Arc<Connection> {
        let state = self.state.lock();
        match state.clusters.get_key_value(&connection) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(connection),
        }
    }

    /// Returns the result of the search for a consumer's topics. From now on the consumer is woken
    /// when the result changes.
    pub async fn resolve(
        &self,
        consumer: &Key,
        connection: &Arc<Connection>,
        topics: Vec<String>,
    ) -> Resolution {
        if let Err(broker) = self
            .policy
            .check(connection.namespace(), connection.brokers())
        {
            self.forget(consumer);
            return Resolution::NotAllowed(broker);
        }
        self.cluster(consumer, connection)
            .resolve(consumer, topics, &self.seats)
            .await
    }

    /// Returns the policy for connections to brokers.
    pub(super) fn policy(&self) -> &Arc<BrokerPolicy> {
        &self.policy
    }

    /// Returns the partitions of topics, as last listed over the consumer's connection.
    pub(super) fn partitions(
        &self,
        consumer: &Key,
        topics: &[String],
    ) -> Vec<(String, Partitions)> {
        let cluster = {
            let state = self.state.lock();
            let connection = state.of.get(consumer);
            connection.and_then(|connection| state.clusters.get(connection).cloned())
        };
        cluster.map_or_else(Vec::new, |cluster| cluster.partitions(topics))
    }

    /// Returns `true` if the operator asks the consumer's brokers.
    pub fn knows(&self, consumer: &Key) -> bool {
        self.state.lock().of.contains_key(consumer)
    }

    /// Forgets a consumer, and a cluster that no other consumer names.
    pub fn forget(&self, consumer: &Key) {
        self.state.lock().forget(consumer);
    }

    fn cluster(&self, consumer: &Key, connection: &Arc<Connection>) -> Arc<Cluster> {
        let mut state = self.state.lock();
        if state.of.get(consumer) != Some(connection) {
            state.forget(consumer);
            state.of.insert(consumer.clone(), Arc::clone(connection));
        }
        if let Some(cluster) = state.clusters.get(connection) {
            return Arc::clone(cluster);
        }
        let cluster = Arc::new(Cluster::new(
            Arc::clone(connection),
            Arc::clone(&self.policy),
        ));
        state
            .clusters
            .insert(Arc::clone(connection), Arc::clone(&cluster));
        tokio::spawn(cluster::keep(
            Arc::clone(&cluster),
            Arc::clone(&self.slots),
            self.interval,
            self.triggers.clone(),
        ));
        cluster
    }
}

impl State {
    fn forget(&mut self, consumer: &Key) {
        let Some(connection) = self.of.remove(consumer) else {
            return;
        };
        if let Some(cluster) = self.clusters.get(&connection)
            && !cluster.forget(consumer)
        {
            self.clusters.remove(&connection);
        }
    }
}
