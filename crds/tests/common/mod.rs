//! What the tests share: a manifest that is right, and tables of variations.
// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use penstock_crds::manifest::{self, Content, Document, Problem};
use penstock_crds::validate::ValidatedConsumer;
use penstock_crds::violation::Violation;
use serde::Deserialize;
use serde_json::{Value, json};

/// One row of a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub patch: Value,
    #[serde(default)]
    pub by: Option<By>,
    #[serde(default)]
    pub expect: Vec<String>,
}

/// Who refuses a bad manifest besides Rust.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Rule,
    Schema,
    Api,
    Rust,
}

impl Case {
    pub fn object(&self) -> Value {
        let mut object = base();
        merge(&mut object, &self.patch);
        object
    }
}

/// Reads a table that stands beside the tests.
pub fn table(text: &str) -> Vec<Case> {
    serde_yaml::from_str(text).unwrap()
}

/// The smallest manifest that is right.
pub fn base() -> Value {
    json!({
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "KafkaConsumer",
        "metadata": { "name": "orders" },
        "spec": {
            "group": "billing.orders",
            "topics": ["orders"],
            "mode": "Fast",
            "kafka": { "bootstrapServers": "kafka:9092" },
            "handler": { "image": "registry.example/billing:1.4" },
        },
    })
}

/// The base with a patch laid over its spec.
pub fn with_spec(patch: Value) -> Value {
    let mut object = base();
    merge(&mut object["spec"], &patch);
    object
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// The one document of a manifest.
pub fn document(object: &Value) -> Document {
    let text = object.to_string();
    let mut documents = manifest::read(&text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

/// What is wrong with a manifest; nothing when it is accepted.
pub fn violations(object: &Value) -> Vec<Violation> {
    match document(object).content {
        Content::Consumer(_) => Vec::new(),
        Content::Refused(refusal) => match refusal.problem {
            Problem::Violations(violations) => violations.0,
            problem => panic!("{problem}"),
        },
        Content::Other(other) => panic!("taken for another object: {other:?}"),
    }
}

/// The consumer that a manifest comes to.
pub fn validated(object: &Value) -> ValidatedConsumer {
    match document(object).content {
        Content::Consumer(consumer) => consumer.validated,
        other => panic!("{other:?}"),
    }
}

/// The CRD's schema of the whole resource.
pub fn crd_schema() -> Value {
    let crd = serde_json::to_value(penstock_crds::crd::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}
