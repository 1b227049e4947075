//! The ConfigMap with the runtime's configuration: the consumer's own manifest,
//! less what the runtime has no use for, so that a change of the number of pods
//! restarts none of them.
//!
//! The ConfigMap is immutable, and a digest of its content is part of its name. A changed manifest
//! makes another ConfigMap, which only the pods of the new template read: a pod of the
//! old template that restarts reads what it read before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use penstock_crds::manifest;
use penstock_crds::spec::{Handler, KafkaConsumer, KafkaConsumerSpec};
use serde_json::json;

use super::{Blueprint, digest, labels};

/// What its name has between the consumer's and the digest. An earlier operator made one
/// ConfigMap for each consumer, whose name ends in it.
pub(super) const SUFFIX: &str = "-config";

/// The number of hexadecimal digits of the digest in its name. The longest name of a consumer
/// has 52 characters, so that of its ConfigMap has 72, of 253 that are allowed.
const DIGITS: usize = 12;

/// The file in it.
pub(super) const FILE: &str = "consumer.yaml";

/// Where pods see it.
pub(super) const DIRECTORY: &str = "/etc/penstock";

pub(super) fn build(blueprint: &Blueprint<'_>) -> ConfigMap {
    let manifest = text_of(blueprint);
    let mut content = digest([FILE, &manifest]);
    content.truncate(DIGITS);
    ConfigMap {
        metadata: labels::metadata(blueprint, &format!("{SUFFIX}-{content}")),
        data: Some(BTreeMap::from([(FILE.to_owned(), manifest)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// Returns the consumer whose ConfigMap has this name: with a digest, or without one as an
/// earlier operator named it.
pub(super) fn consumer_name(name: &str) -> Option<&str> {
    let is_digest = |text: &str| {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        text.len() == DIGITS && text.bytes().all(is_hex)
    };
    let base = match name.rsplit_once('-') {
        Some((base, digest)) if is_digest(digest) => base,
        _ => name,
    };
    base.strip_suffix(SUFFIX)
}

/// The file's text.
pub(super) fn text(config: &ConfigMap) -> &str {
    let data = config.data.as_ref();
    data.and_then(|data| data.get(FILE))
        .map_or("", String::as_str)
}

fn text_of(blueprint: &Blueprint<'_>) -> String {
    let manifest = json!({
        "apiVersion": KafkaConsumer::api_version(&()),
        "kind": KafkaConsumer::kind(&()),
        "metadata": { "name": &*blueprint.key.name, "namespace": &*blueprint.key.namespace },
        "spec": for_the_runtime(&blueprint.resource.spec),
    });
    manifest::write(&manifest)
}

fn for_the_runtime(spec: &KafkaConsumerSpec) -> KafkaConsumerSpec {
    let handler = &spec.handler;
    KafkaConsumerSpec {
        replicas: 1,
        rollout: None,
        pod: None,
        handler: Handler {
            image: handler.image.clone(),
            image_pull_policy: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_is_found_to_be_of_one_consumer() {
        let cases = [
            ("orders-config-0123456789ab", Some("orders")),
            ("orders-config", Some("orders")),
            ("orders-config-config-0123456789ab", Some("orders-config")),
            ("orders-config-config", Some("orders-config")),
            (
                "a-config-0123456789ab-config-ba9876543210",
                Some("a-config-0123456789ab"),
            ),
            ("orders-config-0123456789AB", None),
            ("orders-config-0123456789abc", None),
            ("orders-0123456789ab", None),
            ("orders", None),
        ];
        for (name, consumer) in cases {
            assert_eq!(consumer_name(name), consumer, "{name}");
        }
    }
}
