//! What holds of the objects of any consumer.

use std::collections::BTreeSet;

use penstock_crds::manifest::read_one;
use penstock_crds::spec::{Pod, PodCount};
use penstock_crds::validate::{ConsumeMode, RolloutPolicy, ValidatedConsumer};
use penstock_operator::build::{Kind, Object};
use penstock_operator::key::Key;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::manifest::{Manifest, NAMESPACE, UID, body};

/// Settings that only pods and containers know of: where they stand in the spec,
/// and a value.
pub fn pod_settings() -> Vec<(&'static str, Value)> {
    let probe = json!({ "tcpSocket": { "port": 8080 } });
    let resources = json!({ "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } });
    vec![
        (
            "/pod/labels",
            json!({ "team": "billing", "app.kubernetes.io/name": "mine" }),
        ),
        (
            "/pod/annotations",
            json!({ "a": "b", "penstock.dev/config-digest": "mine" }),
        ),
        ("/pod/nodeSelector", json!({ "disk": "ssd" })),
        ("/pod/tolerations", json!([{ "operator": "Exists" }])),
        ("/pod/affinity", json!({ "nodeAffinity": {} })),
        ("/pod/priorityClassName", json!("high")),
        ("/pod/serviceAccountName", json!("billing")),
        ("/pod/automountServiceAccountToken", json!(true)),
        ("/pod/imagePullSecrets", json!([{ "name": "registry" }])),
        (
            "/pod/env",
            json!([{ "name": "PENSTOCK_LOG", "value": "debug" }]),
        ),
        ("/pod/resources", resources.clone()),
        ("/pod/volumes", json!([{ "name": "v", "emptyDir": {} }])),
        ("/rollout", json!({ "strategy": "Recreate" })),
        ("/handler/env", json!([{ "name": "A", "value": "1" }])),
        (
            "/handler/envFrom",
            json!([{ "configMapRef": { "name": "settings" } }]),
        ),
        ("/handler/imagePullPolicy", json!("Never")),
        ("/handler/command", json!(["/bin/handler"])),
        ("/handler/args", json!(["-v"])),
        ("/handler/resources", resources),
        ("/handler/startupProbe", probe.clone()),
        ("/handler/livenessProbe", probe),
    ]
}

/// Settings that the runtime must know of.
pub fn runtime_settings() -> Vec<(&'static str, Value)> {
    vec![
        ("/group", json!("billing.other")),
        ("/topics", json!(["orders", "returns"])),
        ("/mode", json!("Fast")),
        ("/consumeBatchSize", json!(50)),
        ("/offsetReset", json!("Earliest")),
        ("/format", json!("Raw")),
        ("/prometheusClientName", json!("billing")),
        ("/stopTimeout", json!("90s")),
        ("/kafka/bootstrapServers", json!("other:9092")),
        ("/kafka/config", json!({ "fetch.min.bytes": "7" })),
        (
            "/kafka/tls",
            json!({ "trustedCertificates": [{ "secretName": "ca", "certificate": "ca.crt" }] }),
        ),
        ("/handler/image", json!("registry.example/billing:2")),
        ("/handler/path", json!("/orders")),
        ("/handler/timeout", json!("5s")),
        ("/handler/port", json!(8000)),
        (
            "/delivery",
            json!({ "maxAttempts": 3, "onFailure": "Skip" }),
        ),
    ]
}

pub type Settings = Vec<(&'static str, Value)>;

fn some_of(settings: Settings) -> impl Strategy<Value = Settings> {
    let count = settings.len();
    subsequence(settings, 0..=count)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]([-a-z0-9]{0,50}[a-z0-9])?"
}

/// A consumer with some settings. Only a Fast one has as many replicas as asked.
pub fn manifest(name: &str, replicas: u32, settings: &[&Settings]) -> Manifest {
    let mut spec = json!({
        "group": "billing.orders",
        "topics": ["orders"],
        "mode": "InOrder",
        "kafka": { "bootstrapServers": "kafka:9092" },
        "handler": { "image": "registry.example/billing:1" },
        "pod": {},
    });
    for (path, value) in settings.iter().copied().flatten() {
        let (parent, field) = path.rsplit_once('/').expect("a path");
        spec.pointer_mut(parent).expect("the parent is there")[field] = value.clone();
    }
    spec["replicas"] = match spec["mode"] == "Fast" {
        true => replicas.into(),
        false => replicas.min(1).into(),
    };
    let object = json!({
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "KafkaConsumer",
        "metadata": { "name": name },
        "spec": spec,
    });
    Manifest::read(&object.to_string())
}

pub fn config(objects: &[Object]) -> &str {
    body(objects, Kind::ConfigMap)["data"]["consumer.yaml"]
        .as_str()
        .expect("the file is text")
}

fn digest(objects: &[Object]) -> &Value {
    let template = &body(objects, Kind::Deployment)["spec"]["template"];
    &template["metadata"]["annotations"]["penstock.dev/config-digest"]
}

/// The consumer less what the ConfigMap leaves out.
fn less_pods(consumer: &ValidatedConsumer) -> ValidatedConsumer {
    let mut consumer = consumer.clone();
    consumer.paused = false;
    consumer.pod = Pod::default();
    if let ConsumeMode::Fast { replicas, .. } = &mut consumer.mode {
        *replicas = 1;
        consumer.rollout = RolloutPolicy::RollingUpdate {
            max_surge: PodCount::Pods(1),
            max_unavailable: PodCount::Pods(0),
        };
    }
    let handler = &mut consumer.handler;
    (handler.env, handler.env_from) = Default::default();
    (handler.command, handler.args) = Default::default();
    (handler.startup_probe, handler.liveness_probe) = Default::default();
    handler.volume_mounts = Vec::new();
    (handler.resources, handler.image_pull_policy) = Default::default();
    consumer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_object_belongs_to_the_consumer_and_is_labelled(
        name in name(), replicas in 0_u32..4,
        pods in some_of(pod_settings()), runtime in some_of(runtime_settings()),
    ) {
        let manifest = manifest(&name, replicas, &[&pods, &runtime]);
        let objects = manifest.objects("s");
        let replicas = manifest.consumer.replicas();
        let kinds: Vec<Kind> = objects.iter().map(|object| object.kind).collect();
        prop_assert_eq!(&kinds[..3], &[Kind::ConfigMap, Kind::Deployment, Kind::Service]);
        prop_assert_eq!(kinds.contains(&Kind::PodDisruptionBudget), replicas > 1);
        for object in &objects {
            let metadata = &object.body["metadata"];
            prop_assert_eq!(&object.body["kind"], object.kind.name());
            prop_assert_eq!(&metadata["name"], &object.name);
            let base = object.kind.object_name(&name);
            let rest = object.name.strip_prefix(&base);
            prop_assert_eq!(rest.map(str::is_empty), Some(object.kind != Kind::ConfigMap));
            prop_assert!(object.name.len() <= 253);
            let key = Key::new(NAMESPACE, &object.name);
            prop_assert_eq!(object.kind.consumer_name(&key), Some(Key::new(NAMESPACE, &name)));
            prop_assert_eq!(&metadata["namespace"], NAMESPACE);
            prop_assert_eq!(&metadata["ownerReferences"], &json!([{
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "KafkaConsumer",
                "name": name,
                "uid": UID,
                "controller": true,
            }]));
            prop_assert_eq!(&metadata["labels"], &labels(&name));
        }
    }

    #[test]
    fn pods_are_found_by_labels_that_no_setting_changes(
        name in name(), replicas in 0_u32..4,
        pods in some_of(pod_settings()), runtime in some_of(runtime_settings()),
    ) {
        let objects = manifest(&name, replicas, &[&pods, &runtime]).objects("s");
        let deployment = &body(&objects, Kind::Deployment)["spec"];
        let selector = json!({ "penstock.dev/consumer": name });
        prop_assert_eq!(&deployment["selector"], &json!({ "matchLabels": selector }));
        prop_assert_eq!(&body(&objects, Kind::Service)["spec"]["selector"], &selector);
        let theirs = &deployment["template"]["metadata"]["labels"];
        for (label, value) in labels(&name).as_object().unwrap() {
            prop_assert_eq!(&theirs[label], value);
        }
    }

    #[test]
    fn pods_are_replaced_for_a_new_configuration_or_secret_and_nothing_else(
        replicas in 0_u32..4, pods in some_of(pod_settings()),
        before in some_of(runtime_settings()), after in some_of(runtime_settings()),
        secrets in ("[ab]", "[ab]"),
    ) {
        let before = manifest("orders", 1, &[&before]).objects(&secrets.0);
        let after = manifest("orders", replicas, &[&pods, &after]).objects(&secrets.1);
        let same = config(&before) == config(&after) && secrets.0 == secrets.1;
        prop_assert_eq!(digest(&before) == digest(&after), same);
    }

    /// An immutable ConfigMap can't get other content: other content has another name.
    #[test]
    fn config_maps_have_one_name_exactly_if_they_have_one_content(
        before in some_of(runtime_settings()), after in some_of(runtime_settings()),
    ) {
        let before = manifest("orders", 1, &[&before]).objects("s");
        let after = manifest("orders", 1, &[&after]).objects("s");
        let name = |objects: &[Object]| body(objects, Kind::ConfigMap)["metadata"]["name"].clone();
        prop_assert_eq!(name(&before) == name(&after), config(&before) == config(&after));
        for objects in [&before, &after] {
            prop_assert_eq!(&body(objects, Kind::ConfigMap)["immutable"], true);
            let pod = &body(objects, Kind::Deployment)["spec"]["template"]["spec"];
            prop_assert_eq!(&pod["volumes"][0]["configMap"]["name"], &name(objects));
        }
    }

    #[test]
    fn the_number_and_the_settings_of_pods_leave_the_configuration_alone(
        replicas in 0_u32..4, pods in some_of(pod_settings()), runtime in some_of(runtime_settings()),
    ) {
        let before = manifest("orders", 1, &[&runtime]).objects("s");
        let after = manifest("orders", replicas, &[&pods, &runtime]).objects("s");
        prop_assert_eq!(config(&before), config(&after));
        prop_assert_eq!(digest(&before), digest(&after));
    }

    #[test]
    fn the_runtime_s_settings_are_all_in_the_configuration(setting in select(runtime_settings())) {
        let before = manifest("orders", 1, &[]).objects("s");
        let after = manifest("orders", 1, &[&vec![setting]]).objects("s");
        prop_assert_ne!(config(&before), config(&after));
    }

    #[test]
    fn the_runtime_reads_the_same_consumer_from_the_configuration(
        name in name(), replicas in 0_u32..4,
        pods in some_of(pod_settings()), runtime in some_of(runtime_settings()),
    ) {
        let manifest = manifest(&name, replicas, &[&pods, &runtime]);
        let objects = manifest.objects("s");
        let (resource, consumer) = read_one(config(&objects)).unwrap();
        prop_assert_eq!(resource.metadata.name.as_deref(), Some(name.as_str()));
        prop_assert_eq!(resource.metadata.namespace.as_deref(), Some(NAMESPACE));
        prop_assert_eq!(consumer, less_pods(&manifest.consumer));
    }

    #[test]
    fn volumes_containers_and_mounts_are_named_once_and_exist(
        name in name(), pods in some_of(pod_settings()), runtime in some_of(runtime_settings()),
    ) {
        let objects = manifest(&name, 1, &[&pods, &runtime]).objects("s");
        let pod = &body(&objects, Kind::Deployment)["spec"]["template"]["spec"];
        let volumes = names(&pod["volumes"], "name");
        let containers = [&pod["containers"], &pod["initContainers"]];
        let containers: Vec<&Value> =
            containers.iter().filter_map(|list| list.as_array()).flatten().collect();
        prop_assert_eq!(containers.len(), 2);
        for container in containers {
            let mounted: BTreeSet<&str> = list(&container["volumeMounts"])
                .iter()
                .map(|mount| mount["name"].as_str().unwrap())
                .collect();
            prop_assert!(mounted.is_subset(&volumes), "{:?} of {:?}", mounted, volumes);
            names(&container["volumeMounts"], "mountPath");
            names(&container["env"], "name");
            names(&container["ports"], "containerPort");
        }
    }
}

fn labels(name: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "kafka-consumer",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "penstock",
        "penstock.dev/consumer": name,
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The keys of a list's items, none of which may come twice.
fn names<'a>(items: &'a Value, key: &str) -> BTreeSet<&'a str> {
    let items = list(items);
    let names: BTreeSet<String> = items.iter().map(|item| item[key].to_string()).collect();
    assert_eq!(names.len(), items.len(), "{key} is not unique in {items:?}");
    items.iter().filter_map(|item| item[key].as_str()).collect()
}
