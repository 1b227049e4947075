//! Each field of the resource is known here, so a new one is not forgotten: it is either the
//! runtime's, and then in its configuration, or the pods', and then not.

use std::collections::BTreeSet;

use penstock_crds::crd::crd;
use serde_json::{Value, json};

use crate::properties::{Settings, config, manifest, pod_settings, runtime_settings};

/// Objects of the spec whose fields count one by one.
const OBJECTS: [&str; 3] = ["/handler", "/kafka", "/pod"];

/// The number of pods, which every property varies.
const REPLICAS: &str = "/replicas";

/// A setting, and the settings without which it is not valid.
struct Dependent {
    path: &'static str,
    value: Value,
    needs: Settings,
}

fn dependent(path: &'static str, value: Value, needs: Settings) -> Dependent {
    Dependent { path, value, needs }
}

/// Settings of the runtime that are not valid, or mean nothing, in every manifest.
fn dependent_runtime_settings() -> Vec<Dependent> {
    let fast = || vec![("/mode", json!("Fast"))];
    let grpc = || vec![("/handler/protocol", json!("Grpc"))];
    let password = json!({ "secretName": "kafka", "password": "password" });
    vec![
        dependent("/name", json!("kafka_consumer.orders"), Vec::new()),
        dependent("/maxConcurrency", json!(8), fast()),
        dependent("/commit", json!("Handled"), fast()),
        dependent("/onOffsetLost", json!("Fail"), Vec::new()),
        dependent(
            "/kafka/authentication",
            json!({ "type": "plain", "username": "billing", "passwordSecret": password }),
            Vec::new(),
        ),
        dependent("/handler/protocol", json!("BatchHttp"), Vec::new()),
        dependent(
            "/handler/socket",
            json!("/run/handler/http.sock"),
            Vec::new(),
        ),
        dependent("/handler/waitTimeout", json!("5s"), grpc()),
        dependent("/handler/maxTimeout", json!("1h"), grpc()),
    ]
}

/// Settings of pods that are not valid, or mean nothing, in every manifest.
fn dependent_pod_settings() -> Vec<Dependent> {
    let volume = vec![("/pod/volumes", json!([{ "name": "v", "emptyDir": {} }]))];
    let spread = json!([{
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
    }]);
    vec![
        dependent(
            "/handler/volumeMounts",
            json!([{ "name": "v", "mountPath": "/v" }]),
            volume,
        ),
        dependent("/pod/disruptionBudget", json!("Disabled"), Vec::new()),
        dependent("/pod/topologySpreadConstraints", spread, Vec::new()),
    ]
}

/// Returns the paths of the spec's fields, from the schema.
fn fields() -> BTreeSet<String> {
    let crd = serde_json::to_value(crd()).expect("a CRD is JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = &schema["properties"]["spec"];
    let below = |parent: &str, object: &Value| -> Vec<String> {
        let names = object["properties"]
            .as_object()
            .expect("it has fields")
            .keys();
        names.map(|name| format!("{parent}/{name}")).collect()
    };
    let mut fields: BTreeSet<String> = below("", spec).into_iter().collect();
    for object in OBJECTS {
        assert!(fields.remove(object), "{object}");
        fields.extend(below(object, &spec["properties"][&object[1..]]));
    }
    fields
}

#[test]
fn every_field_is_the_runtime_s_or_the_pods() {
    let mut known: BTreeSet<String> = [REPLICAS.to_owned()].into();
    let settings = runtime_settings().into_iter().chain(pod_settings());
    let dependent = dependent_runtime_settings()
        .into_iter()
        .chain(dependent_pod_settings());
    known.extend(settings.map(|(path, _)| path.to_owned()));
    known.extend(dependent.map(|it| it.path.to_owned()));
    assert_eq!(known, fields());
}

#[test]
fn a_dependent_setting_is_in_the_configuration_if_it_is_the_runtime_s() {
    let changes = |setting: Dependent| {
        let with = vec![(setting.path, setting.value)];
        let before = manifest("orders", 1, &[&setting.needs]).objects("s");
        let after = manifest("orders", 1, &[&setting.needs, &with]).objects("s");
        config(&before) != config(&after)
    };
    for setting in dependent_runtime_settings() {
        let path = setting.path;
        assert!(changes(setting), "{path} is not in the configuration");
    }
    for setting in dependent_pod_settings() {
        let path = setting.path;
        assert!(!changes(setting), "{path} is in the configuration");
    }
}

/// Fields that are written at their defaults. They are as old as the resource, so every runtime
/// knows them.
const ALWAYS_WRITTEN: [&str; 15] = [
    "consumeBatchSize",
    "delivery.backoff",
    "delivery.backoff.factor",
    "delivery.backoff.initial",
    "delivery.backoff.jitter",
    "delivery.backoff.max",
    "delivery.maxAttempts",
    "delivery.onFailure",
    "format",
    "handler.path",
    "handler.protocol",
    "handler.timeout",
    "offsetReset",
    "prometheusClientName",
    "stopTimeout",
];

/// Collects the paths of fields that are written and were not given.
fn unasked(written: &Value, given: &Value, parent: &str, found: &mut BTreeSet<String>) {
    let Value::Object(fields) = written else {
        return;
    };
    for (name, value) in fields {
        let path = format!("{parent}{name}");
        let given = given.get(name).unwrap_or(&Value::Null);
        unasked(value, given, &format!("{path}."), found);
        if given.is_null() {
            found.insert(path);
        }
    }
}

/// A new field that is written at its default changes every ConfigMap at an upgrade, and so
/// replaces every pod. An older runtime refuses the field too.
#[test]
fn a_new_field_is_not_written_at_its_default() {
    let given = json!({
        "group": "billing.orders",
        "topics": ["orders"],
        "mode": "InOrder",
        "kafka": { "bootstrapServers": "kafka:9092", "tls": {} },
        "handler": { "image": "registry.example/billing:1" },
        "delivery": {},
        "replicas": 1,
    });
    let empty: Settings = vec![("/delivery", json!({})), ("/kafka/tls", json!({}))];
    let objects = manifest("orders", 1, &[&empty]).objects("s");
    let written: Value = serde_yaml::from_str(config(&objects)).unwrap();
    let mut found = BTreeSet::new();
    unasked(&written["spec"], &given, "", &mut found);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(
        found, ALWAYS_WRITTEN,
        "add skip_serializing_if to a new field"
    );
}
