//! A desired object, in the form in which it is sent.

use kube::Resource;
use kube::api::ApiResource;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::key::Key;

/// The kinds of a consumer's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The runtime's configuration.
    ConfigMap,
    /// The Service of the metrics.
    Service,
    /// The pods.
    Deployment,
    /// The number of pods that may be evicted at the same time.
    PodDisruptionBudget,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::ConfigMap,
        Self::Service,
        Self::Deployment,
        Self::PodDisruptionBudget,
    ];

    /// Returns `true` if pods can't run without the object: their ConfigMap and Deployment.
    pub fn is_needed_by_pods(self) -> bool {
        match self {
            Self::ConfigMap | Self::Deployment => true,
            Self::Service | Self::PodDisruptionBudget => false,
        }
    }

    /// Returns group, version and plural, for requests.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
        }
    }

    /// Returns the kind's name, such as `ConfigMap`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }

    /// Returns the name of a consumer's object of this kind. The names of ConfigMaps begin with it;
    /// the rest follows from their content.
    pub fn object_name(self, consumer: &str) -> String {
        format!("{consumer}{}", self.suffix())
    }

    /// Returns the consumer whose object of this kind has this name.
    pub fn consumer_name(self, object: &Key) -> Option<Key> {
        let consumer = match self {
            Self::ConfigMap => super::config_map::consumer_name(&object.name),
            Self::Service | Self::Deployment | Self::PodDisruptionBudget => {
                object.name.strip_suffix(self.suffix())
            }
        }?;
        Some(Key::new(&object.namespace, consumer))
    }

    /// Returns the suffix of the names of objects of this kind.
    fn suffix(self) -> &'static str {
        match self {
            Self::ConfigMap => super::config_map::SUFFIX,
            Self::Service => super::service::SUFFIX,
            Self::Deployment | Self::PodDisruptionBudget => "",
        }
    }
}

/// A desired object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub body: Value,
}

impl Object {
    /// Creates the object from a typed object, whose metadata have a name.
    pub(super) fn new<K: Resource + Serialize>(kind: Kind, object: &K) -> Self {
        Self {
            kind,
            name: object.meta().name.clone().unwrap_or_default(),
            body: serde_json::to_value(object).expect("Kubernetes' objects are JSON"),
        }
    }
}

/// Returns a short digest of texts, for annotations that roll the pods when it changes: 32
/// hexadecimal digits of their SHA-256.
pub fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let hash = hash.finalize();
    hash[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
