//! What a Deployment reports of its pods.

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use serde::Deserialize as _;
use serde_json::Value;

/// How far a Deployment has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Generation of the Deployment.
    pub generation: i64,
    /// Generation that the counts below are of.
    pub observed: i64,
    /// Pods that exist.
    pub replicas: i32,
    /// Those of the newest template.
    pub updated: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Why the Deployment makes no progress, if it says so.
    pub stalled: Option<String>,
    /// Why pods are refused, if they are: quota, pod security, a missing service
    /// account.
    pub refused: Option<String>,
}

impl Rollout {
    /// Reads a Deployment's status; what is missing counts as none.
    pub fn of(deployment: &Value) -> Self {
        let status = DeploymentStatus::deserialize(&deployment["status"]).unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let message = |type_: &str, status: &str| -> Option<String> {
            let condition = |condition: &&DeploymentCondition| {
                condition.type_ == type_ && condition.status == status
            };
            let found = conditions.iter().find(condition)?;
            Some(found.message.clone().unwrap_or_default())
        };
        Self {
            generation: deployment["metadata"]["generation"]
                .as_i64()
                .unwrap_or_default(),
            observed: status.observed_generation.unwrap_or_default(),
            replicas: status.replicas.unwrap_or_default(),
            updated: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            stalled: message("Progressing", "False"),
            refused: message("ReplicaFailure", "True").map(without_pod_name),
        }
    }

    /// Whether all `desired` pods are of the newest template and ready, and no
    /// older one is left.
    pub fn is_complete(&self, desired: i32) -> bool {
        self.observed >= self.generation
            && self.updated == desired
            && self.ready == desired
            && self.replicas == desired
    }
}

/// `pods "orders-7d9f-x2x4z" is forbidden: …` names another pod each time.
fn without_pod_name(message: String) -> String {
    match message.split_once("\" is ") {
        Some((pod, rest)) if pod.starts_with("pods \"") => rest.to_owned(),
        _ => message,
    }
}
