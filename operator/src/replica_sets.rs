//! The ConfigMaps that the pods of each ReplicaSet read, as its template names them.
//!
//! A ConfigMap is kept for as long as some ReplicaSet names it: pods of that template may
//! restart, or come back by a rollback.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Resource as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::build::CONSUMER_LABEL;
use crate::key::Key;

/// The ReplicaSets of all consumers.
pub struct ReplicaSets {
    state: Mutex<State>,
    is_listed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// For each consumer the ReplicaSets by name, and the ConfigMaps that each names.
    of: HashMap<Key, HashMap<Key, Box<[String]>>>,
    consumers: HashMap<Key, Key>,
}

impl Default for ReplicaSets {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            is_listed: watch::Sender::new(false),
        }
    }
}

impl ReplicaSets {
    /// Notes a ReplicaSet that the watch showed. Its template never changes.
    pub fn saw(&self, replica_set: &ReplicaSet) {
        let Some(consumer) = consumer_of(replica_set) else {
            return;
        };
        let key = Key::of(replica_set);
        let mut state = self.state.lock();
        if state.consumers.contains_key(&key) {
            return;
        }
        let names = config_maps(replica_set).map(str::to_owned).collect();
        state.consumers.insert(key.clone(), consumer.clone());
        state.of.entry(consumer).or_default().insert(key, names);
    }

    /// Notes that a ReplicaSet is gone. Returns its consumer, if it is known: a ConfigMap
    /// may be unused now.
    pub fn gone(&self, replica_set: &ReplicaSet) -> Option<Key> {
        self.state.lock().remove(&Key::of(replica_set))
    }

    /// Notes a complete list. Returns the consumers of those that went unseen.
    pub fn listed(&self, names: &HashSet<Key>) -> Vec<Key> {
        let mut state = self.state.lock();
        let gone: Vec<Key> = state
            .consumers
            .keys()
            .filter(|key| !names.contains(key))
            .cloned()
            .collect();
        let consumers = gone.iter().filter_map(|key| state.remove(key)).collect();
        drop(state);
        self.is_listed.send_replace(true);
        consumers
    }

    /// Returns `true` if some ReplicaSet of the consumer names the ConfigMap.
    pub fn name(&self, consumer: &Key, config_map: &str) -> bool {
        let state = self.state.lock();
        let mut names = state.of.get(consumer).into_iter().flat_map(HashMap::values);
        names.any(|names| names.iter().any(|name| name == config_map))
    }

    /// Waits until ReplicaSets have been listed once: before, any ConfigMap may be in use.
    pub async fn complete(&self) {
        let mut listed = self.is_listed.subscribe();
        // The sender lives as long as self.
        let _ = listed.wait_for(|listed| *listed).await;
    }
}

impl State {
    fn remove(&mut self, replica_set: &Key) -> Option<Key> {
        let consumer = self.consumers.remove(replica_set)?;
        if let Some(of) = self.of.get_mut(&consumer) {
            of.remove(replica_set);
            if of.is_empty() {
                self.of.remove(&consumer);
            }
        }
        Some(consumer)
    }
}

fn consumer_of(replica_set: &ReplicaSet) -> Option<Key> {
    let metadata = replica_set.meta();
    let consumer = metadata.labels.as_ref()?.get(CONSUMER_LABEL)?;
    Some(Key::new(metadata.namespace.as_deref()?, consumer))
}

/// Returns the ConfigMaps that the volumes of a ReplicaSet's pods name.
pub fn config_maps(replica_set: &ReplicaSet) -> impl Iterator<Item = &str> {
    let template = replica_set
        .spec
        .as_ref()
        .and_then(|it| it.template.as_ref());
    let spec = template.and_then(|template| template.spec.as_ref());
    let volumes = spec.and_then(|spec| spec.volumes.as_ref());
    let config_maps = volumes.into_iter().flatten();
    config_maps.filter_map(|volume| Some(volume.config_map.as_ref()?.name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replica_set(name: &str, config_map: &str) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "namespace": "shop",
                "labels": { CONSUMER_LABEL: "orders" },
            },
            "spec": { "selector": {}, "template": { "spec": { "containers": [], "volumes": [
                { "name": "tmp", "emptyDir": {} },
                { "name": "config", "configMap": { "name": config_map } },
            ] } } },
        }))
        .unwrap()
    }

    #[test]
    fn a_config_map_is_named_until_its_last_replica_set_is_gone() {
        let sets = ReplicaSets::default();
        let consumer = Key::new("shop", "orders");
        let (old, new) = (replica_set("orders-1", "a"), replica_set("orders-2", "b"));
        sets.saw(&old);
        sets.saw(&new);
        sets.saw(&replica_set("orders-3", "b"));
        let named = |name: &str| sets.name(&consumer, name);
        assert!(named("a") && named("b") && !named("c"));
        assert!(!sets.name(&Key::new("shop", "other"), "a"));
        assert_eq!(sets.gone(&new), Some(consumer.clone()));
        assert!(named("b"), "another names it");
        let left = HashSet::from([Key::of(&old)]);
        assert_eq!(sets.listed(&left), std::slice::from_ref(&consumer));
        assert!(named("a") && !named("b"));
        assert_eq!(sets.gone(&old), Some(consumer.clone()));
        assert_eq!(sets.gone(&old), None);
        assert!(sets.state.lock().of.is_empty());
    }
}
