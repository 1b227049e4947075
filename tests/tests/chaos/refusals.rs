//! Pods that the cluster does not let be: each ends in a condition that says what to
//! do, and goes on by itself once that is done.

use penstock_tests::Manifest;
use penstock_tests::kubernetes::{NODE, Scene};
use penstock_tests::produce::Produce;
use serde_json::json;

use crate::{LIMIT, Outcome};

/// Applies a manifest as `orders`, and waits until it is not available for this
/// reason, with all of `parts` in the message.
async fn ends_in(scene: &Scene, manifest: &Manifest, reason: &str, parts: &[&str]) -> Outcome {
    scene.namespace.apply(&manifest.named("orders"))?;
    let condition = scene
        .namespace
        .wait_for_reason("orders", "Available", reason, parts, LIMIT)
        .await?;
    assert_eq!(condition.status, "False");
    Ok(())
}

/// Waits for the event that follows the condition.
async fn warns(scene: &Scene, reason: &str) -> Outcome {
    Ok(scene
        .namespace
        .wait_for_warning("orders", reason, LIMIT)
        .await?)
}

/// Waits until `orders` is available and handles a message.
async fn goes_on(scene: &Scene) -> Outcome {
    scene
        .namespace
        .wait_until("kc/orders", "condition=Available", LIMIT)
        .await?;
    Produce::to(&scene.topic).send(&scene.kafka).await?;
    scene.recorder.wait_for_handled(1, LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn pods_that_a_quota_refuses() -> Outcome {
    let scene = Scene::new("quota").await?;
    scene
        .namespace
        .run_kubectl(["create", "quota", "none", "--hard=pods=0"])?;
    let parts = ["exceeded quota", "see the namespace's ResourceQuota"];
    ends_in(&scene, &scene.in_order(), "PodsRefused", &parts).await?;
    warns(&scene, "PodsRefused").await?;
    scene.namespace.run_kubectl(["delete", "quota", "none"])?;
    goes_on(&scene).await
}

#[tokio::test]
async fn a_namespace_with_the_strictest_pod_security_takes_the_pods() -> Outcome {
    let scene = Scene::new("restricted").await?;
    scene.cluster.run_kubectl([
        "label",
        "namespace",
        scene.namespace.name(),
        "pod-security.kubernetes.io/enforce=restricted",
    ])?;
    let careless = ["run", "careless", "--image=registry.example/careless:1"];
    let refused = scene.namespace.run_kubectl(careless);
    let refused = refused.expect_err("it is enforced").to_string();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    scene.namespace.apply(&scene.in_order().named("orders"))?;
    goes_on(&scene).await
}

#[tokio::test]
async fn an_image_that_is_not_there() -> Outcome {
    let scene = Scene::new("image").await?;
    let image = "registry.example/no-such-image:1";
    let manifest = scene.in_order().set("/handler/image", image);
    let parts = [image, "container 'handler'", "spec.pod.imagePullSecrets"];
    ends_in(&scene, &manifest, "ImagePullFailed", &parts).await?;
    warns(&scene, "ImagePullFailed").await?;
    scene.namespace.apply(&scene.in_order().named("orders"))?;
    goes_on(&scene).await
}

#[tokio::test]
async fn a_handler_that_listens_where_nobody_looks() -> Outcome {
    let scene = Scene::new("loopback").await?;
    let elsewhere = json!({"name": "PORT", "value": "9999"});
    let manifest = scene.in_order().variable(elsewhere);
    let refused = scene.namespace.apply(&manifest.named("orders"));
    let words = refused.err().map(|error| error.to_string());
    let words = words.unwrap_or_default();
    assert!(words.contains("PORT names another port"), "{words}");

    let loopback = json!({"name": "LISTEN_ON", "value": "127.0.0.1"});
    let manifest = scene.in_order().variable(loopback);
    let parts = ["startup probe", "0.0.0.0, not 127.0.0.1"];
    ends_in(&scene, &manifest, "HandlerNotStarted", &parts).await?;
    scene.namespace.apply(&scene.in_order().named("orders"))?;
    goes_on(&scene).await
}

#[tokio::test]
async fn pods_that_no_node_takes() -> Outcome {
    let scene = Scene::new("unschedulable").await?;
    let much = scene
        .in_order()
        .set("/handler/resources/requests/cpu", "1000");
    let parts = ["Insufficient cpu", "lower the requests"];
    ends_in(&scene, &much, "Unschedulable", &parts).await?;
    warns(&scene, "Unschedulable").await?;
    let nowhere = scene.in_order().set("/pod/nodeSelector/disk", "glass");
    let parts = ["didn't match Pod's node affinity/selector", "placement"];
    ends_in(&scene, &nowhere, "Unschedulable", &parts).await?;

    let here = scene
        .in_order()
        .set("/pod/nodeSelector", json!({"kubernetes.io/hostname": NODE}));
    scene.namespace.apply(&here.named("orders"))?;
    goes_on(&scene).await
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_gets_nothing_new_and_holds_up_nobody() -> Outcome {
    let scene = Scene::new("leaving").await?;
    scene.run(&scene.in_order()).await?;
    let namespace = &scene.namespace;
    let kept = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kept", "finalizers": ["example.test/kept"]},
    });
    namespace.apply(&kept.to_string())?;
    scene
        .cluster
        .run_kubectl(["delete", "namespace", namespace.name(), "--wait=false"])?;
    for gone in ["kc/orders", "deployment/orders", "service/orders-metrics"] {
        namespace.wait_until(gone, "delete", LIMIT).await?;
    }

    let other = Scene::new("staying").await?;
    other.run(&other.in_order()).await?;
    let refused = namespace.apply(&scene.in_order().named("orders"));
    let refused = refused.expect_err("it is being deleted").to_string();
    assert!(refused.contains("being terminated"), "{refused}");
    assert_eq!(namespace.run_kubectl(["get", "kc,deployment,pod"])?, "");

    let free = r#"{"metadata":{"finalizers":null}}"#;
    namespace.run_kubectl([
        "patch",
        "configmap",
        "kept",
        "--type=merge",
        "--patch",
        free,
    ])?;
    let object = format!("namespace/{}", namespace.name());
    namespace.wait_until(&object, "delete", LIMIT).await?;
    Ok(())
}
