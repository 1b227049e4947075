//! The ConfigMap with the runtime's configuration: the consumer's own manifest,
//! less what the runtime has no use for, so that a change of the number of pods
//! restarts none of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use penstock_crds::spec::{Handler, KafkaConsumer, KafkaConsumerSpec};
use serde_json::json;

use super::{Blueprint, labels};

/// What its name ends in.
pub(super) const SUFFIX: &str = "-config";

/// The file in it.
pub(super) const FILE: &str = "consumer.yaml";

/// Where pods see it.
pub(super) const DIRECTORY: &str = "/etc/penstock";

pub(super) fn build(blueprint: &Blueprint<'_>) -> ConfigMap {
    ConfigMap {
        metadata: labels::metadata(blueprint, SUFFIX),
        data: Some(BTreeMap::from([(FILE.to_owned(), manifest(blueprint))])),
        ..ConfigMap::default()
    }
}

/// The file's text.
pub(super) fn text(config: &ConfigMap) -> &str {
    let data = config.data.as_ref();
    data.and_then(|data| data.get(FILE))
        .map_or("", String::as_str)
}

fn manifest(blueprint: &Blueprint<'_>) -> String {
    let manifest = json!({
        "apiVersion": KafkaConsumer::api_version(&()),
        "kind": KafkaConsumer::kind(&()),
        "metadata": { "name": &*blueprint.key.name, "namespace": &*blueprint.key.namespace },
        "spec": for_the_runtime(&blueprint.resource.spec),
    });
    serde_yaml::to_string(&manifest).expect("a manifest is YAML")
}

fn for_the_runtime(spec: &KafkaConsumerSpec) -> KafkaConsumerSpec {
    let handler = &spec.handler;
    KafkaConsumerSpec {
        replicas: 1,
        pod: None,
        handler: Handler {
            image: handler.image.clone(),
            protocol: handler.protocol,
            port: handler.port,
            socket: handler.socket.clone(),
            path: handler.path.clone(),
            timeout: handler.timeout,
            wait_timeout: handler.wait_timeout,
            max_timeout: handler.max_timeout,
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            resources: None,
            startup_probe: None,
            liveness_probe: None,
            volume_mounts: Vec::new(),
        },
        ..spec.clone()
    }
}
