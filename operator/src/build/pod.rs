//! The pod: the runtime as its main container, and a handler that is not embedded as a native
//! sidecar. The sidecar is up before the runtime starts, and outlives its drain.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::{self, METRICS_PORT, RUNTIME};
use super::{Blueprint, Reads, labels, some, volumes};

/// The user and group of the containers: `nonroot` of distroless images. One for both, so that they
/// can share a socket.
const USER: i64 = 65_532;

/// The time for the runtime to leave the group and for the handler to end, in addition to the
/// drain, in seconds.
const STOP_MARGIN: u64 = 10;

/// The annotation with the digest of the input that pods read at their start.
const DIGEST: &str = "penstock.dev/config-digest";

/// Annotation with the local volumes for which the cluster autoscaler need not keep a node.
const EVICTABLE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

pub(super) fn template(blueprint: &Blueprint<'_>, reads: &Reads) -> PodTemplateSpec {
    let mounts = volumes::Mounts::of(blueprint, &reads.config_map);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels(blueprint)),
            annotations: Some(annotations(blueprint, reads, &mounts)),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(blueprint, mounts)),
    }
}

/// Returns the user's labels, and Penstock's, which win.
fn pod_labels(blueprint: &Blueprint<'_>) -> BTreeMap<String, String> {
    let mut all = blueprint.consumer.pod.labels.clone();
    all.extend(labels::labels(&blueprint.key.name));
    all
}

/// Returns the annotations for scrapes and for the cluster autoscaler, which may delete the
/// operator's own volumes, unless the user sets them; and the digest.
fn annotations(
    blueprint: &Blueprint<'_>,
    reads: &Reads,
    mounts: &volumes::Mounts,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        (
            "kubectl.kubernetes.io/default-container".into(),
            RUNTIME.into(),
        ),
        ("prometheus.io/scrape".into(), "true".into()),
        ("prometheus.io/port".into(), METRICS_PORT.to_string()),
        ("prometheus.io/path".into(), "/metrics".into()),
    ]);
    let scratch = mounts.own_scratch().join(",");
    if !scratch.is_empty() {
        all.insert(EVICTABLE.into(), scratch);
    }
    all.extend(blueprint.consumer.pod.annotations.clone());
    all.insert(DIGEST.into(), reads.digest.clone());
    all
}

fn spec(blueprint: &Blueprint<'_>, mounts: volumes::Mounts) -> PodSpec {
    let pod = &blueprint.consumer.pod;
    let containers = containers::build(blueprint, &mounts);
    let grace = blueprint.consumer.stop_timeout.as_secs_f64().ceil() as u64 + STOP_MARGIN;
    PodSpec {
        affinity: pod.affinity.clone(),
        // The runtime does not use the API server, and few handlers do.
        automount_service_account_token: Some(pod.automount_service_account_token),
        containers: vec![containers.main],
        enable_service_links: Some(false),
        image_pull_secrets: some(pull_secrets(blueprint)),
        init_containers: containers.sidecar.map(|sidecar| vec![sidecar]),
        node_selector: Some(pod.node_selector.clone()).filter(|labels| !labels.is_empty()),
        priority_class_name: pod.priority_class_name.clone(),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: pod.service_account_name.clone(),
        termination_grace_period_seconds: i64::try_from(grace).ok(),
        tolerations: some(pod.tolerations.clone()),
        topology_spread_constraints: some(pod.topology_spread_constraints.clone()),
        volumes: Some(mounts.volumes),
        ..PodSpec::default()
    }
}

/// Returns the user's Secrets and those for the runtime's image, each once.
fn pull_secrets(blueprint: &Blueprint<'_>) -> Vec<LocalObjectReference> {
    let mut secrets = blueprint.consumer.pod.image_pull_secrets.clone();
    for name in &blueprint.runtime.pull_secrets {
        if !secrets.iter().any(|secret| &secret.name == name) {
            secrets.push(LocalObjectReference { name: name.clone() });
        }
    }
    secrets
}
