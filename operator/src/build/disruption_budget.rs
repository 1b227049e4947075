//! The PodDisruptionBudget: of several pods, one at a time may be evicted.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use penstock_crds::spec::DisruptionBudget;

use super::{Blueprint, labels};

/// Returns `None` for a single pod, which a budget would only make hard to move, and if the
/// manifest disables the budget.
pub(super) fn build(blueprint: &Blueprint<'_>) -> Option<PodDisruptionBudget> {
    let wants = blueprint.consumer.pod.disruption_budget == DisruptionBudget::Enabled;
    if blueprint.consumer.replicas() < 2 || !wants {
        return None;
    }
    Some(PodDisruptionBudget {
        metadata: labels::metadata(blueprint, ""),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(labels::select(&blueprint.key.name)),
                ..LabelSelector::default()
            }),
            // Pods that are not ready handle nothing and must not block the drain of a node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
