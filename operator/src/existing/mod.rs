//! What exists of the objects that the operator made, in a few bytes each.
//!
//! Whether an object is as it ought to be is decided without a request and
//! without keeping the object: the fields that are ours, by its
//! `managedFields`, are cut out of it when the watch shows it ([`fields`]), and
//! only their hash is kept. It equals the hash of what was applied until
//! somebody changes one of them, by which it stops being ours.

pub mod deployment;
pub mod fields;
mod shown;

pub use shown::Shown;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::build::{Kind, Object};
use crate::key::Key;
use deployment::Rollout;

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its unique id.
    pub uid: String,
    /// The object that controls it.
    pub controller: Option<Controller>,
    /// Hash of the fields that are ours.
    pub fields: u64,
    /// What a Deployment reports.
    pub rollout: Option<Rollout>,
}

/// The object that controls another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its kind.
    pub kind: String,
    /// Its unique id.
    pub uid: String,
}

impl Controller {
    /// The controller of an object, if it has one.
    pub fn of(object: &impl kube::Resource) -> Option<Self> {
        Self::among(object.owner_references())
    }

    fn among(owners: &[OwnerReference]) -> Option<Self> {
        let controller = owners.iter().find(|owner| owner.controller == Some(true))?;
        Some(Self {
            kind: controller.kind.clone(),
            uid: controller.uid.clone(),
        })
    }
}

/// The objects that exist.
pub struct Existing {
    objects: RwLock<HashMap<(Kind, Key), Record>>,
    /// Hashes of what was sent, and of what came back where the API server wrote
    /// it differently, such as `1000m` as `1`.
    answers: RwLock<HashMap<(Kind, Key), Answer>>,
    /// How many kinds have been listed.
    listed: watch::Sender<usize>,
}

#[derive(Clone, Copy)]
struct Answer {
    sent: u64,
    came_back: u64,
}

impl Default for Existing {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            answers: RwLock::default(),
            listed: watch::Sender::new(0),
        }
    }
}

impl Existing {
    /// The record of an object, by its own name.
    pub fn get(&self, kind: Kind, key: &Key) -> Option<Record> {
        self.objects.read().get(&(kind, key.clone())).cloned()
    }

    /// Whether the object that exists is what applying `object` would make of it.
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

    /// Notes an object that the watch showed. Tells whether anything about it
    /// that matters is new.
    pub fn saw(&self, kind: Kind, object: &Shown) -> bool {
        let record = object.record(kind);
        let key = (kind, Key::of(object));
        let before = self.objects.write().insert(key, record.clone());
        before.as_ref() != Some(&record)
    }

    /// Notes what came back when `sent` was applied.
    pub fn applied(&self, sent: &Object, object: &Shown) {
        let record = object.record(sent.kind);
        let key = (sent.kind, Key::of(object));
        let answer = Answer {
            sent: hash(&fields::without_identity(&sent.body)),
            came_back: record.fields,
        };
        let as_sent = answer.sent == answer.came_back;
        self.objects.write().insert(key.clone(), record);
        match as_sent {
            true => self.answers.write().remove(&key),
            false => self.answers.write().insert(key, answer),
        };
    }

    /// Notes that an object is gone.
    pub fn gone(&self, kind: Kind, key: &Key) {
        let key = (kind, key.clone());
        self.objects.write().remove(&key);
        self.answers.write().remove(&key);
    }

    /// Notes a complete list: what is not in it is gone. Returns the objects that
    /// went unseen.
    pub fn listed(&self, kind: Kind, names: &std::collections::HashSet<Key>) -> Vec<Key> {
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
        self.listed.send_modify(|count| *count += 1);
        gone
    }

    /// Waits until every kind has been listed once: before, what is missing here
    /// may well exist.
    pub async fn complete(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives as long as self.
        let _ = listed.wait_for(|count| *count >= Kind::ALL.len()).await;
    }
}

/// A hash that does not depend on the order of an object's fields: serde_json's
/// maps are sorted.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
