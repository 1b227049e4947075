//! A Grpc handler beside the runtime, on the socket that both share, and what becomes of
//! its work when it is killed at the node.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use penstock_tests::Manifest;
use penstock_tests::groups;
use penstock_tests::oracle::{Disruption, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Reply};
use rustix::process::Signal;
use serde_json::json;

use crate::{LIMIT, Outcome, Scene};

/// Half of the messages.
const HALF: usize = 1_000;

#[tokio::test]
async fn in_order_a_handler_that_is_killed_loses_nothing_and_keeps_the_order() -> Outcome {
    let scene = Scene::grpc("grpc-in-order").await?;
    let manifest = scene.in_order();
    killed_at_work(&scene, manifest, &[Rule::InOrder]).await?;
    assert_eq!(scene.recorder.max_in_flight(), 1);
    Ok(())
}

#[tokio::test]
async fn by_key_a_handler_that_is_killed_loses_nothing_and_keeps_the_order() -> Outcome {
    let scene = Scene::grpc("grpc-by-key").await?;
    let manifest = scene.key_ordered(4);
    killed_at_work(&scene, manifest, &[Rule::KeyOrder]).await
}

#[tokio::test]
async fn fast_a_handler_that_is_killed_loses_nothing() -> Outcome {
    let scene = Scene::grpc("grpc-fast").await?;
    let manifest = scene.fast(4);
    killed_at_work(&scene, manifest, &[]).await
}

/// Kills the handler's container while it has messages, after half of them all. The
/// runtime goes on with the one that comes after it.
async fn killed_at_work(scene: &Scene, manifest: Manifest, order: &[Rule]) -> Outcome {
    let bootstrap = scene.cluster.kafka();
    let (gate, begun) = (Gate::closed(), AtomicUsize::new(0));
    let held = gate.clone();
    scene
        .recorder
        .behave(move |_| match begun.fetch_add(1, Ordering::Relaxed) {
            ..HALF => Reply::ok(),
            _ => Reply::ok().once(&held),
        });
    let produced = Produce::to(&scene.topic)
        .count(2 * HALF as u64)
        .send(bootstrap)
        .await?;
    let manifest = manifest
        .set("/consumeBatchSize", 50)
        .set("/delivery/maxAttempts", 100);
    scene.run(&manifest).await?;
    let ports = "/spec/template/spec/initContainers/0/ports";
    assert_eq!(scene.field("deployment/orders", ports)?, json!(null));
    let pod = scene.pod()?;
    scene.recorder.wait_for_handled(HALF, LIMIT).await?;
    scene.recorder.wait_for_in_flight(1, LIMIT).await?;

    let killed = Instant::now();
    scene.namespace.signal(&pod.name, "handler", Signal::KILL)?;
    scene.wait_for_restart(&pod).await?;
    let disruption = Disruption::between(killed, Instant::now());
    gate.open();

    let rules = [order, &[Rule::NothingLost, Rule::DuplicatesExplained]].concat();
    scene.all_handled(&produced, [disruption], &rules).await?;
    let committed = i64::try_from(produced.len())?;
    groups::wait_for_committed(bootstrap, &scene.group(), &scene.topic, committed, LIMIT).await?;
    Ok(())
}
