//! The Deployment of a consumer's pods.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use penstock_crds::names::TopicName;
use penstock_crds::spec::PodCount;
use penstock_crds::validate::{FailureAction, RolloutPolicy, ValidatedConsumer};

use super::{Blueprint, Reads, RebalanceProtocol, digest, labels, pod};
use crate::existing::deployment::Rollout;

/// How long a rollout may make no progress before it counts as stalled, in
/// seconds. Kubernetes' own default.
pub const PROGRESS_DEADLINE: i32 = 600;

/// Old ReplicaSets to keep. A rollback is a change of the KafkaConsumer, so they
/// serve only to look at.
const HISTORY: i32 = 2;

/// Where the Deployment has the [`kafka_digest`] of its newest pods.
pub const KAFKA_ANNOTATION: &str = "penstock.dev/kafka-digest";

/// Returns a digest of what a manifest says of brokers and topics: what the operator looks
/// up before pods depend on it.
pub fn kafka_digest(consumer: &ValidatedConsumer) -> String {
    let kafka = serde_json::to_string(&consumer.kafka).unwrap_or_default();
    let dead_letters = match &consumer.delivery.on_failure {
        FailureAction::DeadLetter(topic) => Some(topic.as_str()),
        FailureAction::Stop | FailureAction::Skip => None,
    };
    let topics = consumer.topics.iter().map(TopicName::as_str);
    digest(
        [kafka.as_str()]
            .into_iter()
            .chain(dead_letters)
            .chain(topics),
    )
}

pub(super) fn build(blueprint: &Blueprint<'_>, reads: &Reads) -> Deployment {
    let replicas = blueprint.consumer.replicas();
    let protocol = RebalanceProtocol::of(&blueprint.consumer.kafka.config);
    let annotations = [
        (RebalanceProtocol::ANNOTATION.into(), protocol.name().into()),
        (KAFKA_ANNOTATION.into(), kafka_digest(blueprint.consumer)),
    ];
    Deployment {
        metadata: ObjectMeta {
            annotations: Some(annotations.into()),
            ..labels::metadata(blueprint, "")
        },
        spec: Some(DeploymentSpec {
            progress_deadline_seconds: Some(PROGRESS_DEADLINE),
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            revision_history_limit: Some(HISTORY),
            selector: LabelSelector {
                match_labels: Some(labels::select(&blueprint.key.name)),
                ..LabelSelector::default()
            },
            strategy: Some(strategy(
                blueprint.consumer.rollout,
                blueprint.running.is_some_and(|running| {
                    changes_protocol(running, blueprint.protocols.as_deref(), protocol)
                }),
            )),
            template: pod::template(blueprint, reads),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// Returns the manifest's strategy, and Recreate while the rebalance protocol changes.
fn strategy(policy: RolloutPolicy, changes: bool) -> DeploymentStrategy {
    match policy {
        RolloutPolicy::RollingUpdate {
            max_surge,
            max_unavailable,
        } if !changes => DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(int_or_string(max_surge)),
                max_unavailable: Some(int_or_string(max_unavailable)),
            }),
        },
        RolloutPolicy::RollingUpdate { .. } | RolloutPolicy::Recreate => DeploymentStrategy {
            type_: Some("Recreate".into()),
            rolling_update: None,
        },
    }
}

fn int_or_string(count: PodCount) -> IntOrString {
    match count {
        PodCount::Pods(pods) => IntOrString::Int(pods.into()),
        PodCount::Percent(_) => IntOrString::String(count.to_string()),
    }
}

/// Returns `true` while pods that can't be in one group would meet in a rolling update: a new pod
/// could not join the group before the last old one has left, which waits for the new
/// one to be ready. `pods` are the protocols of the pods that run, if all are known.
fn changes_protocol(
    running: &Rollout,
    pods: Option<&[RebalanceProtocol]>,
    protocol: RebalanceProtocol,
) -> bool {
    let is_complete = running.is_complete(running.desired);
    if let Some(pods) = pods {
        // The watch of ReplicaSets may be behind.
        let newest = running.protocol.filter(|_| is_complete);
        let mut pods = pods.iter().copied().chain(newest);
        // Earlier pods may still be ending, which ReplicaSets do not count. With Recreate there
        // is no new pod until all have ended.
        let has_new_pods = running.observed >= running.generation && running.updated > 0;
        let goes_on = running.recreates && running.protocol == Some(protocol);
        return pods.any(|it| !it.agrees_with(protocol))
            || (goes_on && !is_complete && !has_new_pods);
    }
    // Without that knowledge, a rollout that has begun with Recreate ends with it.
    let disagrees = running.protocol.is_some_and(|latest| {
        // Pods of an earlier template may be left, which agree with the latest one alone.
        !latest.agrees_with(protocol) || (latest != protocol && !is_complete)
    });
    disagrees || (running.recreates && !is_complete)
}
