//! What a Deployment reports of its pods.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use serde::Deserialize as _;
use serde_json::Value;

use crate::build::{KAFKA_ANNOTATION, RebalanceProtocol};

/// How far a Deployment has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Generation of the Deployment.
    pub generation: i64,
    /// The rebalance protocol of its newest pods, if the operator has noted it.
    pub protocol: Option<RebalanceProtocol>,
    /// Digest of the brokers and topics of its newest pods, if the operator has noted it.
    pub kafka: Option<String>,
    /// Old pods end before new ones start.
    pub recreates: bool,
    /// Its pods are not replaced: somebody has paused its rollout.
    pub paused: bool,
    /// Pods that it is to have.
    pub desired: i32,
    /// Generation that the counts below are of.
    pub observed: i64,
    /// Pods that exist.
    pub replicas: i32,
    /// Those of the newest template.
    pub updated: i32,
    /// Those that are ready.
    pub ready: i32,
    /// When all pods of the newest template had become ready, if all still exist. From then on
    /// the Deployment watches no deadline, whatever becomes of the pods.
    pub settled: Option<Timestamp>,
    /// Why the Deployment makes no progress, if it says so.
    pub stalled: Option<String>,
    /// Why pods are refused, if they are: quota, pod security, a missing service
    /// account.
    pub refused: Option<String>,
}

impl Rollout {
    /// Reads a Deployment; what is missing counts as none.
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
        let generation = deployment["metadata"]["generation"].as_i64();
        let generation = generation.unwrap_or_default();
        let desired = deployment["spec"]["replicas"].as_i64();
        let desired = desired.and_then(|replicas| i32::try_from(replicas).ok());
        let desired = desired.unwrap_or_default();
        let observed = status.observed_generation.unwrap_or_default();
        let updated = status.updated_replicas.unwrap_or_default();
        let settled = || {
            let condition = conditions.iter().find(|it| it.type_ == "Progressing")?;
            let is_settled = condition.reason.as_deref() == Some("NewReplicaSetAvailable");
            let time = condition.last_update_time.as_ref()?.0;
            // With Recreate, the condition stays as it is while old pods end.
            let has_all = updated >= desired;
            (is_settled && has_all && observed >= generation).then_some(time)
        };
        Self {
            generation,
            protocol: deployment["metadata"]["annotations"][RebalanceProtocol::ANNOTATION]
                .as_str()
                .and_then(RebalanceProtocol::parse),
            kafka: deployment["metadata"]["annotations"][KAFKA_ANNOTATION]
                .as_str()
                .map(str::to_owned),
            recreates: deployment["spec"]["strategy"]["type"] == "Recreate",
            paused: deployment["spec"]["paused"] == true,
            desired,
            observed,
            replicas: status.replicas.unwrap_or_default(),
            updated,
            ready: status.ready_replicas.unwrap_or_default(),
            settled: settled(),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rollout(status: Value) -> Rollout {
        let deployment = json!({
            "metadata": { "name": "orders", "generation": 2 },
            "status": status,
        });
        Rollout::of(&serde_json::from_value(deployment).unwrap())
    }

    #[test]
    fn a_rollout_is_complete_once_every_pod_is_new_and_ready_and_no_other_is_left() {
        let all = |observed, replicas, updated, ready| {
            rollout(json!({
                "observedGeneration": observed,
                "replicas": replicas,
                "updatedReplicas": updated,
                "readyReplicas": ready,
            }))
        };
        assert!(all(2, 3, 3, 3).is_complete(3));
        assert!(all(2, 0, 0, 0).is_complete(0));
        assert!(
            !all(1, 3, 3, 3).is_complete(3),
            "the status is of an older spec"
        );
        assert!(!all(2, 4, 3, 3).is_complete(3), "an old pod is left");
        assert!(!all(2, 3, 2, 3).is_complete(3), "a pod is old");
        assert!(!all(2, 3, 3, 2).is_complete(3), "a pod is not ready");
    }

    #[test]
    fn what_holds_a_deployment_up_is_read_from_its_conditions() {
        let conditions = json!([
            { "type": "Progressing", "status": "False", "message": "timed out" },
            { "type": "ReplicaFailure", "status": "True", "message": "pods \"orders-1\" is forbidden: exceeded quota" },
        ]);
        let held_up = rollout(json!({ "conditions": conditions }));
        assert_eq!(held_up.stalled.as_deref(), Some("timed out"));
        assert_eq!(
            held_up.refused.as_deref(),
            Some("forbidden: exceeded quota")
        );
        let conditions = json!([
            { "type": "Progressing", "status": "True", "message": "new pods" },
            { "type": "ReplicaFailure", "status": "False" },
        ]);
        let fine = rollout(json!({ "conditions": conditions }));
        assert_eq!((fine.stalled, fine.refused), (None, None));
    }

    #[test]
    fn a_deployment_has_settled_when_all_pods_of_its_newest_spec_were_ready() {
        let settled = |observed: i64, updated: i64, reason: &str| {
            let progressing = json!({
                "type": "Progressing",
                "status": "True",
                "reason": reason,
                "lastUpdateTime": "2026-01-02T03:04:05Z",
            });
            let deployment = json!({
                "metadata": { "generation": 2 },
                "spec": { "replicas": 3 },
                "status": {
                    "observedGeneration": observed,
                    "updatedReplicas": updated,
                    "conditions": [progressing],
                },
            });
            Rollout::of(&deployment).settled
        };
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        let available = "NewReplicaSetAvailable";
        assert_eq!(settled(2, 3, available), Some(time));
        assert_eq!(settled(1, 3, available), None, "of an older spec");
        assert_eq!(settled(2, 0, available), None, "old pods are ending");
        assert_eq!(settled(2, 3, "ReplicaSetUpdated"), None);
    }

    #[test]
    fn a_protocol_and_a_strategy_are_read_from_the_spec() {
        let deployment = json!({
            "metadata": { "annotations": { "penstock.dev/rebalance-protocol": "cooperative" } },
            "spec": { "replicas": 3, "paused": true, "strategy": { "type": "Recreate" } },
        });
        let expected = Rollout {
            protocol: Some(RebalanceProtocol::Cooperative),
            recreates: true,
            paused: true,
            desired: 3,
            ..Rollout::default()
        };
        assert_eq!(Rollout::of(&deployment), expected);
    }

    #[test]
    fn a_deployment_without_a_status_has_no_pods() {
        let expected = Rollout {
            generation: 2,
            ..Rollout::default()
        };
        assert_eq!(rollout(Value::Null), expected);
    }
}
