//! The ConfigMaps that the pods of each ReplicaSet read, as its template names them, and the
//! rebalance protocol of these pods.
//!
//! A ConfigMap is kept while a ReplicaSet names it: pods of that template may restart, or return by
//! a rollback.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Resource as _;
use parking_lot::Mutex;

use crate::build::{CONSUMER_LABEL, Kind, RebalanceProtocol};
use crate::key::Key;

/// The ReplicaSets of all consumers.
#[derive(Default)]
pub struct ReplicaSets {
    state: Mutex<State>,
    is_listed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The ReplicaSets of each consumer, by name.
    of: HashMap<Key, HashMap<Key, Kept>>,
    consumers: HashMap<Key, Key>,
}

/// What is kept of a ReplicaSet.
struct Kept {
    /// The ConfigMaps that it names.
    config_maps: Box<[String]>,
    pods: Pods,
}

/// The pods of a ReplicaSet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pods {
    /// It has none, or none that is not being deleted.
    None,
    /// The rebalance protocol of its pods, if the operator has noted it.
    Some(Option<RebalanceProtocol>),
}

impl ReplicaSets {
    /// Notes a ReplicaSet that the watch showed. Its template never changes. Returns its consumer
    /// if pods of another protocol run than before.
    pub fn saw(&self, replica_set: &ReplicaSet) -> Option<Key> {
        let consumer = consumer_of(replica_set)?;
        let key = Key::of(replica_set);
        let pods = pods_of(replica_set);
        let mut state = self.state.lock();
        let sets = state.of.entry(consumer.clone()).or_default();
        if let Some(kept) = sets.get_mut(&key) {
            let before = std::mem::replace(&mut kept.pods, pods);
            return (before != pods).then_some(consumer);
        }
        let config_maps = own_config_maps(replica_set, &consumer).collect();
        sets.insert(key.clone(), Kept { config_maps, pods });
        state.consumers.insert(key, consumer.clone());
        (pods != Pods::None).then_some(consumer)
    }

    /// Returns the rebalance protocols of a consumer's pods that run and are not being deleted;
    /// none if one of them is not known.
    pub fn protocols(&self, consumer: &Key) -> Option<Vec<RebalanceProtocol>> {
        if !self.are_listed() {
            return None;
        }
        let state = self.state.lock();
        let sets = state.of.get(consumer).into_iter().flat_map(HashMap::values);
        let protocols = sets.filter_map(|kept| match kept.pods {
            Pods::None => None,
            Pods::Some(protocol) => Some(protocol),
        });
        protocols.collect()
    }

    /// Notes that a ReplicaSet is gone. Returns its consumer, if it is known: a ConfigMap may be
    /// unused now.
    pub fn gone(&self, replica_set: &ReplicaSet) -> Option<Key> {
        self.state.lock().remove(&Key::of(replica_set))
    }

    /// Notes a complete list. Returns the consumers of ReplicaSets that were deleted unseen.
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
        self.is_listed.store(true, Ordering::Release);
        consumers
    }

    /// Returns `true` if a ReplicaSet of the consumer names the ConfigMap.
    pub fn name(&self, consumer: &Key, config_map: &str) -> bool {
        let state = self.state.lock();
        let mut names = state.of.get(consumer).into_iter().flat_map(HashMap::values);
        names.any(|kept| kept.config_maps.iter().any(|name| name == config_map))
    }

    /// Returns `true` once ReplicaSets have been listed: before, any ConfigMap may be in use.
    pub fn are_listed(&self) -> bool {
        self.is_listed.load(Ordering::Acquire)
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

/// Returns `true` if a ConfigMap of this name may be one of the consumer's.
fn is_of(config_map: &str, consumer: &Key) -> bool {
    let key = Key::new(&consumer.namespace, config_map);
    Kind::ConfigMap.consumer_name(&key).as_ref() == Some(consumer)
}

fn consumer_of(replica_set: &ReplicaSet) -> Option<Key> {
    let metadata = replica_set.meta();
    let consumer = metadata.labels.as_ref()?.get(CONSUMER_LABEL)?;
    Some(Key::new(metadata.namespace.as_deref()?, consumer))
}

/// Returns the pods of a ReplicaSet. The Deployment's controller gives each ReplicaSet the
/// annotations that the Deployment has while it is the newest.
fn pods_of(replica_set: &ReplicaSet) -> Pods {
    let wanted = replica_set.spec.as_ref().and_then(|spec| spec.replicas);
    let actual = replica_set.status.as_ref().map(|status| status.replicas);
    if wanted.unwrap_or_default() == 0 && actual.unwrap_or_default() == 0 {
        return Pods::None;
    }
    let annotations = replica_set.meta().annotations.as_ref();
    let name = annotations.and_then(|all| all.get(RebalanceProtocol::ANNOTATION));
    Pods::Some(name.and_then(|name| RebalanceProtocol::parse(name)))
}

/// Returns the ConfigMaps of the consumer that the volumes of a ReplicaSet's pods name. A
/// ReplicaSet may name other ConfigMaps too: every client that may create ReplicaSets decides that.
pub fn own_config_maps(replica_set: &ReplicaSet, consumer: &Key) -> impl Iterator<Item = String> {
    let own = config_maps(replica_set).filter(|name| is_of(name, consumer));
    own.map(str::to_owned)
}

fn config_maps(replica_set: &ReplicaSet) -> impl Iterator<Item = &str> {
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

    /// A ConfigMap's name as the operator gives it.
    fn name(digit: char) -> String {
        format!("orders-config-{}", String::from(digit).repeat(12))
    }

    #[test]
    fn what_is_none_of_the_consumer_s_config_maps_is_not_kept() {
        let sets = ReplicaSets::default();
        sets.saw(&replica_set("orders-1", &"x".repeat(100_000)));
        let state = sets.state.lock();
        let kept = state.of.values().flat_map(HashMap::values);
        assert!(kept.clone().count() == 1 && kept.clone().all(|it| it.config_maps.is_empty()));
    }

    #[test]
    fn the_protocols_of_running_pods_are_those_of_their_replica_sets() {
        use RebalanceProtocol::{Consumer, Cooperative};
        let sets = ReplicaSets::default();
        let consumer = Key::new("shop", "orders");
        let with = |name: &str, protocol: &str, wanted: i32, actual: i32| {
            let mut set = replica_set(name, &super::tests::name('a'));
            let annotation = (
                RebalanceProtocol::ANNOTATION.to_owned(),
                protocol.to_owned(),
            );
            set.metadata.annotations = Some([annotation].into());
            set.spec.as_mut().unwrap().replicas = Some(wanted);
            set.status.get_or_insert_default().replicas = actual;
            set
        };
        let news = |set: &ReplicaSet| sets.saw(set).is_some();
        assert!(news(&with("orders-1", "cooperative", 3, 3)));
        assert_eq!(sets.protocols(&consumer), None, "not all are known yet");
        sets.listed(&HashSet::from([Key::new("shop", "orders-1")]));
        assert_eq!(sets.protocols(&consumer), Some(vec![Cooperative]));
        assert!(
            !news(&with("orders-1", "cooperative", 0, 2)),
            "some still run"
        );
        assert!(!news(&with("orders-2", "consumer", 0, 0)));
        assert_eq!(sets.protocols(&consumer), Some(vec![Cooperative]));
        assert!(news(&with("orders-1", "cooperative", 0, 0)));
        assert_eq!(sets.protocols(&consumer), Some(vec![]));
        assert!(news(&with("orders-2", "consumer", 1, 0)));
        assert_eq!(sets.protocols(&consumer), Some(vec![Consumer]));
        assert!(news(&with("orders-2", "unheard-of", 1, 0)));
        assert_eq!(sets.protocols(&consumer), None);
        sets.listed(&HashSet::new());
        assert_eq!(sets.protocols(&consumer), Some(vec![]));
    }

    #[test]
    fn a_config_map_is_named_until_its_last_replica_set_is_gone() {
        let sets = ReplicaSets::default();
        let consumer = Key::new("shop", "orders");
        let (old, new) = (
            replica_set("orders-1", &name('a')),
            replica_set("orders-2", &name('b')),
        );
        sets.saw(&old);
        sets.saw(&new);
        sets.saw(&replica_set("orders-3", &name('b')));
        let named = |name: &str| sets.name(&consumer, name);
        assert!(named(&name('a')) && named(&name('b')) && !named(&name('c')));
        assert!(!sets.name(&Key::new("shop", "other"), &name('a')));
        assert_eq!(sets.gone(&new), Some(consumer.clone()));
        assert!(named(&name('b')), "another names it");
        let left = HashSet::from([Key::of(&old)]);
        assert_eq!(sets.listed(&left), std::slice::from_ref(&consumer));
        assert!(named(&name('a')) && !named(&name('b')));
        assert_eq!(sets.gone(&old), Some(consumer.clone()));
        assert_eq!(sets.gone(&old), None);
        assert!(sets.state.lock().of.is_empty());
    }
}
