//! Containers that are killed at the node, and pods that are deleted, while messages
//! come.

use std::time::{Duration, Instant};

use penstock_tests::Manifest;
use penstock_tests::kubernetes::Scene;
use penstock_tests::load::Load;
use penstock_tests::oracle::{Disruption, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Reply;
use rustix::process::Signal;

use crate::{LIMIT, Outcome};

#[tokio::test]
async fn a_runtime_that_is_killed_comes_back_and_loses_nothing() -> Outcome {
    let scene = Scene::new("kill-runtime").await?;
    let manifest = scene.fast(4).short_session();
    kill_under_load(&scene, &manifest, "runtime", "ConsumerFailed").await
}

#[tokio::test]
async fn a_handler_that_is_killed_comes_back_and_nothing_is_lost() -> Outcome {
    let scene = Scene::new("kill-handler").await?;
    // It is away for some seconds: long enough for one attempt to fail, not for all.
    let manifest = scene.fast(4).set("/delivery/maxAttempts", 100);
    kill_under_load(&scene, &manifest, "handler", "HandlerFailed").await
}

/// Kills a container of a pod that is at work. The status must tell of it while it
/// is away, for this `reason`, and when it is back.
async fn kill_under_load(
    scene: &Scene,
    manifest: &Manifest,
    container: &str,
    reason: &str,
) -> Outcome {
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_millis(10)));
    scene.run(manifest).await?;
    let load = Load::start(&scene.kafka, &scene.topic, 20);
    scene.recorder.wait_for_handled(100, LIMIT).await?;
    let pods = scene.namespace.pods("orders")?;
    let [pod] = pods.as_slice() else {
        return Err(format!("not one pod: {pods:?}").into());
    };

    let killed = Instant::now();
    scene.namespace.signal(&pod.name, container, Signal::KILL)?;
    // That passes too soon to be looked for in the status.
    scene
        .namespace
        .wait_for_warning("orders", reason, LIMIT)
        .await?;
    let back = scene
        .namespace
        .wait_for_reason(
            "orders",
            "Available",
            "Restarting",
            &[
                "1 of 1 replicas ready",
                &format!("container '{container}' ended once"),
            ],
            LIMIT,
        )
        .await?;
    assert_eq!(back.status, "True");
    let disruption = Disruption::between(killed, Instant::now());

    let seen = scene.recorder.handled();
    scene.recorder.wait_for_handled(seen + 100, LIMIT).await?;
    let produced = load.stop().await?;
    let rules = [Rule::NothingLost, Rule::DuplicatesExplained];
    scene.all_handled(&produced, [disruption], &rules).await?;
    let after = scene.namespace.pods("orders")?;
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0].uid, after[0].restarts), (&pod.uid, 1));
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_deleted_finishes_what_it_has_begun() -> Outcome {
    let scene = Scene::new("delete-pod").await?;
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_secs(5)));
    scene.run(&scene.fast(4)).await?;
    let produced = Produce::to(&scene.topic)
        .count(12)
        .send(&scene.kafka)
        .await?;
    scene.recorder.wait_for_in_flight(4, LIMIT).await?;
    let pods = scene.namespace.pods("orders")?;
    assert_eq!(pods.len(), 1, "{pods:?}");

    let deleted = Instant::now();
    scene
        .namespace
        .run_kubectl(["delete", "pod", &pods[0].name])?;
    assert!(
        deleted.elapsed() < Duration::from_secs(30),
        "the grace period had to end it"
    );
    let begun: Vec<_> = scene.recorder.with(|all| {
        let begun = all.iter().filter(|delivery| delivery.start < deleted);
        begun.cloned().collect()
    });
    assert_eq!(begun.len(), 4);
    for delivery in begun {
        assert!(delivery.verdict.is_success(), "{delivery:?}");
        assert!(delivery.end > Some(deleted), "{delivery:?}");
    }
    // No disruption explains a duplicate: what was handled was committed.
    let rules = [
        Rule::NothingLost,
        Rule::DuplicatesExplained,
        Rule::NeverTwiceAtOnce,
    ];
    scene.all_handled(&produced, [], &rules).await
}
