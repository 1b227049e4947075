//! Builds the objects of a consumer from a validated consumer, as pure functions: one file for each
//! object.

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

/// The input of all objects.
pub struct Blueprint<'a> {
    /// Namespace and name of the consumer.
    pub key: &'a Key,
    /// The consumer's unique id: its objects belong to this very consumer.
    pub uid: &'a str,
    /// The resource as the user wrote it.
    pub resource: &'a KafkaConsumer,
    /// The validated consumer.
    pub consumer: &'a ValidatedConsumer,
    /// The digest of the Secrets' entries that pods read once, at their start.
    pub secrets: &'a str,
    /// The runtime's image, for handlers that are not embedded.
    pub runtime: &'a RuntimeImage,
    /// The existing Deployment, if any. Only the strategy depends on it and on the next field.
    pub running: Option<&'a Rollout>,
    /// The rebalance protocols of the pods that run, if all are known.
    pub protocols: Option<Vec<RebalanceProtocol>>,
}

/// The runtime's image, and how nodes pull it.
#[derive(Clone, Debug)]
pub struct RuntimeImage {
    /// The reference of the image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// The Secrets in the consumer's namespace to pull the image with.
    pub pull_secrets: Vec<String>,
}

/// Returns every object that the consumer needs, in the order in which they are applied: the
/// configuration of pods before the pods, and objects that pods can run without last.
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

/// The input of pods at their start.
struct Reads {
    /// The name of their ConfigMap.
    config_map: String,
    /// A digest of its content and of the Secrets' entries.
    digest: String,
}

impl Blueprint<'_> {
    /// Returns the consumer as the owner of its objects, so that Kubernetes deletes them with it,
    /// also without an operator.
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

/// Returns the list, or `None` if it is empty.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
