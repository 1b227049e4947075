//! The first step of a pass: a consumer as the API server returns it, readable or not.
//!
//! An unreadable object, such as one that an older operator wrote or that a newer CRD allowed, must
//! not stop the others. So it is kept together with its errors.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::object::HasStatus as _;
use penstock_crds::manifest;
use penstock_crds::spec::{KafkaConsumer, KafkaConsumerStatus};
use penstock_crds::violation::Violations;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;

/// A KafkaConsumer, readable or not.
#[derive(Clone, Debug)]
pub enum Found {
    /// An object with the structure of this version. It may still break rules.
    Readable(Box<KafkaConsumer>),
    /// An object that does not have the structure of this version.
    Unreadable(Box<Unreadable>),
}

/// The readable parts of an unreadable object.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// The status, if at least that is readable.
    pub status: KafkaConsumerStatus,
    /// The errors, one for each field.
    pub problem: Violations,
}

impl Found {
    /// Returns the status as it was last read.
    pub fn status(&self) -> Cow<'_, KafkaConsumerStatus> {
        match self {
            Self::Readable(consumer) => match consumer.status() {
                Some(status) => Cow::Borrowed(status),
                None => Cow::Owned(KafkaConsumerStatus::default()),
            },
            Self::Unreadable(unreadable) => Cow::Borrowed(&unreadable.status),
        }
    }
}

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Ok(consumer) = KafkaConsumer::deserialize(&value) {
            return Ok(Self::Readable(Box::new(consumer)));
        }
        let metadata =
            ObjectMeta::deserialize(&value["metadata"]).map_err(serde::de::Error::custom)?;
        let status = KafkaConsumerStatus::deserialize(&value["status"]).unwrap_or_default();
        let problem = manifest::read_object(typed(value))
            .err()
            .unwrap_or_default();
        Ok(Self::Unreadable(Box::new(Unreadable {
            metadata,
            status,
            problem,
        })))
    }
}

/// The items of a list have no `apiVersion` and `kind`.
fn typed(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        let version = KafkaConsumer::api_version(&()).into_owned();
        fields.entry("apiVersion").or_insert(version.into());
        let kind = KafkaConsumer::kind(&()).into_owned();
        fields.entry("kind").or_insert(kind.into());
    }
    value
}

impl Resource for Found {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KafkaConsumer::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        KafkaConsumer::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        KafkaConsumer::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        KafkaConsumer::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Readable(consumer) => &consumer.metadata,
            Self::Unreadable(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(consumer) => &mut consumer.metadata,
            Self::Unreadable(unreadable) => &mut unreadable.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;
    use serde_json::json;

    use super::*;

    fn found(spec: Value) -> Found {
        serde_json::from_value(json!({
            "metadata": { "name": "orders", "namespace": "shop", "generation": 3 },
            "spec": spec,
            "status": { "replicas": 2 },
        }))
        .unwrap()
    }

    #[test]
    fn a_consumer_is_read() {
        let found = found(json!({
            "group": "billing.orders",
            "topics": ["orders"],
            "mode": "InOrder",
            "kafka": { "bootstrapServers": "kafka:9092" },
            "handler": { "image": "registry.example/billing:1" },
        }));
        assert!(matches!(found, Found::Readable(_)));
        assert_eq!(found.status().replicas, Some(2));
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_its_metadata_and_status_and_tells_why() {
        let found = found(json!({
            "group": 5,
            "topics": ["orders"],
            "mode": "InOrder",
            "kafka": { "bootstrapServers": "kafka:9092" },
            "handler": { "image": "registry.example/billing:1", "retries": 3 },
        }));
        assert_eq!(found.name_any(), "orders");
        assert_eq!(found.meta().generation, Some(3));
        assert_eq!(found.status().replicas, Some(2));
        let Found::Unreadable(unreadable) = found else {
            panic!("it was read");
        };
        let problem = unreadable.problem.to_string();
        assert!(problem.contains("spec.group: must be text"), "{problem}");
        assert!(problem.contains("spec.handler.retries"), "{problem}");
    }
}
