//! The API server goes and comes back.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, Patch, PatchParams};
use penstock_crds::spec::KafkaConsumer;
use serde_json::json;

use crate::Outcome;
use crate::scene::{LIMIT, Scene, version, with_crd};

#[tokio::test]
async fn the_operator_goes_on_when_the_api_server_is_back() -> Outcome {
    let mut control_plane = with_crd().await?;
    let scene = Scene::on(&control_plane, "outage").await?;
    // Without the Lease, which ends an operator that can't renew it.
    let operator = scene
        .operator(&control_plane)
        .flag("--leader-election", "false")
        .start()
        .await?;
    for name in ["orders", "returns"] {
        scene
            .create(&scene.fast().set("/group", format!("s.{name}")), name)
            .await?;
        scene.wait_until_reconciled(name).await?;
    }
    let deployments = scene.api::<Deployment>();
    let untouched = deployments.get("returns").await?;

    control_plane.stop_api_server().await?;
    operator
        .process()
        .wait_for_line("was interrupted", LIMIT)
        .await?;
    control_plane.start_api_server().await?;

    let more = json!({ "spec": { "replicas": 3 } });
    scene
        .api::<KafkaConsumer>()
        .patch("orders", &PatchParams::default(), &Patch::Merge(&more))
        .await?;
    scene
        .wait_for("orders", "3 replicas", |deployment: &Deployment| {
            deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(3)
        })
        .await?;
    deployments
        .delete("orders", &DeleteParams::background())
        .await?;
    scene
        .wait_for("orders", "a new one", |new: &Deployment| {
            new.metadata.deletion_timestamp.is_none()
        })
        .await?;
    scene
        .create(&scene.fast().set("/group", "s.late"), "late")
        .await?;
    scene.wait_until_reconciled("late").await?;
    assert!(operator.process().status().is_none());
    let after = deployments.get("returns").await?;
    assert_eq!(version(&after), version(&untouched));
    Ok(())
}

#[tokio::test]
async fn a_leader_that_cannot_renew_its_lease_ends_and_says_why() -> Outcome {
    let mut control_plane = with_crd().await?;
    let scene = Scene::on(&control_plane, "lost-lease").await?;
    let settings = scene.operator(&control_plane);
    let operator = settings.start().await?;
    control_plane.stop_api_server().await?;
    let status = operator.process().wait(LIMIT).await?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(operator.process().count("the Lease is lost"), 1);

    // Started again, as the kubelet does, it waits for the API server.
    let again = settings.spawn()?;
    again
        .process()
        .wait_for_line("the Lease could not be acquired or renewed", LIMIT)
        .await?;
    control_plane.start_api_server().await?;
    again.process().wait_for_line("leading", LIMIT).await?;
    again.wait_until_ready().await?;
    Ok(())
}
