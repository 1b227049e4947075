//! Reading manifests: from YAML text to checked consumers, with everything that
//! is wrong reported at once.

mod metadata;
mod partial;
mod yaml;

use std::sync::LazyLock;

use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::schema;
use crate::spec::KafkaConsumer;
use crate::suggest::nearest;
use crate::validate::{ValidatedConsumer, validate};
use crate::violation::{Violation, Violations};

/// One YAML document that is not empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its place among the documents that are not empty, from 1.
    pub index: usize,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Its content.
    pub content: Content,
}

/// The content of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A consumer that keeps every rule.
    Consumer(Box<Consumer>),
    /// Another kind of object, such as a ConfigMap, which is not checked.
    Other(OtherObject),
    /// A consumer, or what was meant as one, that can't be used.
    Refused(Refusal),
}

/// A consumer as it was written, and what it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    /// The resource.
    pub resource: KafkaConsumer,
    /// The resource, checked and with its defaults.
    pub validated: ValidatedConsumer,
}

/// An object of another kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherObject {
    /// API version, such as `v1`.
    pub api_version: String,
    /// Kind, such as `ConfigMap`.
    pub kind: String,
    /// Name, when it has one.
    pub name: Option<String>,
}

/// An error in a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// `metadata.name`, as far as it could be read.
    pub name: Option<String>,
    /// The problem.
    pub problem: Problem,
}

/// A problem of a document.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Problem {
    /// The text is not YAML, or a key is duplicated. Line and column count from 1, in the
    /// whole text.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line in the text.
        line: usize,
        /// Column in the line.
        column: usize,
        /// The message of the YAML parser.
        message: String,
    },
    /// The document breaks rules.
    #[error("{0}")]
    Violations(Violations),
}

/// The reason why a text is not exactly one consumer.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ManifestErrors {
    /// There is no consumer in it.
    #[error("found no KafkaConsumer, but {}; give a file with one", objects(.0))]
    None(Vec<String>),
    /// There are several.
    #[error(
        "found {} KafkaConsumers ({}), and one can run here; give a file with one", .0.len(), .0.join(", ")
    )]
    Several(Vec<String>),
    /// The one consumer can't be used.
    #[error("{0}")]
    Refused(Problem),
}

/// Reads every document of a text.
///
/// A list of objects, such as one of `kind: List`, counts as one document and gives as
/// many results as it has items. Paths of violations in it begin with the item.
pub fn read(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    for (before, document) in yaml::documents(text).into_iter().enumerate() {
        let contents = match document.value {
            Ok(value) => contents(value),
            Err(problem) => vec![Content::Refused(Refusal {
                name: None,
                problem,
            })],
        };
        documents.extend(contents.into_iter().map(|content| Document {
            index: before + 1,
            line: document.line,
            content,
        }));
    }
    documents
}

/// Returns the content of an object, or of each object of a list. kubectl takes each object
/// with `items` whose kind ends in `List` for a list.
fn contents(mut value: Value) -> Vec<Content> {
    let Some(items) = take_items(&mut value) else {
        return vec![content(value)];
    };
    let item = |(index, mut item): (usize, Value)| match take_items(&mut item) {
        Some(_) => refused_list(index),
        None => below(&format!("items[{index}]."), content(item)),
    };
    items.into_iter().enumerate().map(item).collect()
}

/// Takes the items out of a list.
fn take_items(value: &mut Value) -> Option<Vec<Value>> {
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|it| it.ends_with("List"));
    match value.get_mut("items") {
        Some(Value::Array(items)) if is_list => Some(std::mem::take(items)),
        _ => None,
    }
}

fn refused_list(index: usize) -> Content {
    let violation = Violation {
        path: format!("items[{index}].kind"),
        value: None,
        message: "kubectl takes no list in a list; put its items into this one".to_owned(),
    };
    Content::Refused(Refusal {
        name: None,
        problem: Problem::Violations(Violations(vec![violation])),
    })
}

/// Puts a path in front of the paths of violations.
fn below(path: &str, mut content: Content) -> Content {
    if let Content::Refused(refusal) = &mut content
        && let Problem::Violations(violations) = &mut refusal.problem
    {
        for violation in &mut violations.0 {
            violation.path.insert_str(0, path);
        }
    }
    content
}

/// Writes a manifest so that [`read`] gives the same values: as YAML, or as JSON if the YAML
/// would be read differently. serde_yaml writes YAML 1.2, without quotes around `yes`, and
/// breaks lines at U+2028.
pub fn write(manifest: &Value) -> String {
    let text = serde_yaml::to_string(manifest).expect("JSON is YAML");
    if yaml::is_read_as(&text, manifest) {
        text
    } else {
        manifest.to_string()
    }
}

/// Reads a text that must hold one consumer. It may also contain objects of other kinds.
///
/// # Errors
/// When there is no consumer, more than one, or one that breaks rules.
pub fn read_one(text: &str) -> Result<(KafkaConsumer, ValidatedConsumer), ManifestErrors> {
    let mut others = Vec::new();
    let mut found = Vec::new();
    for document in read(text) {
        match document.content {
            Content::Other(other) => others.push(other.kind),
            Content::Consumer(consumer) => found.push((name_of(&consumer.resource), Ok(*consumer))),
            Content::Refused(refusal) => {
                let name = refusal
                    .name
                    .unwrap_or_else(|| format!("line {}", document.line));
                found.push((name, Err(refusal.problem)));
            }
        }
    }
    if found.len() > 1 {
        let names = found.into_iter().map(|(name, _)| name).collect();
        return Err(ManifestErrors::Several(names));
    }
    match found.pop() {
        None => Err(ManifestErrors::None(others)),
        Some((_, Ok(consumer))) => Ok((consumer.resource, consumer.validated)),
        Some((_, Err(problem))) => Err(ManifestErrors::Refused(problem)),
    }
}

fn objects(kinds: &[String]) -> String {
    match kinds {
        [] => "nothing at all".to_owned(),
        kinds => kinds.join(", "),
    }
}

fn name_of(resource: &KafkaConsumer) -> String {
    resource.metadata.name.clone().unwrap_or_default()
}

fn content(value: Value) -> Content {
    let value = schema::without_nulls(value);
    if let Some(other) = other_object(&value) {
        return Content::Other(other);
    }
    let name = value["metadata"]["name"].as_str().map(str::to_owned);
    match read_object(value) {
        Ok(consumer) => Content::Consumer(Box::new(consumer)),
        Err(violations) => Content::Refused(Refusal {
            name,
            problem: Problem::Violations(violations),
        }),
    }
}

/// Returns the object if it is clearly not intended as a consumer: it names its API and
/// kind, and neither is or resembles that of a KafkaConsumer.
fn other_object(value: &Value) -> Option<OtherObject> {
    let api_version = value["apiVersion"].as_str()?;
    let kind = value["kind"].as_str()?;
    let ours = api_version.starts_with("penstock.dev/")
        || nearest(api_version, [api_version_wanted().as_str()]).is_some()
        || nearest(kind, [KIND]).is_some();
    (!ours).then(|| OtherObject {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: value["metadata"]["name"].as_str().map(str::to_owned),
    })
}

const KIND: &str = "KafkaConsumer";

fn api_version_wanted() -> String {
    KafkaConsumer::api_version(&()).into_owned()
}

/// Reads one object as JSON, such as an API server gives it.
///
/// # Errors
/// Every fault of its structure, and every rule that it breaks and that does not depend on a field
/// with a fault.
pub fn read_object(value: Value) -> Result<Consumer, Violations> {
    let value = schema::without_nulls(value);
    let mut violations = Vec::new();
    violations.extend(wrong_text(&value, "apiVersion", &api_version_wanted()));
    violations.extend(wrong_text(&value, "kind", KIND));
    violations.extend(metadata::check(&value));
    violations.extend(schema::check(root_schema(), &value, ""));
    if !violations.is_empty() {
        violations.extend(partial::broken_rules(&value, &violations));
        return Err(Violations(violations));
    }
    let resource: KafkaConsumer = serde_json::from_value(value).map_err(|error| {
        Violations(vec![Violation {
            path: "spec".to_owned(),
            value: None,
            message: error.to_string(),
        }])
    })?;
    let validated = validate(&resource.spec)?;
    Ok(Consumer {
        resource,
        validated,
    })
}

fn wrong_text(value: &Value, field: &str, wanted: &str) -> Option<Violation> {
    let found = match value.get(field) {
        Some(Value::String(text)) if text == wanted => return None,
        found => found,
    };
    let message = match found {
        Some(_) => format!("must be '{wanted}'"),
        None => format!("is required: write {field}: {wanted}"),
    };
    Some(Violation {
        path: field.to_owned(),
        value: found.filter(|value| value.is_string()).cloned(),
        message,
    })
}

/// The CRD's schema, with the fields that every object has. A status is the
/// operator's to write, and nothing here reads it.
fn root_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = schema::root().clone();
        for field in ["apiVersion", "kind", "metadata", "status"] {
            schema["properties"][field] = json!({});
        }
        schema
    });
    &SCHEMA
}
