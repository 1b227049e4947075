//! The configuration reference, generated from the schema and the rules.

use std::fmt::Write;

use serde_json::Value;

use crate::librdkafka::properties::{self, Kind, Scope};
use crate::rules::{self, Rule};
use crate::schema;

const INTRODUCTION: &str = "\
<!-- Generated from the types and rules of crds/src; do not edit.
     Regenerate: cargo run -p penstock-crds --bin generate -->

# Configuration reference

This page lists every field of a `KafkaConsumer` (`penstock.dev/v1alpha1`), its default and its rules.
`kubectl apply`, `penstock check`, `penstock dev` and the runtime apply the same rules to a manifest.
A field that is null counts as absent. A field that does not exist is an error.

A duration is a number with a unit, `ms`, `s`, `m` or `h`, or several of them: `250ms`, `30s`,
`1h30m`.

`metadata.name` has 1 to 52 characters: lower-case letters, digits and `-`. It begins with a letter
and ends with a letter or digit.
";

const PROPERTIES: &str = "
## librdkafka properties

`spec.kafka.config` accepts the following properties of librdkafka 2.12, as text. The order is base
properties, connection properties, the mode's properties, and these; a later value wins. Producer
properties, callbacks, credentials and properties that follow from other fields are rejected, with
the field to use instead.

| property | value |
|---|---|
";

/// Kubernetes' own types are named, not spelled out.
const KUBERNETES: &[(&str, &str)] = &[
    ("spec.handler.env", "list of EnvVar"),
    ("spec.handler.envFrom", "list of EnvFromSource"),
    ("spec.handler.resources", "ResourceRequirements"),
    ("spec.handler.startupProbe", "Probe"),
    ("spec.handler.livenessProbe", "Probe"),
    ("spec.handler.volumeMounts", "list of VolumeMount"),
    ("spec.pod.tolerations", "list of Toleration"),
    ("spec.pod.affinity", "Affinity"),
    (
        "spec.pod.topologySpreadConstraints",
        "list of TopologySpreadConstraint",
    ),
    ("spec.pod.imagePullSecrets", "list of LocalObjectReference"),
    ("spec.pod.env", "list of EnvVar"),
    ("spec.pod.resources", "ResourceRequirements"),
    ("spec.pod.volumes[].configMap", "ConfigMapVolumeSource"),
    ("spec.pod.volumes[].secret", "SecretVolumeSource"),
    ("spec.pod.volumes[].emptyDir", "EmptyDirVolumeSource"),
    (
        "spec.pod.volumes[].persistentVolumeClaim",
        "PersistentVolumeClaimVolumeSource",
    ),
    ("spec.pod.volumes[].projected", "ProjectedVolumeSource"),
    ("spec.pod.volumes[].csi", "CSIVolumeSource"),
    ("status.conditions", "list of Condition"),
];

/// Returns the page, in Markdown.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let root = schema::root();
    for (section, about) in [
        ("spec", "The desired state of the consumer."),
        ("status", "The state that the operator reports."),
    ] {
        page.push_str(&format!("\n## {section}\n\n{about}\n"));
        object(&mut page, &root["properties"][section], section);
    }
    page.push_str(PROPERTIES);
    for property in properties::all() {
        let listed = property.scope != Scope::Producer
            && property.kind != Kind::Api
            && !rules::refuses_property(property.name);
        if listed {
            row(
                &mut page,
                &[&format!("`{}`", property.name), &property.kind.to_string()],
            );
        }
    }
    page
}

/// A table of an object's fields, the rules about them, and then the objects
/// within it.
fn object(page: &mut String, schema: &Value, path: &str) {
    let fields: Vec<(String, &Value)> = fields(schema)
        .map(|(name, field)| (format!("{path}.{name}"), field))
        .collect();
    page.push_str("\n| field | type | default | meaning |\n|---|---|---|---|\n");
    for (field_path, field) in &fields {
        let name = field_path.rsplit('.').next().unwrap_or_default();
        row(
            page,
            &[
                &format!("`{name}`"),
                &type_of(field, field_path),
                &default_of(schema, field, name),
                field["description"].as_str().unwrap_or_default(),
            ],
        );
    }
    rules_of(page, path, &fields);
    for (field_path, field) in &fields {
        let (inner, inner_path) = match field["items"].is_object() {
            true => (&field["items"], format!("{field_path}[]")),
            false => (*field, field_path.clone()),
        };
        if inner["properties"].is_object() && kubernetes_type(field_path).is_none() {
            page.push_str(&format!("\n### {inner_path}\n"));
            object(page, inner, &inner_path);
        }
    }
}

fn rules_of(page: &mut String, path: &str, fields: &[(String, &Value)]) {
    let speaks_of = |rule: &&Rule| {
        rule.fields.iter().any(|field| {
            fields.iter().any(|(field_path, schema)| {
                let rest = field.strip_prefix(field_path.as_str());
                let own = |rest: &str| rest.is_empty() || rest == "[]" || rest.starts_with("[");
                let nested = schema["items"]["properties"].is_object();
                rest.is_some_and(|rest| own(rest) && !(nested && rest.contains('.')))
            })
        })
    };
    let rules: Vec<&Rule> = rules::all().iter().filter(speaks_of).collect();
    if rules.is_empty() {
        return;
    }
    page.push_str("\nRules:\n\n");
    let mut written: Vec<&str> = Vec::new();
    for rule in &rules {
        if written.contains(&rule.message.as_str()) {
            continue;
        }
        written.push(&rule.message);
        // Rules that say the same share a line.
        let fields: Vec<String> = rules
            .iter()
            .filter(|other| other.message == rule.message)
            .flat_map(|other| &other.fields)
            .filter_map(|field| Some(field.strip_prefix(path)?.trim_start_matches('.')))
            .map(|field| format!("`{field}`"))
            .collect();
        let _ = writeln!(page, "- {}: {}", fields.join(", "), rule.message);
    }
}

fn fields(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn kubernetes_type(path: &str) -> Option<&'static str> {
    KUBERNETES
        .iter()
        .find(|(field, _)| *field == path)
        .map(|(_, name)| *name)
}

fn type_of(field: &Value, path: &str) -> String {
    if let Some(name) = kubernetes_type(path) {
        return format!("{name} (Kubernetes)");
    }
    if let Some(words) = field["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter_map(Value::as_str)
            .map(|word| format!("`{word}`"))
            .collect();
        return words.join(", ");
    }
    let plain = match field["type"].as_str() {
        Some("string") if field["pattern"] == crate::spec::HumanDuration::PATTERN => "duration",
        Some("string") => "text",
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "true or false",
        Some("array") if field["items"]["properties"].is_object() => "list of objects",
        Some("array") => "list of texts",
        _ if field["x-kubernetes-int-or-string"] == true => "whole number or percentage",
        _ if field["additionalProperties"].is_object() => "texts by name",
        _ => "object",
    };
    match bound(field) {
        Some(bound) => format!("{plain}, at most {bound}"),
        None => plain.to_owned(),
    }
}

fn bound(field: &Value) -> Option<String> {
    let max = |keyword: &str| field[keyword].as_u64();
    None.or_else(|| Some(format!("{} items", max("maxItems")?)))
        .or_else(|| Some(format!("{} entries", max("maxProperties")?)))
        .or_else(|| Some(format!("{} characters", max("maxLength")?)))
        .filter(|_| field["pattern"].is_null())
}

fn default_of(parent: &Value, field: &Value, name: &str) -> String {
    let required = parent["required"].as_array().into_iter().flatten();
    if required.into_iter().any(|it| it == name) {
        return "required".to_owned();
    }
    match &field["default"] {
        Value::Null => String::new(),
        Value::Object(_) => "as below".to_owned(),
        Value::String(text) if text.is_empty() => "blank".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}
