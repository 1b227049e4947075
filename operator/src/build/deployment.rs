//! The Deployment of a consumer's pods.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use penstock_crds::validate::ConsumeMode;

use super::{Blueprint, labels, pod};

/// How long a rollout may make no progress before it counts as stalled, in
/// seconds. Kubernetes' own default.
const PROGRESS_DEADLINE: i32 = 600;

/// Old ReplicaSets to keep. A rollback is a change of the KafkaConsumer, so they
/// serve only to look at.
const HISTORY: i32 = 2;

/// `digest` is that of what the pods read at their start.
pub(super) fn build(blueprint: &Blueprint<'_>, digest: String) -> Deployment {
    let replicas = blueprint.consumer.replicas();
    Deployment {
        metadata: labels::metadata(blueprint, ""),
        spec: Some(DeploymentSpec {
            progress_deadline_seconds: Some(PROGRESS_DEADLINE),
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            revision_history_limit: Some(HISTORY),
            selector: LabelSelector {
                match_labels: Some(labels::select(&blueprint.key.name)),
                ..LabelSelector::default()
            },
            strategy: Some(strategy(blueprint.consumer.mode)),
            template: pod::template(blueprint, digest),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// In order, the old pod is gone before the new one starts. Otherwise a new pod
/// is ready before an old one goes.
fn strategy(mode: ConsumeMode) -> DeploymentStrategy {
    match mode {
        ConsumeMode::InOrder => DeploymentStrategy {
            type_: Some("Recreate".into()),
            rolling_update: None,
        },
        ConsumeMode::KeyOrdered { .. } | ConsumeMode::Fast { .. } => DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        },
    }
}
