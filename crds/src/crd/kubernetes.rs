//! Limits of the values of Kubernetes' own types. Their schemas have only fields and
//! types; without these limits the API server would accept a consumer and then refuse its
//! Deployment.

use serde_json::{Map, Value, json};

use super::node;

/// A quantity that is not negative. Kubernetes computes a power of ten for each exponent, so
/// one of many digits would keep the API server busy.
pub(crate) const QUANTITY: &str =
    r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$";

/// The name of an environment variable: printable ASCII without `=`.
pub(crate) const VARIABLE: &str = "^[ -<>-~]+$";

/// The value of a label.
pub(crate) const LABEL_VALUE: &str = "^(([a-zA-Z0-9][-a-zA-Z0-9_.]*)?[a-zA-Z0-9])?$";

/// The longest value of a label.
pub(crate) const MAX_LABEL_VALUE: usize = 63;

/// The name of a label or annotation, perhaps with a domain in front of it.
pub(crate) const QUALIFIED_NAME: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?$";

/// The name of a container's port.
pub(crate) const PORT_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Returns the meaning of a pattern in words.
pub(crate) fn described(pattern: &str) -> Option<&'static str> {
    match pattern {
        QUANTITY => Some(
            "a Kubernetes quantity, such as 500m, 0.5, 128Mi or 1Gi (of bytes, 1Gi is 1024Mi and 1G is 1000M)",
        ),
        VARIABLE => {
            Some("the name of an environment variable: letters, digits and signs, without '='")
        }
        LABEL_VALUE => Some(
            "a Kubernetes label's value: letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
        ),
        PORT_NAME => Some("the name of a port: lower-case letters, digits and '-'"),
        _ => None,
    }
}

/// Adds the limits to the schema of the whole resource.
pub(super) fn constrain(schema: &mut Value) {
    if let Some(root) = schema.as_object_mut() {
        each_field(root, &mut |name, field| match name {
            _ if is_quantity(name, field) => set(
                field,
                &[
                    ("pattern", json!(QUANTITY)),
                    ("minimum", json!(0)),
                    ("maxLength", json!(64)),
                ],
            ),
            "defaultMode" | "mode" if field.get("type") == Some(&json!("integer")) => {
                range(field, 0, Some(0o777))
            }
            _ => {}
        });
    }
    for labels in ["spec.pod.labels", "spec.pod.nodeSelector"] {
        set(node(schema, labels), &[("maxProperties", json!(100))]);
        let value = node(schema, &format!("{labels}{{}}"));
        let max = json!(MAX_LABEL_VALUE);
        set(
            value,
            &[("pattern", json!(LABEL_VALUE)), ("maxLength", max)],
        );
    }
    set(
        node(schema, "spec.pod.annotations"),
        &[("maxProperties", json!(100))],
    );
    set(
        node(schema, "spec.pod.annotations{}"),
        &[("maxLength", json!(262_144))],
    );
    for environment in ["spec.handler.env[]", "spec.pod.env[]"] {
        let name = node(schema, &format!("{environment}.name"));
        set(
            name,
            &[("pattern", json!(VARIABLE)), ("maxLength", json!(256))],
        );
        let value = node(schema, &format!("{environment}.value"));
        // The longest that Linux passes to a program.
        set(value, &[("maxLength", json!(131_072))]);
    }
    for container in ["spec.handler", "spec.pod"] {
        for amounts in ["limits", "requests"] {
            let amounts = node(schema, &format!("{container}.resources.{amounts}"));
            set(amounts, &[("maxProperties", json!(20))]);
        }
    }
    for probe in ["spec.handler.startupProbe", "spec.handler.livenessProbe"] {
        constrain_probe(schema, probe);
    }
}

fn constrain_probe(schema: &mut Value, probe: &str) {
    let mut field = |name: &str, min: i64, max: Option<i64>| {
        range(node(schema, &format!("{probe}.{name}")), min, max);
    };
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "failureThreshold",
    ] {
        field(name, 0, None);
    }
    // Only readiness may need several.
    field("successThreshold", 0, Some(1));
    field("terminationGracePeriodSeconds", 1, None);
    for port in ["grpc.port", "httpGet.port", "tcpSocket.port"] {
        field(port, 1, Some(65_535));
    }
    for port in ["httpGet.port", "tcpSocket.port"] {
        let port = node(schema, &format!("{probe}.{port}"));
        set(
            port,
            &[("pattern", json!(PORT_NAME)), ("maxLength", json!(15))],
        );
    }
}

/// Most quantities have the description of their type.
fn is_quantity(name: &str, field: &Map<String, Value>) -> bool {
    let about = field.get("description").and_then(Value::as_str);
    let is_described = about.is_some_and(|about| about.starts_with("Quantity is a fixed-point"));
    is_described || matches!(name, "divisor" | "sizeLimit")
}

fn range(field: &mut Map<String, Value>, min: i64, max: Option<i64>) {
    set(field, &[("minimum", json!(min))]);
    if let Some(max) = max {
        set(field, &[("maximum", json!(max))]);
    }
}

fn set(field: &mut Map<String, Value>, keywords: &[(&str, Value)]) {
    for (keyword, value) in keywords {
        field.insert((*keyword).to_owned(), value.clone());
    }
}

/// Applies `change` to every schema below a node, with the name of its field, which is
/// empty for items of lists and values of maps.
fn each_field(
    node: &mut Map<String, Value>,
    change: &mut dyn FnMut(&str, &mut Map<String, Value>),
) {
    let mut visit = |name: &str, child: &mut Value| {
        if let Some(child) = child.as_object_mut() {
            change(name, child);
            each_field(child, change);
        }
    };
    for (keyword, value) in node {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                for (name, field) in fields {
                    visit(name, field);
                }
            }
            ("items" | "additionalProperties", value) => visit("", value),
            _ => {}
        }
    }
}
