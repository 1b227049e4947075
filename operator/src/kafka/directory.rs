//! All clusters that consumers name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Resolution;
use super::client::{Connection, Partitions};
use super::cluster::{self, Cluster};
use crate::controller::Triggers;
use crate::key::Key;

/// The clusters, each held by the consumers that name it.
pub struct Directory {
    state: Mutex<State>,
    interval: Duration,
    triggers: Triggers,
}

#[derive(Default)]
struct State {
    clusters: HashMap<Arc<Connection>, Arc<Cluster>>,
    of: HashMap<Key, Arc<Connection>>,
}

impl Directory {
    /// Listings are renewed every `interval`; consumers that must hear of a change
    /// are sent to `triggers`.
    pub fn new(interval: Duration, triggers: Triggers) -> Self {
        Self {
            state: Mutex::default(),
            interval,
            triggers,
        }
    }

    /// The connection as the others that name it hold it, so that thousands of
    /// consumers do not each keep one of their own.
    pub fn share(&self, connection: Connection) -> Arc<Connection> {
        let state = self.state.lock();
        match state.clusters.get_key_value(&connection) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(connection),
        }
    }

    /// What became of a consumer's topics. From now on the consumer is woken when
    /// the answer changes.
    pub async fn resolve(
        &self,
        consumer: &Key,
        connection: &Arc<Connection>,
        topics: Vec<String>,
    ) -> Resolution {
        self.cluster(consumer, connection)
            .resolve(consumer, topics)
            .await
    }

    /// Partitions of each of some topics, as last listed over the consumer's
    /// connection.
    pub(super) async fn partitions(
        &self,
        consumer: &Key,
        topics: &[String],
    ) -> Vec<(String, Partitions)> {
        let cluster = {
            let state = self.state.lock();
            let connection = state.of.get(consumer);
            connection.and_then(|connection| state.clusters.get(connection).cloned())
        };
        match cluster {
            Some(cluster) => cluster.partitions(topics).await,
            None => Vec::new(),
        }
    }

    /// Forgets a consumer, and a cluster that nobody else names.
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
        let cluster = Arc::new(Cluster::new(Arc::clone(connection)));
        state
            .clusters
            .insert(Arc::clone(connection), Arc::clone(&cluster));
        tokio::spawn(cluster::keep(
            Arc::downgrade(&cluster),
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
