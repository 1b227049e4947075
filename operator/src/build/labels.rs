//! Labels and metadata that all objects share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Blueprint;

/// Label with the consumer's name; pods are selected by it.
pub const CONSUMER_LABEL: &str = "penstock.dev/consumer";

/// Label and value of everything that the operator makes; it watches nothing else.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "penstock");

const NAME: (&str, &str) = ("app.kubernetes.io/name", "kafka-consumer");
const INSTANCE: &str = "app.kubernetes.io/instance";

/// The labels of a consumer's objects.
pub(super) fn labels(consumer: &str) -> BTreeMap<String, String> {
    let mut labels = select(consumer);
    labels.insert(NAME.0.into(), NAME.1.into());
    labels.insert(INSTANCE.into(), consumer.into());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels
}

/// The labels that a consumer's pods, and no others of the namespace, have.
pub(super) fn select(consumer: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(CONSUMER_LABEL.into(), consumer.into())])
}

/// The same as a label selector in text.
pub fn selector(consumer: &str) -> String {
    format!("{CONSUMER_LABEL}={consumer}")
}

/// Metadata of an object that belongs to the consumer. Its name is the
/// consumer's with a suffix.
pub(super) fn metadata(blueprint: &Blueprint<'_>, suffix: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("{}{suffix}", blueprint.key.name)),
        namespace: Some(blueprint.key.namespace.to_string()),
        labels: Some(labels(&blueprint.key.name)),
        owner_references: Some(vec![blueprint.owner()]),
        ..ObjectMeta::default()
    }
}
