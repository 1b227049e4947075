//! Consumers that share a group: on the same brokers they split the partitions
//! of the topics that both read, which is seldom what their authors meant.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use penstock_crds::validate::ValidatedConsumer;

use crate::key::Key;

/// Who reads what, as which group.
#[derive(Default)]
pub struct Siblings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<Group, HashMap<Key, BTreeSet<String>>>,
    of: HashMap<Key, Group>,
}

/// A group on some brokers.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    brokers: BTreeSet<String>,
    id: String,
}

impl Group {
    fn of(consumer: &ValidatedConsumer) -> Self {
        let brokers = consumer.kafka.bootstrap_servers.split(',');
        Self {
            brokers: brokers.map(|broker| broker.trim().to_lowercase()).collect(),
            id: consumer.group.to_string(),
        }
    }
}

impl Siblings {
    /// Notes what a consumer reads. Returns the others that must be looked at
    /// again: those whose company changed.
    pub fn set(&self, key: &Key, consumer: &ValidatedConsumer) -> Vec<Key> {
        let group = Group::of(consumer);
        let topics: BTreeSet<String> = consumer.topics.iter().map(ToString::to_string).collect();
        let mut state = self.state.lock();
        let same_group = state.of.get(key) == Some(&group);
        let members = state.groups.get(&group);
        if same_group && members.and_then(|members| members.get(key)) == Some(&topics) {
            return Vec::new();
        }
        let mut affected = state.remove(key);
        state.of.insert(key.clone(), group.clone());
        let members = state.groups.entry(group).or_default();
        members.insert(key.clone(), topics);
        affected.extend(members.keys().cloned());
        affected.remove(key);
        affected.into_iter().collect()
    }

    /// Forgets a consumer. Returns the others that must be looked at again.
    pub fn forget(&self, key: &Key) -> Vec<Key> {
        self.state.lock().remove(key).into_iter().collect()
    }

    /// The consumers that read some of the same topics as the same group.
    pub fn of(&self, key: &Key) -> Vec<Key> {
        let state = self.state.lock();
        let Some(members) = state.of.get(key).and_then(|group| state.groups.get(group)) else {
            return Vec::new();
        };
        let Some(topics) = members.get(key) else {
            return Vec::new();
        };
        let mut others: Vec<Key> = members
            .iter()
            .filter(|(other, theirs)| *other != key && !theirs.is_disjoint(topics))
            .map(|(other, _)| other.clone())
            .collect();
        others.sort();
        others
    }
}

impl State {
    /// Removes a consumer; returns who is left in its group.
    fn remove(&mut self, key: &Key) -> BTreeSet<Key> {
        let Some(group) = self.of.remove(key) else {
            return BTreeSet::new();
        };
        let Some(members) = self.groups.get_mut(&group) else {
            return BTreeSet::new();
        };
        members.remove(key);
        let left = members.keys().cloned().collect();
        if members.is_empty() {
            self.groups.remove(&group);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use penstock_crds::manifest;
    use serde_json::json;

    use super::*;

    fn consumer(brokers: &str, group: &str, topics: &[&str]) -> ValidatedConsumer {
        manifest::read_object(json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "KafkaConsumer",
            "metadata": { "name": "x" },
            "spec": {
                "group": group,
                "topics": topics,
                "mode": "InOrder",
                "kafka": { "bootstrapServers": brokers },
                "handler": { "image": "registry.example/x:1" },
            },
        }))
        .unwrap()
        .validated
    }

    #[test]
    fn two_readers_of_a_topic_in_one_group_know_of_each_other_until_one_goes() {
        let siblings = Siblings::default();
        let (a, b) = (Key::new("x", "a"), Key::new("y", "b"));
        assert!(
            siblings
                .set(&a, &consumer("k1:9092,k2:9092", "s.g", &["t", "u"]))
                .is_empty()
        );
        let affected = siblings.set(&b, &consumer("K2:9092, k1:9092", "s.g", &["u"]));
        assert_eq!(affected, std::slice::from_ref(&a));
        assert_eq!(siblings.of(&a), std::slice::from_ref(&b));
        assert_eq!(siblings.of(&b), std::slice::from_ref(&a));
        assert_eq!(siblings.forget(&b), std::slice::from_ref(&a));
        assert!(siblings.of(&a).is_empty());
    }

    #[test]
    fn other_topics_groups_or_brokers_are_nobody_s_business() {
        let siblings = Siblings::default();
        let keys = ["a", "b", "c", "d"].map(|name| Key::new("x", name));
        let consumers = [
            consumer("k:9092", "s.g", &["t"]),
            consumer("k:9092", "s.g", &["u"]),
            consumer("k:9092", "s.h", &["t"]),
            consumer("l:9092", "s.g", &["t"]),
        ];
        for (key, consumer) in keys.iter().zip(&consumers) {
            siblings.set(key, consumer);
        }
        assert!(keys.iter().all(|key| siblings.of(key).is_empty()));
    }

    #[test]
    fn nothing_new_wakes_nobody() {
        let siblings = Siblings::default();
        let (a, b) = (Key::new("x", "a"), Key::new("x", "b"));
        let consumer = consumer("k:9092", "s.g", &["t"]);
        siblings.set(&a, &consumer);
        siblings.set(&b, &consumer);
        assert!(siblings.set(&a, &consumer).is_empty());
    }
}
