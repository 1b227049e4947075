//! The queue: watches, waits and wake-ups, on a clock that runs when nobody works.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::faults::Fault;
use crate::world::{NAMESPACE, World};

/// When such calls were made, counted from the first.
fn waits(world: &World, what: &str) -> Vec<Duration> {
    let calls = world.api.calls();
    let at: Vec<Instant> = calls
        .iter()
        .filter(|call| call.to_string() == what)
        .map(|call| call.at)
        .collect();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn consumers_run_from_their_creation_to_their_deletion() {
    let running = World::new().run();
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Available", "False", "Starting")
        .await;
    running.world.all_ready("orders");
    running
        .until_condition("orders", "Available", "True", "HandlersReady")
        .await;
    running
        .world
        .apply("orders", json!({ "mode": "Fast", "replicas": 3 }));
    running
        .until("it is scaled", |world| {
            let deployment = world.api.get("deployments", "orders");
            deployment.is_some_and(|deployment| deployment["spec"]["replicas"] == 3)
        })
        .await;
    running.world.api.delete("kafkaconsumers", "orders");
    running
        .until("it is forgotten", |world| {
            world
                .context
                .metrics
                .text()
                .contains("penstock_operator_consumers 0")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_while_nothing_changes() {
    let running = World::new().run();
    for name in ["a", "b", "c"] {
        running.world.apply(name, json!({}));
        running
            .until_condition(name, "Progressing", "True", "RollingOut")
            .await;
        running.world.all_ready(name);
        running
            .until_condition(name, "Progressing", "False", "Complete")
            .await;
        running
            .until_condition(name, "MessagesLost", "False", "NothingLost")
            .await;
    }
    running.world.api.calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(running.world.api.spoken(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_secrets_hold_is_read_of_those_alone_that_a_consumer_names() {
    let world = World::new();
    for name in ["billing", "unrelated"] {
        world.api.put(
            "secrets",
            json!({ "metadata": { "name": name, "namespace": NAMESPACE }, "data": { "k": "cw==" } }),
        );
    }
    let running = world.run();
    running.world.apply(
        "orders",
        json!({ "handler": { "envFrom": [{ "secretRef": { "name": "billing" } }] } }),
    );
    running
        .until_condition("orders", "TopicsResolved", "True", "TopicsFound")
        .await;
    assert_eq!(running.world.api.count("get secrets billing"), 1);
    assert_eq!(running.world.api.count("get secrets unrelated"), 0);
    let reads = running.world.api.reads();
    let secrets: Vec<_> = reads
        .iter()
        .filter(|call| call.resource == "secrets")
        .collect();
    assert!(secrets.len() >= 2, "a list and a watch");
    assert!(secrets.iter().all(|call| call.metadata), "{secrets:?}");
}

/// The API server in memory ends no watch by itself, as one whose connection has died.
#[tokio::test(start_paused = true)]
async fn a_watch_whose_connection_has_died_begins_again_within_half_a_minute() {
    let mut running = World::new().run();
    (&mut running.is_synced).await.unwrap();
    running.world.api.reads();
    tokio::time::sleep(Duration::from_secs(301)).await;
    let reads = running.world.api.reads();
    for resource in [
        "kafkaconsumers",
        "configmaps",
        "services",
        "deployments",
        "poddisruptionbudgets",
        "replicasets",
        "pods",
        "secrets",
    ] {
        let of_this = || reads.iter().filter(|call| call.resource == resource);
        assert!(of_this().all(|call| call.verb == "watch"), "{resource}");
        let waits: Vec<Duration> = of_this()
            .zip(of_this().skip(1))
            .map(|(one, next)| next.at - one.at)
            .collect();
        assert!(waits.len() >= 8, "{resource}: {waits:?}");
        assert!(
            waits.iter().all(|wait| *wait <= Duration::from_secs(31)),
            "{waits:?}"
        );
        let ends = |call: &&crate::call::Call| call.query["timeoutSeconds"] == "25";
        assert!(
            of_this().all(|call| ends(&call)),
            "the API server ends it sooner"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_drifted_object_is_put_back_and_a_deleted_one_made_again() {
    let running = World::new().run();
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    let api = &running.world.api;
    api.take_over("deployments", "orders", &["spec", "replicas"], json!(5));
    running
        .until("it is put back", |world| {
            world
                .api
                .get("deployments", "orders")
                .is_some_and(|object| object["spec"]["replicas"] == 1)
        })
        .await;
    api.delete("services", "orders-metrics");
    running
        .until("it is made again", |world| {
            world.api.get("services", "orders-metrics").is_some()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_after_growing_waits() {
    let running = World::new().run();
    for _ in 0..6 {
        running
            .world
            .api
            .fail("patch deployments", Fault::Status(500));
    }
    running.world.apply("orders", json!({}));
    running
        .until("it has succeeded", |world| {
            world.api.get("deployments", "orders").is_some()
        })
        .await;
    let waits = waits(&running.world, "patch deployments orders");
    assert_eq!(waits.len(), 6);
    assert!(waits[0] >= Duration::from_secs(1), "{waits:?}");
    assert!(waits[5] >= Duration::from_secs(20), "{waits:?}");
    assert!(waits.windows(2).all(|pair| pair[1] > pair[0]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_again_sooner_than_the_api_server_asks() {
    for what in [
        "patch configmaps",
        "patch kafkaconsumers/status",
        "get secrets",
    ] {
        let world = World::new();
        world.api.put(
            "secrets",
            json!({ "metadata": { "name": "s", "namespace": NAMESPACE }, "data": { "k": "cw==" } }),
        );
        let running = world.run();
        running.world.api.fail(what, Fault::TooMany(40));
        running.world.apply(
            "orders",
            json!({ "handler": { "envFrom": [{ "secretRef": { "name": "s" } }] } }),
        );
        running
            .until_condition("orders", "Progressing", "True", "RollingOut")
            .await;
        let calls = running.world.api.calls();
        let mut at = calls
            .iter()
            .filter(|call| call.to_string().starts_with(what))
            .map(|call| call.at);
        let (first, second) = (at.next().unwrap(), at.next().unwrap());
        assert!(
            second - first >= Duration::from_secs(40),
            "{what}: {:?}",
            second - first
        );
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_success_waits_begin_anew() {
    let running = World::new().run();
    for _ in 0..5 {
        running
            .world
            .api
            .fail("patch deployments", Fault::Status(500));
    }
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    running.world.api.calls();
    running
        .world
        .api
        .fail("patch configmaps", Fault::Status(500));
    running
        .world
        .apply("orders", json!({ "stopTimeout": "60s" }));
    running
        .until("it has succeeded", |world| {
            let config_map = world.api.get("configmaps", &world.config_map("orders"));
            config_map.is_some_and(|object| {
                let manifest = object["data"]["consumer.yaml"].as_str().unwrap();
                manifest.contains("stopTimeout: 1m")
            })
        })
        .await;
    let name = running.world.config_map("orders");
    let waits = waits(&running.world, &format!("patch configmaps {name}"));
    assert_eq!(waits.len(), 1);
    assert!(waits[0] < Duration::from_secs(4), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_read_or_applied_does_not_stop_the_others() {
    let world = World::new();
    world.apply("broken", json!({ "group": 5 }));
    world.apply("refused", json!({}));
    world.api.disturb(|call| {
        (call.name.starts_with("refused") && call.verb == "patch").then_some(Fault::Status(500))
    });
    let running = world.run();
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    running
        .until_condition("broken", "Accepted", "False", "Unreadable")
        .await;
    assert!(running.world.api.get("deployments", "refused").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_missing_topic_starts_nothing_and_once_created_the_consumer_starts_by_itself() {
    let running = World::new().run();
    running
        .world
        .apply("orders", json!({ "topics": ["later"] }));
    running
        .until_condition("orders", "TopicsResolved", "False", "TopicNotFound")
        .await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(running.world.api.get("deployments", "orders").is_none());
    assert_eq!(
        running.world.api.count("patch kafkaconsumers/status"),
        1,
        "told once"
    );
    running.world.kafka.create_topic("later", 1, 1).unwrap();
    running
        .until_condition("orders", "TopicsResolved", "True", "TopicsFound")
        .await;
    running
        .until("it starts", |world| {
            world.api.get("deployments", "orders").is_some()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_everything_has_been_listed() {
    let world = World::new();
    world.apply("orders", json!({}));
    for _ in 0..3 {
        world.api.fail("list deployments", Fault::Status(500));
    }
    let mut running = world.run();
    running
        .until("the list fails", |world| {
            world.api.count("list deployments") > 0
        })
        .await;
    assert!(running.is_synced.try_recv().is_err());
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    running.is_synced.await.unwrap();
    let calls = running.world.api.reads();
    assert!(
        calls
            .iter()
            .filter(|call| call.to_string().starts_with("list deployments"))
            .count()
            >= 4
    );
}

#[tokio::test(start_paused = true)]
async fn passes_under_way_are_finished_at_a_stop() {
    let mut running = World::new().run();
    running
        .world
        .api
        .fail("patch deployments", Fault::Slow(Duration::from_secs(5)));
    running.world.apply("orders", json!({}));
    running
        .until("a pass is under way", |world| {
            world.api.count("patch deployments") > 0
        })
        .await;
    running.stop.cancel();
    running.task.join_next().await.unwrap().unwrap();
    let told = running.world.condition("orders", "Progressing");
    assert_eq!(told, Some(("True".into(), "RollingOut".into())));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_never_answered_hold_nobody_for_ever() {
    let running = World::new().run();
    // As many as there are passes at once.
    let names: Vec<String> = (0..32).map(|n| format!("silent-{n}")).collect();
    for name in &names {
        running
            .world
            .api
            .fail("patch configmaps silent", Fault::Lost);
        running.world.apply(name, json!({}));
    }
    running
        .until("all passes wait", |world| {
            world.api.count("patch configmaps silent") == names.len()
        })
        .await;
    running.world.apply("orders", json!({}));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    for name in &names {
        running
            .until_condition(name, "Progressing", "True", "RollingOut")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_is_read_again_and_again() {
    let running = World::new().run();
    running
        .world
        .apply("orders", json!({ "offsetReset": "Earliest" }));
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    running.world.all_ready("orders");
    for lag in [3, 5] {
        running
            .world
            .produce(lag - running.world.lag("orders").unwrap_or(0))
            .await;
        running
            .until("the lag is shown", |world| world.lag("orders") == Some(lag))
            .await;
    }
}
