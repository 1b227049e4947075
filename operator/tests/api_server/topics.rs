//! Passes, one by one: topics, and brokers that do not answer.

use rdkafka::types::RDKafkaRespErr;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_missing_topic_leaves_what_runs_running() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    world.all_ready("orders");
    let running = world.api.get("deployments", "orders");
    world.apply("orders", json!({ "topics": ["typo"] }));
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.get("deployments", "orders"), running);
    let message = world.message("orders", "TopicsResolved");
    assert_eq!(
        message,
        "topic 'typo' does not exist. maybe it's misspelled or on a different kafka cluster?"
    );
    assert_eq!(world.condition("orders", "Available").unwrap().0, "True");
    let told = world.condition("orders", "Progressing").unwrap();
    assert_eq!(told.1, "TopicsNotResolved");
    // Its pods are stopped nevertheless when somebody asks for that.
    world.apply("orders", json!({ "topics": ["typo"], "replicas": 0 }));
    world.pass("orders").await.unwrap();
    let deployment = world.api.get("deployments", "orders").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 0);
}

/// What can be wrong with Kafka, while a consumer runs.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    NoAnswer,
    NoTopic,
}

/// A consumer of three pods that was started while all was well, and now this is wrong.
async fn started(wrong: Wrong) -> (World, serde_json::Value) {
    let world = World::new();
    let spec = json!({ "mode": "Fast", "replicas": 3 });
    world.apply("orders", spec.clone());
    world.pass("orders").await.expect("a pass");
    world.all_ready("orders");
    match wrong {
        Wrong::NoTopic => {
            let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
            world.kafka.topic_error("orders", error).expect("a topic");
        }
        Wrong::NoAnswer => world.kafka.broker_down(1).expect("a broker"),
    }
    (world.restarted(), spec)
}

#[tokio::test]
async fn only_the_first_start_waits_for_kafka() {
    for wrong in [Wrong::NoAnswer, Wrong::NoTopic] {
        let (world, mut spec) = started(wrong).await;
        let deployment = || world.api.get("deployments", "orders").unwrap();
        let image = |object: &serde_json::Value| {
            object["spec"]["template"]["spec"]["initContainers"][0]["image"].clone()
        };
        for replicas in [5, 0, 2] {
            spec["replicas"] = replicas.into();
            world.apply("orders", spec.clone());
            world.pass("orders").await.unwrap();
            assert_eq!(deployment()["spec"]["replicas"], replicas, "{wrong:?}");
        }
        for corrected in ["registry.example/billing:2", "registry.example/billing:1"] {
            spec["handler"] = json!({ "image": corrected });
            world.apply("orders", spec.clone());
            world.pass("orders").await.unwrap();
            assert_eq!(image(&deployment()), corrected, "{wrong:?}");
        }
        world.api.delete("deployments", "orders");
        world.pass("orders").await.unwrap();
        assert_eq!(deployment()["spec"]["replicas"], 2, "{wrong:?}: made again");
        assert_ne!(
            world.condition("orders", "TopicsResolved").unwrap().0,
            "True"
        );
        let told = world.condition("orders", "Progressing").unwrap();
        assert_eq!(told, ("True".into(), "RollingOut".into()), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_consumer_is_not_called_paused_while_its_pods_run() {
    let (world, mut spec) = started(Wrong::NoTopic).await;
    spec["replicas"] = 0.into();
    world.apply("orders", spec);
    world.pass("orders").await.unwrap();
    let pods = |pods: i64| {
        world.api.edit("deployments", "orders", |object| {
            object["status"] = json!({
                "observedGeneration": object["metadata"]["generation"],
                "replicas": pods,
            });
        });
    };
    pods(3);
    world.pass("orders").await.unwrap();
    assert_eq!(
        world.condition("orders", "Available").unwrap().1,
        "Stopping"
    );
    let pod = serde_json::from_value(json!({ "metadata": {
        "name": "orders-1",
        "namespace": crate::world::NAMESPACE,
        "labels": { "penstock.dev/consumer": "orders" },
        "deletionTimestamp": "2026-01-02T03:04:05Z",
    } }))
    .unwrap();
    assert!(world.context.pods.saw(&pod).is_some());
    pods(0);
    world.pass("orders").await.unwrap();
    assert_eq!(
        world.condition("orders", "Available").unwrap().1,
        "Stopping"
    );
    assert!(world.context.pods.gone(&pod).is_some());
    world.pass("orders").await.unwrap();
    assert_eq!(world.condition("orders", "Available").unwrap().1, "Paused");
}

#[tokio::test]
async fn a_dead_letter_topic_must_be_there_too() {
    let world = World::new();
    let delivery = json!({ "onFailure": "DeadLetter", "deadLetterTopic": "orders.dead" });
    world.apply("orders", json!({ "delivery": delivery }));
    world.pass("orders").await.unwrap();
    assert!(
        world
            .message("orders", "TopicsResolved")
            .contains("'orders.dead'")
    );
    assert!(world.api.get("deployments", "orders").is_none());
}

#[tokio::test]
async fn brokers_that_do_not_answer_start_nothing_and_stop_nothing() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let running = world.api.get("deployments", "orders");
    let nobody = json!({ "kafka": { "bootstrapServers": "127.0.0.1:1" } });
    for name in ["orders", "new"] {
        world.apply(name, nobody.clone());
        world.pass(name).await.unwrap();
        let told = world.condition(name, "TopicsResolved");
        assert_eq!(told, Some(("Unknown".into(), "BrokersUnreachable".into())));
        let message = world.message(name, "TopicsResolved");
        assert!(message.contains("127.0.0.1:1"), "{message}");
    }
    assert_eq!(world.api.get("deployments", "orders"), running);
    assert!(world.api.get("deployments", "new").is_none());
}

/// The Deployment of an operator that noted no digest of brokers and topics.
fn without_digest(world: &World) {
    world.api.edit("deployments", "orders", |object| {
        let annotations = &mut object["metadata"]["annotations"];
        let digest = annotations.as_object_mut().expect("annotations");
        digest
            .remove("penstock.dev/kafka-digest")
            .expect("a digest");
    });
}

/// The earlier operator has reported that the pods are as this manifest says.
#[tokio::test]
async fn pods_stay_ready_after_an_upgrade_while_no_broker_answers() {
    for wrong in [Wrong::NoAnswer, Wrong::NoTopic] {
        let (world, mut spec) = started(wrong).await;
        // The pass that sees the pods ready is one of the earlier operator.
        world.pass("orders").await.unwrap();
        without_digest(&world);
        let world = world.restarted();
        world.pass("orders").await.unwrap();
        let topics = world.condition("orders", "TopicsResolved").unwrap();
        assert_ne!(topics.0, "True", "{wrong:?}: that is told there");
        for _ in 0..2 {
            let told = ["Ready", "Progressing"].map(|it| world.condition("orders", it).unwrap().1);
            assert_eq!(told, ["HandlersReady", "Complete"], "{wrong:?}");
            world.pass("orders").await.unwrap();
        }
        // From now on the digest is known.
        spec["topics"] = json!(["later"]);
        let running = world.api.get("deployments", "orders");
        world.apply("orders", spec);
        world.pass("orders").await.unwrap();
        assert_eq!(world.api.get("deployments", "orders"), running);
        let told = world.condition("orders", "Progressing").unwrap();
        assert_eq!(told.1, "TopicsNotResolved");
    }
}

/// An earlier operator has held back another topic, and has noted no digest of the topics
/// that the pods read.
#[tokio::test]
async fn an_upgrade_applies_nothing_that_the_earlier_operator_held_back() {
    let world = World::new();
    world.apply("orders", json!({ "mode": "Fast", "replicas": 3 }));
    world.pass("orders").await.unwrap();
    world.all_ready("orders");
    without_digest(&world);
    let mut spec = json!({ "mode": "Fast", "replicas": 3, "topics": ["later"] });
    world.apply("orders", spec.clone());
    let running = world.api.get("deployments", "orders");

    let world = world.restarted();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.get("deployments", "orders"), running);
    // Nor by a later pass, when the status is about the other topic.
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.get("deployments", "orders"), running);
    let told = world.condition("orders", "Progressing").unwrap();
    assert_eq!(told.1, "TopicsNotResolved");
    // Stopping the pods needs no topic.
    spec["replicas"] = 0.into();
    world.apply("orders", spec.clone());
    world.pass("orders").await.unwrap();
    let replicas = || world.api.get("deployments", "orders").unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(), 0);
}
