//! Changes while messages come: pods are replaced, and no message suffers from it.

use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::Manifest;
use penstock_tests::kubernetes::{Condition, Scene};
use penstock_tests::load::Load;
use penstock_tests::oracle::{Disruption, Rule};
use serde_json::json;

use crate::varied::{Varied, with_each_protocol};
use crate::{LIMIT, Outcome};

#[tokio::test]
async fn a_consumer_with_replicas_is_replaced_pod_by_pod_without_a_loss() -> Outcome {
    with_each_protocol(
        |one| !one.is_in_order(),
        |combination| async move {
            let time = Duration::from_millis(10);
            let varied = Varied::new("roll-replicas", combination, time).await?;
            let scene = &varied.scene;
            let manifest = varied.manifest.clone().set("/replicas", 2);
            scene.run(&manifest).await?;
            let load = Load::start(&scene.kafka, &scene.topic, 20);
            scene.recorder.wait_for_handled(100, LIMIT).await?;
            let replaced = replace_two(scene, manifest).await?;
            let seen = scene.recorder.handled();
            scene.recorder.wait_for_handled(seen + 100, LIMIT).await?;
            let evidence = varied.evidence(&load.stop().await?, [replaced]).await?;
            let rules = [
                Rule::NothingLost,
                Rule::DuplicatesExplained,
                Rule::NeverTwiceAtOnce,
            ];
            Ok(combination.check(evidence, &rules)?)
        },
    )
    .await
}

/// Changes a consumer with two replicas and waits until both pods are replaced, while the
/// consumer stays available. Returns how long that took.
async fn replace_two(scene: &Scene, manifest: Manifest) -> Result<Disruption, Box<dyn Error>> {
    let namespace = &scene.namespace;
    complete(scene).await?;
    let pods = namespace.pods("orders")?;
    assert_eq!(pods.len(), 2);
    let since = |condition: Option<Condition>| {
        condition.map(|condition| (condition.status, condition.since))
    };
    let available = since(namespace.condition("orders", "Available")?);

    let began = Instant::now();
    let changed = manifest
        .variable(json!({"name": "PRICES", "value": "2"}))
        .set("/maxConcurrency", 6);
    namespace.apply(&changed.named("orders"))?;
    complete(scene).await?;
    let replaced = Disruption::between(began, Instant::now());

    let newer = namespace.pods("orders")?;
    assert_eq!(newer.len(), 2);
    assert!(newer.iter().all(|pod| !pods.contains(pod)), "{newer:?}");
    assert_eq!(
        since(namespace.condition("orders", "Available")?),
        available,
        "it was available all the time"
    );
    Ok(replaced)
}

/// Waits until a rollout is over.
async fn complete(scene: &Scene) -> Result<(), Box<dyn Error>> {
    let namespace = &scene.namespace;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_in_order_consumer_is_replaced_without_a_loss_or_two_pods_at_work() -> Outcome {
    with_each_protocol(
        |one| one.is_in_order(),
        |combination| async move {
            // Long enough for a second pod to be caught next to the first.
            let time = Duration::from_millis(20);
            let varied = Varied::new("roll-order", combination, time).await?;
            let scene = &varied.scene;
            scene.run(&varied.manifest).await?;
            let load = Load::start(&scene.kafka, &scene.topic, 3);
            scene.recorder.wait_for_handled(50, LIMIT).await?;
            let pods = scene.namespace.pods("orders")?;

            let changed = varied.manifest.clone();
            let changed = changed.variable(json!({"name": "PRICES", "value": "2"}));
            scene.namespace.apply(&changed.named("orders"))?;
            complete(scene).await?;
            let seen = scene.recorder.handled();
            scene.recorder.wait_for_handled(seen + 50, LIMIT).await?;
            let newer = scene.namespace.pods("orders")?;
            assert_eq!(newer.len(), 1);
            assert_ne!(newer, pods);
            // A rollout is no excuse: each pod commits what it has handled before it goes.
            let evidence = varied.evidence(&load.stop().await?, []).await?;
            combination.check(evidence, &[Rule::NothingLost, Rule::DuplicatesExplained])?;
            if !combination.has_batches() {
                assert_eq!(scene.recorder.max_in_flight(), 1);
            }
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn a_changed_secret_or_config_map_replaces_the_pods_once_and_no_change_does_not() -> Outcome {
    let scene = Scene::new("roll-secret").await?;
    let namespace = &scene.namespace;
    let secret = |password: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "prices"},
            "stringData": {"password": password},
        })
        .to_string()
    };
    namespace.apply(&secret("old"))?;
    let reference = json!({"name": "PRICES_PASSWORD", "valueFrom": {
        "secretKeyRef": {"name": "prices", "key": "password"},
    }});
    let manifest = scene.in_order().variable(reference);
    scene.run(&manifest).await?;
    let generation = namespace.generation("orders")?;
    let pods = namespace.pods("orders")?;

    // Each gives the operator something to look at, and nothing to change.
    namespace.apply(&manifest.named("orders"))?;
    namespace.run_kubectl(["annotate", "kc", "orders", "example.test/seen=1"])?;
    namespace.run_kubectl(["label", "secret", "prices", "example.test/seen=1"])?;

    namespace.apply(&secret("new"))?;
    wait_for_generation(&scene, generation + 1).await?;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    let newer = namespace.pods("orders")?;
    assert_ne!(newer, pods);
    assert_eq!(namespace.generation("orders")?, generation + 1);

    // It goes into the ConfigMap and changes nothing else of the pods.
    let changed = manifest.set("/delivery/maxAttempts", 7);
    namespace.apply(&changed.named("orders"))?;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    assert_ne!(namespace.pods("orders")?, newer);
    assert_eq!(namespace.generation("orders")?, generation + 2);
    Ok(())
}

/// Waits until the Deployment has been changed so often, and no more.
async fn wait_for_generation(scene: &Scene, generation: i64) -> Outcome {
    let condition = format!("jsonpath={{.metadata.generation}}={generation}");
    scene
        .namespace
        .wait_until("deployment/orders", &condition, LIMIT)
        .await?;
    Ok(())
}
