//! From a validated consumer to the objects that it needs, as pure functions:
//! one file an object.

mod config_map;
mod containers;
mod deployment;
mod disruption_budget;
mod labels;
mod object;
mod pod;
mod protocol;
mod service;
mod volumes;

pub use containers::{HANDLER, RUNTIME};
pub use deployment::{KAFKA_ANNOTATION, PROGRESS_DEADLINE, kafka_digest};
pub use labels::{CONSUMER_LABEL, MANAGED_BY, selector};
pub use object::{Kind, Object, digest};
pub use protocol::{Assignors, RebalanceProtocol};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use penstock_crds::spec::KafkaConsumer;
use penstock_crds::validate::ValidatedConsumer;

use crate::existing::deployment::Rollout;
use crate::key::Key;

/// All that the objects are made of.
pub struct Blueprint<'a> {
    /// Namespace and name of the consumer.
    pub key: &'a Key,
    /// Its unique id: its objects belong to this very one.
    pub uid: &'a str,
    /// The resource as it was written.
    pub resource: &'a KafkaConsumer,
    /// What it comes to.
    pub consumer: &'a ValidatedConsumer,
    /// Digest of the Secrets' entries that the pods read once, at their start.
    pub secrets: &'a str,
    /// The runtime's image, for handlers that are not embedded.
    pub runtime: &'a RuntimeImage,
    /// The Deployment that runs, if any. Only the strategy depends on it.
    pub running: Option<&'a Rollout>,
}

/// The runtime's image and how nodes get it.
#[derive(Clone, Debug)]
pub struct RuntimeImage {
    /// Reference of the image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Secrets of the consumer's namespace to pull it with.
    pub pull_secrets: Vec<String>,
}

/// Every object that the consumer needs, in the order in which they are applied:
/// what pods read comes before the pods, and objects that pods can run without come last.
pub fn objects(blueprint: &Blueprint<'_>) -> Vec<Object> {
    let config = config_map::build(blueprint);
    let reads = Reads {
        digest: digest([config_map::text(&config), blueprint.secrets]),
        config_map: config.metadata.name.clone().unwrap_or_default(),
    };
    let mut objects = vec![
        Object::new(Kind::ConfigMap, &config),
        Object::new(Kind::Deployment, &deployment::build(blueprint, &reads)),
        Object::new(Kind::Service, &service::build(blueprint)),
    ];
    if let Some(budget) = disruption_budget::build(blueprint) {
        objects.push(Object::new(Kind::PodDisruptionBudget, &budget));
    }
    objects
}

/// What pods read at their start.
struct Reads {
    /// The name of their ConfigMap.
    config_map: String,
    /// A digest of its content and of the Secrets' entries.
    digest: String,
}

impl Blueprint<'_> {
    /// Owned by the consumer, so that they go with it, even when the operator is
    /// gone.
    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: KafkaConsumer::api_version(&()).into_owned(),
            kind: KafkaConsumer::kind(&()).into_owned(),
            name: self.key.name.to_string(),
            uid: self.uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// An empty list is left out.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
