//! Labels and metadata that all objects share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Blueprint;

/// The label with the consumer's name; pods are selected by it.
pub const CONSUMER_LABEL: &str = "penstock.dev/consumer";

/// The label of every object that the operator creates; it watches no others.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "penstock");

const NAME: (&str, &str) = ("app.kubernetes.io/name", "kafka-consumer");
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Returns the labels of a consumer's objects.
pub(super) fn labels(consumer: &str) -> BTreeMap<String, String> {
    let mut labels = select(consumer);
    labels.insert(NAME.0.into(), NAME.1.into());
    labels.insert(INSTANCE.into(), consumer.into());
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels
}

/// Returns the labels that only the pods of a consumer have in their namespace.
pub(super) fn select(consumer: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(CONSUMER_LABEL.into(), consumer.into())])
}

/// Returns the selector of a consumer's pods as text.
pub fn selector(consumer: &str) -> String {
    format!("{CONSUMER_LABEL}={consumer}")
}

/// Returns the metadata of an object that belongs to the consumer. The object's name is the
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
