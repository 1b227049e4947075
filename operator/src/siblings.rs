//! Consumers that share a group. On the same brokers they split the partitions of the topics that
//! both read, which is seldom intended.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use penstock_crds::validate::ValidatedConsumer;

use crate::key::Key;

/// The topics that each consumer reads, by group.
#[derive(Default)]
pub struct Siblings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<Arc<Group>, Vec<Member>>,
    of: HashMap<Key, Arc<Group>>,
}

/// A group on some brokers.
#[derive(PartialEq, Eq, Hash)]
struct Group {
    /// The brokers in lower case, sorted, with commas.
    brokers: String,
    id: String,
}

/// A consumer of a group. Most groups have one, so the type is small.
struct Member {
    key: Key,
    /// Sorted.
    topics: Box<[String]>,
}

impl Group {
    fn of(consumer: &ValidatedConsumer) -> Self {
        let brokers = consumer.kafka.bootstrap_servers.split(',');
        let brokers: BTreeSet<String> =
            brokers.map(|broker| broker.trim().to_lowercase()).collect();
        Self {
            brokers: brokers.into_iter().collect::<Vec<_>>().join(","),
            id: consumer.group.to_string(),
        }
    }
}

impl Siblings {
    /// Notes the topics that a consumer reads. Returns the other consumers that must be reconciled,
    /// because a consumer joined or left their group.
    pub fn set(&self, key: &Key, consumer: &ValidatedConsumer) -> Vec<Key> {
        let group = Group::of(consumer);
        let topics: BTreeSet<String> = consumer.topics.iter().map(ToString::to_string).collect();
        let topics: Box<[String]> = topics.into_iter().collect();
        let mut state = self.state.lock();
        let same_group = state.of.get(key).is_some_and(|known| **known == group);
        let known = state.groups.get(&group).into_iter().flatten();
        let mut known = known.filter(|member| member.key == *key);
        if same_group && known.any(|member| member.topics == topics) {
            return Vec::new();
        }
        let mut affected = state.remove(key);
        let group = match state.groups.get_key_value(&group) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(group),
        };
        state.of.insert(key.clone(), Arc::clone(&group));
        let members = state.groups.entry(group).or_default();
        affected.extend(members.iter().map(|member| member.key.clone()));
        let key = key.clone();
        members.push(Member { key, topics });
        affected.into_iter().collect()
    }

    /// Forgets a consumer. Returns the other consumers that must be reconciled.
    pub fn forget(&self, key: &Key) -> Vec<Key> {
        self.state.lock().remove(key).into_iter().collect()
    }

    /// Returns the consumers that read some of the same topics in the same group.
    pub fn of(&self, key: &Key) -> Vec<Key> {
        let state = self.state.lock();
        let Some(members) = state.of.get(key).and_then(|group| state.groups.get(group)) else {
            return Vec::new();
        };
        let Some(own) = members.iter().find(|member| member.key == *key) else {
            return Vec::new();
        };
        let shares =
            |member: &&Member| member.topics.iter().any(|topic| own.topics.contains(topic));
        let mut others: Vec<Key> = members
            .iter()
            .filter(|member| member.key != *key)
            .filter(shares)
            .map(|member| member.key.clone())
            .collect();
        others.sort();
        others
    }
}

impl State {
    /// Removes a consumer. Returns the remaining consumers of its group.
    fn remove(&mut self, key: &Key) -> BTreeSet<Key> {
        let Some(group) = self.of.remove(key) else {
            return BTreeSet::new();
        };
        let Some(members) = self.groups.get_mut(&group) else {
            return BTreeSet::new();
        };
        members.retain(|member| member.key != *key);
        let left = members.iter().map(|member| member.key.clone()).collect();
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
