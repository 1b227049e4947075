//! A manifest as the operator takes it: read, validated and built.

use penstock_crds::manifest;
use penstock_crds::spec::KafkaConsumer;
use penstock_crds::validate::ValidatedConsumer;
use penstock_operator::build::{self, Blueprint, Kind, Object, RebalanceProtocol, RuntimeImage};
use penstock_operator::existing::deployment::Rollout;
use penstock_operator::key::Key;
use serde_json::Value;

pub const NAMESPACE: &str = "shop";
pub const UID: &str = "5b1c2f5e-2a84-4c7b-9d55-0c8d0e3e6a10";

/// A consumer that keeps every rule.
pub struct Manifest {
    pub resource: KafkaConsumer,
    pub consumer: ValidatedConsumer,
}

impl Manifest {
    pub fn read(text: &str) -> Self {
        let (resource, consumer) =
            manifest::read_one(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Self { resource, consumer }
    }

    pub fn name(&self) -> &str {
        self.resource
            .metadata
            .name
            .as_deref()
            .expect("it has a name")
    }

    /// The objects, when the Secrets have this digest.
    pub fn objects(&self, secrets: &str) -> Vec<Object> {
        self.objects_over(secrets, None)
    }

    /// The same while this Deployment runs.
    pub fn objects_over(&self, secrets: &str, running: Option<&Rollout>) -> Vec<Object> {
        self.objects_over_pods(secrets, running, None)
    }

    /// The same while pods of these protocols run, if all are known.
    pub fn objects_over_pods(
        &self,
        secrets: &str,
        running: Option<&Rollout>,
        protocols: Option<Vec<RebalanceProtocol>>,
    ) -> Vec<Object> {
        let key = Key::new(NAMESPACE, self.name());
        build::objects(&Blueprint {
            key: &key,
            uid: UID,
            resource: &self.resource,
            consumer: &self.consumer,
            secrets,
            runtime: &RuntimeImage {
                image: "registry.example/penstock-runtime:0.1.0".into(),
                pull_policy: "IfNotPresent".into(),
                pull_secrets: vec!["penstock-registry".into()],
            },
            running,
            protocols,
        })
    }
}

/// The object of a kind, which must be among them.
pub fn body(objects: &[Object], kind: Kind) -> &Value {
    let object = objects.iter().find(|object| object.kind == kind);
    &object.unwrap_or_else(|| panic!("no {}", kind.name())).body
}
