//! The metadata of a consumer, held to what every API server demands of it.

use serde_json::{Value, json};

use crate::crd::{
    LABEL_VALUE, MAX_LABEL_VALUE, MAX_NAME_LENGTH, NAME_MESSAGE, NAME_PATTERN, QUALIFIED_NAME,
};
use crate::schema::{self, matches};
use crate::violation::Violation;

/// The name of a namespace: a DNS label.
const NAMESPACE: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";

/// The most bytes of all annotations together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Returns everything that is wrong with the metadata of an object.
pub(super) fn check(object: &Value) -> Vec<Violation> {
    let metadata = match object.get("metadata") {
        Some(metadata) => metadata,
        None => &json!({}),
    };
    let mut violations = schema::check(&schema(), metadata, "metadata");
    if let Some(name) = metadata["name"].as_str()
        && !is_name(name)
    {
        // The API server's message about a name speaks of other rules.
        violations.retain(|violation| violation.path != "metadata.name");
        violations.push(wrong("metadata.name", Some(name), NAME_MESSAGE));
    }
    if let Some(namespace) = metadata["namespace"].as_str()
        && !matches(NAMESPACE, namespace)
    {
        violations.push(wrong(
            "metadata.namespace",
            Some(namespace),
            "must have 1 to 63 characters, each a lower-case letter, a digit or '-', and begin and end with a letter or digit",
        ));
    }
    names(metadata, "labels", QUALIFIED_NAME, &mut violations);
    names(
        metadata,
        "annotations",
        &format!("(?i){QUALIFIED_NAME}"),
        &mut violations,
    );
    annotations_size(metadata, &mut violations);
    violations
}

/// Reports the names of labels or annotations that Kubernetes does not take.
fn names(metadata: &Value, field: &str, pattern: &str, violations: &mut Vec<Violation>) {
    for name in metadata[field]
        .as_object()
        .into_iter()
        .flat_map(|it| it.keys())
    {
        if !matches(pattern, name) {
            violations.push(wrong(
                &format!("metadata.{field}"),
                Some(name),
                "has a name that Kubernetes does not take: use one such as team or example.com/team, of letters, digits, '-', '_' and '.', at most 63",
            ));
        }
    }
}

fn annotations_size(metadata: &Value, violations: &mut Vec<Violation>) {
    let annotations = metadata["annotations"].as_object().into_iter().flatten();
    let size: usize = annotations
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_ANNOTATIONS {
        let message = format!("has {size} bytes; Kubernetes allows {MAX_ANNOTATIONS} at most");
        violations.push(wrong("metadata.annotations", None, &message));
    }
}

fn wrong(path: &str, value: Option<&str>, message: &str) -> Violation {
    Violation {
        path: path.to_owned(),
        value: value.map(Value::from),
        message: message.to_owned(),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LENGTH && matches(NAME_PATTERN, name)
}

/// The part of Kubernetes' ObjectMeta that people write; the rest is the API
/// server's.
fn schema() -> Value {
    let label = json!({
        "type": "string",
        "pattern": LABEL_VALUE,
        "maxLength": MAX_LABEL_VALUE,
    });
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let anything = json!({});
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "description": "Name of the consumer in its namespace." },
            "generateName": { "type": "string" },
            "namespace": { "type": "string" },
            "labels": { "type": "object", "additionalProperties": label },
            "annotations": texts,
            "finalizers": { "type": "array", "items": { "type": "string" } },
            "ownerReferences": anything,
            "creationTimestamp": anything,
            "deletionGracePeriodSeconds": anything,
            "deletionTimestamp": anything,
            "generation": anything,
            "managedFields": anything,
            "resourceVersion": anything,
            "selfLink": anything,
            "uid": anything,
        },
    })
}
