//! The subresources `scale` and `status`.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use penstock_crds::spec::KafkaConsumer;
use serde_json::json;

use crate::Outcome;
use crate::scene::{Scene, shared, version};

#[tokio::test]
async fn a_fast_consumer_is_scaled_and_its_deployment_follows() -> Outcome {
    let (control_plane, scene) = (shared().await?, Scene::new("scale").await?);
    let _operator = scene.operator(control_plane).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    scene.wait_until_reconciled("orders").await?;
    let namespace = ["--namespace", &scene.namespace];
    let scale = ["scale", "kc/orders", "--replicas=5"];
    control_plane.run_kubectl(namespace.into_iter().chain(scale))?;
    scene
        .wait_for("orders", "5 replicas", |deployment: &Deployment| {
            deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(5)
        })
        .await?;
    let scale = scene.api::<KafkaConsumer>().get_scale("orders").await?;
    let status = scale.status.ok_or("the scale has no status")?;
    assert_eq!(
        status.selector.as_deref(),
        Some("penstock.dev/consumer=orders")
    );
    Ok(())
}

#[tokio::test]
async fn a_consumer_in_order_is_not_scaled_and_the_reason_is_told() -> Outcome {
    let (control_plane, scene) = (shared().await?, Scene::new("in-order").await?);
    scene.create(&scene.in_order(), "orders").await?;
    let namespace = ["--namespace", &scene.namespace];
    let scale = |count: &'static str| {
        let scale = ["scale", "kc/orders", count];
        control_plane.run_kubectl(namespace.into_iter().chain(scale))
    };
    let refused = scale("--replicas=2").unwrap_err().to_string();
    assert!(
        refused.contains("an InOrder consumer runs in 1 replica, or in 0 to pause it"),
        "{refused}"
    );
    scale("--replicas=0")?;
    let consumer = scene.api::<KafkaConsumer>().get("orders").await?;
    assert_eq!(consumer.spec.replicas, 0);
    Ok(())
}

#[tokio::test]
async fn the_status_is_written_on_its_own_and_is_no_new_generation() -> Outcome {
    let scene = Scene::new("status").await?;
    scene.create(&scene.fast(), "orders").await?;
    let consumers = scene.api::<KafkaConsumer>();
    let params = PatchParams::default();
    let patch = json!({ "spec": { "replicas": 9 }, "status": { "replicas": 4 } });

    let by_status = consumers
        .patch_status("orders", &params, &Patch::Merge(&patch))
        .await?;
    assert_eq!(by_status.status.as_ref().unwrap().replicas, Some(4));
    assert_eq!(by_status.spec.replicas, 2);
    assert_eq!(by_status.metadata.generation, Some(1));

    let patch = json!({ "spec": { "replicas": 3 }, "status": { "replicas": 8 } });
    let by_spec = consumers
        .patch("orders", &params, &Patch::Merge(&patch))
        .await?;
    assert_eq!(by_spec.status.as_ref().unwrap().replicas, Some(4));
    assert_eq!(by_spec.spec.replicas, 3);
    assert_eq!(by_spec.metadata.generation, Some(2));
    assert_ne!(version(&by_status), version(&by_spec));
    assert_eq!(by_spec.name_any(), "orders");
    Ok(())
}
