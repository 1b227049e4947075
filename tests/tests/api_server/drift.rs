//! Objects that somebody else changes too.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::Outcome;
use crate::scene::{Scene, shared, version};

/// A Deployment's replicas, annotation and label by a manager other than ours.
fn theirs(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "annotations": { "theirs": "1" }, "labels": { "team": "shop" } },
        "spec": { "replicas": replicas },
    })
}

fn replicas(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.replicas
}

#[tokio::test]
async fn what_is_ours_is_put_back_and_what_is_theirs_stays() -> Outcome {
    let scene = Scene::new("drift").await?;
    let _operator = scene.operator(shared().await?).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    scene.wait_until_reconciled("orders").await?;
    let deployments = scene.api::<Deployment>();

    let refused = deployments
        .patch(
            "orders",
            &PatchParams::apply("somebody"),
            &Patch::Apply(theirs(7)),
        )
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("conflict with \"penstock-operator\""),
        "{refused}"
    );

    let force = PatchParams::apply("somebody").force();
    let taken = deployments
        .patch("orders", &force, &Patch::Apply(theirs(7)))
        .await?;
    assert_eq!(replicas(&taken), Some(7));
    let back = scene
        .wait_for("orders", "two replicas", |deployment: &Deployment| {
            replicas(deployment) == Some(2)
        })
        .await?;
    assert_eq!(back.annotations()["theirs"], "1");
    assert_eq!(back.labels()["team"], "shop");

    // By an update, as `kubectl edit` sends it.
    let edit = json!({ "spec": { "template": { "spec": {
        "terminationGracePeriodSeconds": 1, "hostNetwork": false, "priority": null,
        "nodeSelector": { "zone": "a" },
    } } } });
    let edited = deployments
        .patch("orders", &PatchParams::default(), &Patch::Strategic(edit))
        .await?;
    let grace = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
        pod.termination_grace_period_seconds
    };
    assert_eq!(grace(&edited), Some(1));
    let back = scene
        .wait_for("orders", "our grace period", |deployment: &Deployment| {
            grace(deployment) == grace(&back)
        })
        .await?;
    let pod = back.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.node_selector.unwrap()["zone"], "a");
    Ok(())
}

#[tokio::test]
async fn what_others_add_beside_ours_is_answered_by_no_write() -> Outcome {
    let scene = Scene::new("beside").await?;
    let operator = scene.operator(shared().await?).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    scene.wait_until_reconciled("orders").await?;
    let before = operator.requests().await?.writes();

    let patch = json!({ "metadata": { "annotations": { "theirs": "1" } } });
    let deployments = scene.api::<Deployment>();
    let theirs = deployments
        .patch("orders", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    // A later change of ours, by whose answer the earlier one has been seen.
    let services = scene.api::<Service>();
    services
        .delete("orders-metrics", &DeleteParams::default())
        .await?;
    scene
        .wait_for("orders-metrics", "a new one", |_: &Service| true)
        .await?;
    let after = deployments.get("orders").await?;
    assert_eq!(version(&after), version(&theirs));
    let writes = operator.requests().await?.writes().since(&before);
    assert_eq!(writes.count(), 1, "{writes:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_is_made_again() -> Outcome {
    let scene = Scene::new("deleted").await?;
    let _operator = scene.operator(shared().await?).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    scene.wait_until_reconciled("orders").await?;
    let params = DeleteParams::background();
    let config_map = scene.config_maps("orders").await?.remove(0);
    scene
        .api::<ConfigMap>()
        .delete(&config_map, &params)
        .await?;
    scene
        .api::<PodDisruptionBudget>()
        .delete("orders", &params)
        .await?;
    scene.api::<Deployment>().delete("orders", &params).await?;
    scene
        .wait_for(&config_map, "a new one", |_: &ConfigMap| true)
        .await?;
    scene
        .wait_for("orders", "a new one", |_: &PodDisruptionBudget| true)
        .await?;
    scene
        .wait_for("orders", "a new one", |new: &Deployment| {
            new.metadata.deletion_timestamp.is_none()
        })
        .await?;
    Ok(())
}
