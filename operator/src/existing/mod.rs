//! The existing objects of consumers, in a few bytes each.
//!
//! The operator decides without a request, and without keeping the object, whether an object has
//! the desired state. When the watch shows an object, the fields that Penstock applied, by its
//! `managedFields`, are extracted ([`fields`]), and only their hash is kept. The hash equals that
//! of the applied fields until another client changes one of them.

pub mod deployment;
pub mod fields;
mod shown;

pub use shown::Shown;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use parking_lot::RwLock;
use penstock_crds::spec::KafkaConsumer;
use serde_json::Value;
use tokio::sync::watch;

use crate::build::{Kind, Object};
use crate::key::Key;
use deployment::Rollout;

/// The kept part of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its unique id.
    pub uid: Box<str>,
    /// The object that controls it.
    pub controller: Option<Controller>,
    /// The hash of the fields that Penstock applied.
    pub fields: u64,
    /// The report of a Deployment.
    pub rollout: Option<Box<Rollout>>,
}

/// The object that controls another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its kind.
    pub kind: Cow<'static, str>,
    /// Its unique id.
    pub uid: Box<str>,
}

impl Controller {
    /// Returns the controller of an object, if it has one.
    pub fn of(object: &impl kube::Resource) -> Option<Self> {
        Self::among(object.owner_references())
    }

    fn among(owners: &[OwnerReference]) -> Option<Self> {
        let controller = owners.iter().find(|owner| owner.controller == Some(true))?;
        let usual = KafkaConsumer::kind(&());
        Some(Self {
            kind: match controller.kind == usual {
                true => usual,
                false => controller.kind.clone().into(),
            },
            uid: controller.uid.as_str().into(),
        })
    }
}

/// The existing objects.
#[derive(Default)]
pub struct Existing {
    objects: RwLock<BTreeMap<(Kind, Key), Record>>,
    /// The hashes of sent fields, and of returned fields that the API server wrote in another way,
    /// such as `1000m` as `1`.
    answers: RwLock<HashMap<(Kind, Key), Answer>>,
    /// The newest version of any object that the watch of each kind has shown.
    shown: RwLock<HashMap<Kind, u64>>,
    /// The kinds that have been listed.
    listed: watch::Sender<HashSet<Kind>>,
}

#[derive(Clone, Copy)]
struct Answer {
    sent: u64,
    came_back: u64,
}

impl Existing {
    /// Returns the record of an object, by the object's name.
    pub fn get(&self, kind: Kind, key: &Key) -> Option<Record> {
        self.objects.read().get(&(kind, key.clone())).cloned()
    }

    /// Returns a consumer's objects of a kind, by the names of the objects.
    pub fn of_consumer(&self, kind: Kind, consumer: &Key) -> Vec<(Key, Record)> {
        let base = kind.object_name(&consumer.name);
        let objects = self.objects.read();
        let from_base = objects.range((kind, Key::new(&consumer.namespace, &base))..);
        from_base
            .map(|((of, key), record)| (*of, key, record))
            .take_while(|(of, key, _)| {
                *of == kind && key.namespace == consumer.namespace && key.name.starts_with(&base)
            })
            .filter(|(_, key, _)| kind.consumer_name(key).as_ref() == Some(consumer))
            .map(|(_, key, record)| (key.clone(), record.clone()))
            .collect()
    }

    /// Returns `true` if applying `object` would not change the existing object.
    pub fn is_current(&self, record: &Record, object: &Object, key: &Key) -> bool {
        let sent = hash(&fields::without_identity(&object.body));
        if record.fields == sent {
            return true;
        }
        let answers = self.answers.read();
        answers
            .get(&(object.kind, key.clone()))
            .is_some_and(|answer| answer.sent == sent && answer.came_back == record.fields)
    }

    /// Notes an object that the watch showed. Returns `true` if its record has changed.
    pub fn saw(&self, kind: Kind, object: &Shown) -> bool {
        let record = object.record(kind);
        let key = (kind, Key::of(object));
        let mut objects = self.objects.write();
        self.note_shown(kind, object);
        let before = objects.insert(key, record.clone());
        before.as_ref() != Some(&record)
    }

    /// Notes the API server's answer after `sent` was applied.
    pub fn applied(&self, sent: &Object, object: &Shown) {
        let record = object.record(sent.kind);
        let key = (sent.kind, Key::of(object));
        let answer = Answer {
            sent: hash(&fields::without_identity(&sent.body)),
            came_back: record.fields,
        };
        let as_sent = answer.sent == answer.came_back;
        let mut objects = self.objects.write();
        // The watch may have shown a newer object than the answer, and it will not show that object
        // again.
        if !self.has_shown(sent.kind, object) {
            objects.insert(key.clone(), record);
        }
        drop(objects);
        match as_sent {
            true => self.answers.write().remove(&key),
            false => self.answers.write().insert(key, answer),
        };
    }

    /// Notes that an object is gone.
    pub fn gone(&self, kind: Kind, object: &Shown) {
        let key = (kind, Key::of(object));
        let mut objects = self.objects.write();
        self.note_shown(kind, object);
        objects.remove(&key);
        drop(objects);
        self.answers.write().remove(&key);
    }

    /// Notes that the object with this uid was deleted before the watch shows that.
    pub fn deleted(&self, kind: Kind, key: &Key, uid: &str) {
        let key = (kind, key.clone());
        let mut objects = self.objects.write();
        if objects.get(&key).is_some_and(|it| *it.uid == *uid) {
            objects.remove(&key);
            drop(objects);
            self.answers.write().remove(&key);
        }
    }

    /// Notes a complete list: an object that is not in it is gone. Returns the objects that were
    /// deleted unseen.
    pub fn listed(&self, kind: Kind, names: &HashSet<Key>) -> Vec<Key> {
        let mut objects = self.objects.write();
        let gone: Vec<Key> = objects
            .keys()
            .filter(|(of, key)| *of == kind && !names.contains(key))
            .map(|(_, key)| key.clone())
            .collect();
        for key in &gone {
            objects.remove(&(kind, key.clone()));
        }
        drop(objects);
        let mut answers = self.answers.write();
        for key in &gone {
            answers.remove(&(kind, key.clone()));
        }
        drop(answers);
        self.listed.send_if_modified(|kinds| kinds.insert(kind));
        gone
    }

    /// The caller has locked `objects`, so that versions and records change together.
    fn note_shown(&self, kind: Kind, object: &Shown) {
        if let Some(version) = version(object) {
            let mut shown = self.shown.write();
            let newest = shown.entry(kind).or_default();
            *newest = version.max(*newest);
        }
    }

    /// Returns `true` if the watch has shown this version of an object or a later one. It shows the
    /// changes of all objects of a kind in their order.
    fn has_shown(&self, kind: Kind, object: &Shown) -> bool {
        let newest = self.shown.read().get(&kind).copied();
        version(object).is_some_and(|version| newest.is_some_and(|newest| version <= newest))
    }

    /// Waits until every kind has been listed once. Before, an object that is missing here may
    /// exist.
    pub async fn complete(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives as long as self.
        let is_complete = |kinds: &HashSet<Kind>| Kind::ALL.iter().all(|kind| kinds.contains(kind));
        let _ = listed.wait_for(is_complete).await;
    }
}

/// Returns the version of an object: a number that rises with every change of any object, as in
/// Kubernetes for its own and for custom resources.
fn version(object: &Shown) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

/// Returns a hash that does not depend on the order of an object's fields: serde_json's maps are
/// sorted.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn deployment(version: u64, ready: i32) -> Shown {
        let object = json!({
            "metadata": {
                "name": "orders",
                "namespace": "shop",
                "uid": "1",
                "resourceVersion": version.to_string(),
            },
            "status": { "readyReplicas": ready },
        });
        serde_json::from_value(object).unwrap()
    }

    fn sent() -> Object {
        Object {
            kind: Kind::Deployment,
            name: "orders".to_owned(),
            body: json!({}),
        }
    }

    fn ready(existing: &Existing) -> Option<i32> {
        let record = existing.get(Kind::Deployment, &Key::new("shop", "orders"))?;
        Some(record.rollout?.ready)
    }

    #[test]
    fn a_kind_that_is_listed_again_stands_for_no_other() {
        let existing = Existing::default();
        let list = |kind| existing.listed(kind, &HashSet::new());
        for _ in 0..10 {
            assert!(list(Kind::ConfigMap).is_empty());
        }
        assert_eq!(existing.complete().now_or_never(), None);
        for kind in Kind::ALL {
            assert!(list(kind).is_empty());
        }
        assert_eq!(existing.complete().now_or_never(), Some(()));
    }

    #[test]
    fn objects_of_a_consumer_are_found_among_those_with_longer_names() {
        let existing = Existing::default();
        for name in [
            "orders",
            "orders-2-config",
            "orders-config",
            "orders-config-0123456789ab",
            "orders-config-2-config",
            "orders-config-config",
            "others-config",
        ] {
            let metadata = json!({ "name": name, "namespace": "shop" });
            let object = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            existing.saw(Kind::ConfigMap, &object);
        }
        let found = |consumer: &str| -> Vec<String> {
            let records = existing.of_consumer(Kind::ConfigMap, &Key::new("shop", consumer));
            records
                .iter()
                .map(|(key, _)| key.name.to_string())
                .collect()
        };
        assert_eq!(
            found("orders"),
            ["orders-config", "orders-config-0123456789ab"]
        );
        assert_eq!(found("orders-config"), ["orders-config-config"]);
        assert!(found("order").is_empty());
        let elsewhere = Key::new("billing", "orders");
        assert!(existing.of_consumer(Kind::ConfigMap, &elsewhere).is_empty());
    }

    #[test]
    fn an_answer_is_known_before_the_watch_shows_it() {
        let existing = Existing::default();
        existing.saw(Kind::Deployment, &deployment(7, 3));
        existing.applied(&sent(), &deployment(8, 2));
        assert_eq!(ready(&existing), Some(2));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_hide_what_the_watch_has_shown() {
        let existing = Existing::default();
        existing.saw(Kind::Deployment, &deployment(9, 1));
        existing.applied(&sent(), &deployment(8, 3));
        assert_eq!(ready(&existing), Some(1));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_bring_back_what_is_gone() {
        let existing = Existing::default();
        existing.gone(Kind::Deployment, &deployment(9, 1));
        existing.applied(&sent(), &deployment(8, 3));
        assert_eq!(ready(&existing), None);
    }
}
