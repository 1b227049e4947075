//! The operator's pods end, and another leads, or none.

use std::time::{Duration, Instant};

use penstock_tests::kubernetes::Scene;
use penstock_tests::load::Load;
use penstock_tests::oracle::Disruption;
use rustix::process::Signal;
use serde_json::json;

use crate::{LIMIT, NAMESPACE, Outcome, Turn, all_handled, goes_on};

#[tokio::test]
async fn a_leader_that_is_killed_in_a_rollout_is_followed_and_nothing_is_done_twice() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("fail-over").await?;
    let namespace = &scene.namespace;
    let manifest = scene.fast(4).set("/replicas", 2);
    scene.run(&manifest).await?;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    let generation = namespace.generation("orders")?;
    let load = Load::start(&scene.kafka, &scene.topic, 20);
    goes_on(&scene).await?;

    let version = |version: &str| {
        let variable = json!({"name": "PRICES", "value": version});
        manifest.clone().variable(variable).named("orders")
    };
    let began = Instant::now();
    namespace.apply(&version("2"))?;
    namespace
        .wait_until("kc/orders", "condition=Progressing", LIMIT)
        .await?;
    let leader = turn.installation.leader()?;
    kill(&scene, &leader)?;
    // Nobody leads when this comes.
    namespace.apply(&version("3"))?;
    assert_eq!(turn.installation.leader()?, leader);

    turn.wait_for_other_leader(&leader).await?;
    namespace
        .wait_until("kc/orders", "condition=Progressing=False", LIMIT)
        .await?;
    assert_eq!(
        namespace.generation("orders")?,
        generation + 2,
        "one change for each manifest"
    );
    let deployment = namespace.json(&["get", "deployment", "orders"])?;
    let variables = deployment.pointer("/spec/template/spec/initContainers/0/env");
    let variables = variables.ok_or("it has variables")?.to_string();
    assert!(
        variables.contains(r#""name":"PRICES","value":"3""#),
        "{variables}"
    );
    let replaced = Disruption::between(began, Instant::now());
    goes_on(&scene).await?;
    all_handled(&scene, load, Some(replaced)).await
}

/// Ends a pod of the operator as a node that dies does: it can't give its Lease back,
/// and does not come again under its name.
fn kill(scene: &Scene, pod: &str) -> Outcome {
    let installation = scene.installation;
    scene
        .cluster
        .signal(NAMESPACE, pod, "operator", Signal::STOP)?;
    installation.run_kubectl(["delete", "pod", pod, "--grace-period=1", "--wait=false"])?;
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_deleted_hands_over_at_once() -> Outcome {
    let turn = Turn::wait().await?;
    let leader = turn.installation.leader()?;
    let deleted = Instant::now();
    turn.installation
        .run_kubectl(["delete", "pod", &leader, "--wait=false"])?;
    turn.wait_for_other_leader(&leader).await?;
    let taken = deleted.elapsed();
    // A Lease that had to run out would take 15 s.
    assert!(taken < Duration::from_secs(10), "{taken:?}");

    let scene = Scene::new("hand-over").await?;
    scene.run(&scene.in_order()).await
}

#[tokio::test]
async fn a_leader_whose_process_is_killed_is_back_or_followed() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("crash").await?;
    let leader = turn.installation.leader()?;
    scene
        .cluster
        .signal(NAMESPACE, &leader, "operator", Signal::KILL)?;
    scene.run(&scene.in_order()).await?;
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    let pod = ["get", "pod", &leader, "-o", restarts];
    assert_eq!(turn.installation.run_kubectl(pod)?, "1");
    Ok(())
}

#[tokio::test]
async fn consumers_go_on_without_an_operator() -> Outcome {
    let turn = Turn::wait().await?;
    let scene = Scene::new("no-operator").await?;
    let namespace = &scene.namespace;
    scene.run(&scene.fast(4)).await?;
    let load = Load::start(&scene.kafka, &scene.topic, 20);
    goes_on(&scene).await?;
    let generation = namespace.generation("orders")?;
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        turn.installation
            .run_kubectl(["scale", "deployment", "penstock-operator", &replicas])
    };
    let old = turn.installation.leader()?;
    scale("0")?;
    turn.installation
        .run_kubectl(["wait", "pod", "--all", "--for=delete", "--timeout=60s"])?;

    goes_on(&scene).await?;
    // A pod is replaced without the operator too.
    for pod in namespace.pods("orders")? {
        namespace.run_kubectl(["delete", "pod", &pod.name])?;
    }
    goes_on(&scene).await?;

    scale("2")?;
    turn.wait_for_other_leader(&old).await?;
    // Somebody reads statuses and writes them again, and changes nothing.
    let later = scene.fast(1).set("/replicas", 0);
    namespace.apply(&later.named("later"))?;
    namespace
        .wait_for_reason("orders", "Accepted", "GroupShared", &[], LIMIT)
        .await?;
    namespace.run_kubectl(["delete", "kc", "later"])?;
    namespace
        .wait_for_reason("orders", "Accepted", "Valid", &[], LIMIT)
        .await?;
    assert_eq!(namespace.generation("orders")?, generation);
    all_handled(&scene, load, None).await
}
