//! Containers that are killed at the node, and pods that are deleted, while messages
//! come.

use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::Manifest;
use penstock_tests::kubernetes::Scene;
use penstock_tests::load::Load;
use penstock_tests::oracle::{Disruption, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::Reply;
use rustix::process::Signal;

use crate::varied::{Varied, with_each_protocol};
use crate::{LIMIT, Outcome};

/// How long a handler takes for a message.
const HANDLING: Duration = Duration::from_millis(10);

/// Messages that come at once, ten times a second: one handler keeps up with them.
const BATCH: u64 = 5;

/// Messages after which a consumer is at work.
const ENOUGH: usize = 50;

#[tokio::test]
async fn a_runtime_that_is_killed_comes_back_and_loses_nothing() -> Outcome {
    with_each_protocol(
        |_| true,
        |combination| async move {
            let varied = Varied::new("kill-runtime", combination, HANDLING).await?;
            let (produced, killed) =
                kill_under_load(&varied.scene, &varied.manifest, "runtime", "ConsumerFailed")
                    .await?;
            let evidence = varied.evidence(&produced, [killed]).await?;
            Ok(combination.check(evidence, &[Rule::NothingLost, Rule::DuplicatesExplained])?)
        },
    )
    .await
}

#[tokio::test]
async fn a_handler_that_is_killed_comes_back_and_nothing_is_lost() -> Outcome {
    with_each_protocol(
        |_| true,
        |combination| async move {
            let varied = Varied::new("kill-handler", combination, HANDLING).await?;
            // It is away for some seconds: long enough for one attempt to fail, not for all.
            let manifest = varied.manifest.clone().set("/delivery/maxAttempts", 100);
            let (produced, killed) =
                kill_under_load(&varied.scene, &manifest, "handler", "HandlerFailed").await?;
            // The recorder behind the killed handler may go on with a message that comes again.
            let evidence = varied.evidence(&produced, [killed]).await?;
            Ok(
                combination
                    .check_only(evidence, &[Rule::NothingLost, Rule::DuplicatesExplained])?,
            )
        },
    )
    .await
}

/// Kills a container of a pod that is at work. The status must report it while it is
/// away, for this `reason`, and when it is back. Returns what was produced meanwhile and
/// for how long the container was away.
async fn kill_under_load(
    scene: &Scene,
    manifest: &Manifest,
    container: &str,
    reason: &str,
) -> Result<(Vec<Produced>, Disruption), Box<dyn Error>> {
    scene.run(manifest).await?;
    let load = Load::start(&scene.kafka, &scene.topic, BATCH);
    scene.recorder.wait_for_handled(ENOUGH, LIMIT).await?;
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
    scene
        .recorder
        .wait_for_handled(seen + ENOUGH, LIMIT)
        .await?;
    let produced = load.stop().await?;
    let after = scene.namespace.pods("orders")?;
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0].uid, after[0].restarts), (&pod.uid, 1));
    Ok((produced, disruption))
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
