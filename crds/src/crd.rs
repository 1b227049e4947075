//! The CustomResourceDefinition: the types' schema with the rules in it.

mod kubernetes;

pub(crate) use kubernetes::{LABEL_VALUE, MAX_LABEL_VALUE, QUALIFIED_NAME, QUANTITY, described};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::names::TopicName;
use crate::rules::{self, Cel, CelMessage, MAX_TOPICS, Rule, quoted};
use crate::spec::KafkaConsumer;

/// The text before the generated YAML.
const HEADER: &str = "\
# Generated from the types and rules of crds/src; do not edit.
# Regenerate: cargo run -p penstock-crds --bin generate
";

/// Longest `metadata.name`. With a suffix of up to 11 characters, such as the
/// hash that a Deployment adds, a derived name is still a DNS label (63).
pub const MAX_NAME_LENGTH: usize = 52;

/// The pattern of `metadata.name`, apart from its length: a DNS-1035 label, because the
/// name of a Service is derived from it.
pub const NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";

/// The message about any other `metadata.name`.
pub(crate) const NAME_MESSAGE: &str = "must have 1 to 52 characters, each a lower-case letter, a digit or '-', and begin with a letter and end with a letter or digit, because other names are derived from it";

/// Bounds of texts, lists and maps. The API server needs them: it refuses rules
/// that could cost too much at the sizes that the schema allows.
const BOUNDS: &[(&str, &str, usize)] = &[
    ("spec.group", "maxLength", 255),
    ("spec.name", "maxLength", 270),
    ("spec.topics", "maxItems", MAX_TOPICS),
    ("spec.topics[]", "maxLength", TopicName::MAX_LENGTH),
    ("spec.prometheusClientName", "maxLength", 249),
    ("spec.kafka.bootstrapServers", "maxLength", 4096),
    ("spec.kafka.authentication.username", "maxLength", 255),
    (
        "spec.kafka.authentication.passwordSecret.secretName",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.passwordSecret.password",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.certificateAndKey.secretName",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.certificateAndKey.certificate",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.certificateAndKey.key",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.accessToken.secretName",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.authentication.accessToken.key",
        "maxLength",
        253,
    ),
    ("spec.kafka.tls.trustedCertificates", "maxItems", 32),
    (
        "spec.kafka.tls.trustedCertificates[].secretName",
        "maxLength",
        253,
    ),
    (
        "spec.kafka.tls.trustedCertificates[].certificate",
        "maxLength",
        253,
    ),
    ("spec.kafka.config", "maxProperties", 200),
    ("spec.kafka.config{}", "maxLength", 16_384),
    ("spec.handler.image", "maxLength", 1024),
    // The longest path of a Unix socket on Linux.
    ("spec.handler.socket", "maxLength", 107),
    ("spec.handler.path", "maxLength", 2048),
    ("spec.handler.command", "maxItems", 100),
    ("spec.handler.args", "maxItems", 1000),
    ("spec.handler.env", "maxItems", 1000),
    ("spec.handler.envFrom", "maxItems", 100),
    ("spec.handler.volumeMounts", "maxItems", 100),
    ("spec.handler.volumeMounts[].name", "maxLength", 63),
    ("spec.pod.env", "maxItems", 1000),
    ("spec.pod.volumes", "maxItems", 100),
    ("spec.pod.volumes[].name", "maxLength", 63),
    (
        "spec.delivery.deadLetterTopic",
        "maxLength",
        TopicName::MAX_LENGTH,
    ),
];

/// The merge strategies of lists and maps under server-side apply; `set` and `map` also
/// forbid duplicate items.
const MERGES: &[(&str, &str, Merge)] = &[
    ("spec.topics", LIST, Merge::Is("set")),
    (
        "spec.kafka.tls.trustedCertificates",
        LIST,
        Merge::Is("atomic"),
    ),
    ("spec.kafka.config", MAP, Merge::Is("granular")),
    (
        "spec.kafka.authentication.passwordSecret",
        MAP,
        Merge::Is("atomic"),
    ),
    (
        "spec.kafka.authentication.certificateAndKey",
        MAP,
        Merge::Is("atomic"),
    ),
    (
        "spec.kafka.authentication.accessToken",
        MAP,
        Merge::Is("atomic"),
    ),
    ("spec.handler.command", LIST, Merge::Is("atomic")),
    ("spec.handler.args", LIST, Merge::Is("atomic")),
    ("spec.handler.env", LIST, Merge::By("name")),
    ("spec.handler.envFrom", LIST, Merge::Is("atomic")),
    ("spec.handler.volumeMounts", LIST, Merge::By("mountPath")),
    ("spec.pod.nodeSelector", MAP, Merge::Is("atomic")),
    ("spec.pod.tolerations", LIST, Merge::Is("atomic")),
    (
        "spec.pod.topologySpreadConstraints",
        LIST,
        Merge::Is("atomic"),
    ),
    ("spec.pod.imagePullSecrets", LIST, Merge::By("name")),
    ("spec.pod.env", LIST, Merge::By("name")),
    ("spec.pod.volumes", LIST, Merge::By("name")),
    ("status.conditions", LIST, Merge::By("type")),
];

const LIST: &str = "x-kubernetes-list-type";
const MAP: &str = "x-kubernetes-map-type";

enum Merge {
    /// The type alone.
    Is(&'static str),
    /// A list that is a map by this field of its items.
    By(&'static str),
}

/// Kubernetes' own types; of their descriptions the first sentence is enough.
const PASSED_THROUGH: &[&str] = &[
    "spec.handler.env",
    "spec.handler.envFrom",
    "spec.handler.resources",
    "spec.handler.startupProbe",
    "spec.handler.livenessProbe",
    "spec.handler.volumeMounts",
    "spec.pod.tolerations",
    "spec.pod.affinity",
    "spec.pod.topologySpreadConstraints",
    "spec.pod.imagePullSecrets",
    "spec.pod.resources",
    "spec.pod.env",
    "spec.pod.volumes[].configMap",
    "spec.pod.volumes[].secret",
    "spec.pod.volumes[].emptyDir",
    "spec.pod.volumes[].persistentVolumeClaim",
    "spec.pod.volumes[].projected",
    "spec.pod.volumes[].csi",
    "status.conditions",
];

/// The CRD, complete.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = KafkaConsumer::crd();
    for version in &mut crd.spec.versions {
        let props = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(props) = props {
            let schema = serde_json::to_value(&*props).expect("a schema is JSON");
            *props = serde_json::from_value(complete(schema)).expect("a schema stays one");
        }
    }
    crd
}

/// The CRD as YAML, the same on every run.
pub fn yaml() -> String {
    let body = serde_yaml::to_string(&crd()).expect("a CRD is YAML");
    format!("{HEADER}{body}")
}

/// The schema of the whole resource, as JSON.
pub(crate) fn schema() -> Value {
    let schema = crd()
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.schema?.open_api_v3_schema);
    serde_json::to_value(schema).expect("a schema is JSON")
}

fn complete(mut schema: Value) -> Value {
    tidy(&mut schema);
    for path in PASSED_THROUGH {
        for_each_below(node(&mut schema, path), &mut shorten);
    }
    kubernetes::constrain(&mut schema);
    for (path, keyword, bound) in BOUNDS {
        node(&mut schema, path).insert((*keyword).to_owned(), json!(bound));
    }
    // kstatus takes an object without a status for done, as if the operator had seen it.
    let unseen = json!({ "observedGeneration": -1 });
    node(&mut schema, "status").insert("default".to_owned(), unseen);
    for (path, keyword, merge) in MERGES {
        let node = node(&mut schema, path);
        match merge {
            Merge::Is(kind) => {
                node.insert((*keyword).to_owned(), json!(kind));
            }
            Merge::By(field) => {
                node.insert((*keyword).to_owned(), json!("map"));
                node.insert("x-kubernetes-list-map-keys".to_owned(), json!([field]));
            }
        }
    }
    add_validation(node(&mut schema, ""), name_validation());
    for rule in rules::all() {
        if let Cel::At { nodes, .. } = &rule.cel {
            for path in nodes {
                add_validation(node(&mut schema, path), validation(rule));
            }
        }
    }
    schema
}

/// Joins the lines of descriptions, and lets null mean absent: without
/// `nullable` the API server drops nulls before it fills in defaults.
fn tidy(schema: &mut Value) {
    let Some(root) = schema.as_object_mut() else {
        return;
    };
    let mut tidy_node = |node: &mut Map<String, Value>| {
        node.remove("nullable");
        if let Some(Value::String(text)) = node.get_mut("description") {
            *text = text.split('\n').collect::<Vec<_>>().join(" ");
        }
    };
    tidy_node(root);
    for_each_below(root, &mut tidy_node);
}

/// Applies `change` to every schema below a node.
fn for_each_below(node: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let mut visit = |child: &mut Value| {
        if let Some(child) = child.as_object_mut() {
            change(child);
            for_each_below(child, change);
        }
    };
    for (keyword, value) in node {
        match keyword.as_str() {
            "properties" => {
                let fields = value.as_object_mut();
                fields
                    .into_iter()
                    .flat_map(|fields| fields.values_mut())
                    .for_each(&mut visit);
            }
            "items" | "additionalProperties" => visit(value),
            _ => {}
        }
    }
}

/// Cuts a description after its first sentence.
fn shorten(node: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = node.get_mut("description")
        && let Some(end) = text.find(". ")
    {
        text.truncate(end + 1);
    }
}

/// The schema at a path: `a.b` for fields, `[]` for items, `{}` for values.
fn node<'a>(schema: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut current = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]").trim_end_matches("{}");
        current = &mut current["properties"][name];
        if step.ends_with("[]") {
            current = &mut current["items"];
        } else if step.ends_with("{}") {
            current = &mut current["additionalProperties"];
        }
    }
    match current {
        Value::Object(node) => node,
        _ => panic!("the schema has no field {path}"),
    }
}

fn add_validation(node: &mut Map<String, Value>, validation: Value) {
    let validations = node
        .entry("x-kubernetes-validations")
        .or_insert_with(|| json!([]));
    if let Some(list) = validations.as_array_mut() {
        list.push(validation);
    }
}

fn validation(rule: &Rule) -> Value {
    let Cel::At {
        rule: expression,
        field_path,
        message,
        ..
    } = &rule.cel
    else {
        return Value::Null;
    };
    let mut validation = json!({ "rule": expression, "message": rule.message });
    if let Some(path) = field_path {
        validation["fieldPath"] = json!(path);
    }
    match message {
        CelMessage::Fixed => {}
        CelMessage::Found(found) => {
            let before = quoted(&format!("{} (found ", rule.message));
            validation["messageExpression"] = json!(format!("{before} + {found} + \")\""));
        }
        CelMessage::Expression(expression) => {
            validation["messageExpression"] = json!(expression);
        }
    }
    validation
}

fn name_validation() -> Value {
    let pattern = quoted(NAME_PATTERN);
    json!({
        "rule": format!(
            "size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches({pattern})"
        ),
        "message": format!("metadata.name {NAME_MESSAGE}"),
    })
}
