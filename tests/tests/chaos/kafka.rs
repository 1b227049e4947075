//! Brokers that are away for a while.

use std::time::{Duration, Instant};

use penstock_tests::kafka::Kafka;
use penstock_tests::kubernetes::{Cluster, Scene};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Reply;

use crate::{LIMIT, Outcome};

/// Longer than a pod lives whose liveness probe fails.
const AWAY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn brokers_that_are_away_for_a_minute_cost_neither_a_message_nor_a_restart() -> Outcome {
    let cluster = Cluster::shared().await?;
    let kafka = Kafka::builder()
        .host(cluster.host().to_string())
        .start()
        .await?;
    let fast = Scene::with_kafka("away-fast", kafka.bootstrap()).await?;
    let in_order = Scene::with_kafka("away-order", kafka.bootstrap()).await?;
    let mut runs = Vec::new();
    for (scene, manifest, count) in [
        (&fast, fast.fast(4), 4_000),
        (&in_order, in_order.in_order(), 1_000),
    ] {
        let produced = Produce::to(&scene.topic)
            .count(count)
            .send(&scene.kafka)
            .await?;
        scene
            .recorder
            .behave(|_| Reply::ok().after(Duration::from_millis(20)));
        scene.run(&manifest).await?;
        scene.recorder.wait_for_handled(50, LIMIT).await?;
        let pods = scene.namespace.pods("orders")?;
        runs.push((scene, produced, pods));
    }

    let stopped = Instant::now();
    kafka.stop().await?;
    for (scene, ..) in &runs {
        let condition = scene
            .namespace
            .wait_for_reason(
                "orders",
                "TopicsResolved",
                "BrokersUnreachable",
                &["correct spec.kafka.bootstrapServers"],
                LIMIT,
            )
            .await?;
        assert_eq!(condition.status, "Unknown");
    }
    // The time is what is tested here; there is nothing to wait for.
    tokio::time::sleep(AWAY.saturating_sub(stopped.elapsed())).await;
    kafka.start_again().await?;

    for (scene, produced, pods) in runs {
        scene
            .namespace
            .wait_for_reason("orders", "TopicsResolved", "TopicsFound", &[], LIMIT)
            .await?;
        let more = Produce::to(&scene.topic)
            .first_seq(produced.len() as u64)
            .count(100)
            .send(&scene.kafka)
            .await?;
        let produced = [produced, more].concat();
        scene
            .recorder
            .wait_for_handled(produced.len(), LIMIT)
            .await?;
        assert_eq!(scene.namespace.pods("orders")?, pods, "none was restarted");
        scene
            .namespace
            .wait_for_reason("orders", "Available", "HandlersReady", &[], LIMIT)
            .await?;
        let away = Disruption::between(stopped, Instant::now());
        Evidence::new(&produced, scene.recorder.deliveries())
            .disruptions([away])
            .check(&[
                Rule::NothingLost,
                Rule::DuplicatesExplained,
                Rule::NeverTwiceAtOnce,
            ])?;
    }
    assert_eq!(in_order.recorder.max_in_flight(), 1);
    Ok(())
}
