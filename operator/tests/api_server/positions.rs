//! How far groups have come, as a mock Kafka has it.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::world::{Running, World};

/// A message of which a partition of the mock cluster, which keeps 5 MiB, has room for
/// eight.
const LARGE: usize = 600_000;

/// Writes messages of this size to a partition, each in a batch of its own.
async fn produce(world: &World, topic: &str, partition: i32, count: usize, size: usize) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", world.kafka.bootstrap_servers())
        .create()
        .expect("a client of the mock cluster");
    let payload = "x".repeat(size);
    for _ in 0..count {
        let record: FutureRecord<'_, (), str> = FutureRecord::to(topic).payload(&payload);
        let sent = producer.send(record.partition(partition), Duration::from_secs(10));
        sent.await.expect("the mock cluster takes it");
    }
}

/// Somebody commits an offset for the group `billing.orders`.
fn commit(world: &World, topic: &str, partition: i32, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", world.kafka.bootstrap_servers())
        .set("group.id", "billing.orders")
        .create()
        .expect("a client of the mock cluster");
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(offset))
        .expect("an offset");
    consumer
        .commit(&offsets, CommitMode::Sync)
        .expect("the mock cluster takes it");
}

/// The operator has started its pods, and they are ready.
async fn available(world: World, spec: Value) -> Running {
    let running = world.run();
    running.world.apply("orders", spec);
    running
        .until_condition("orders", "Progressing", "True", "RollingOut")
        .await;
    running.world.all_ready("orders");
    running
}

fn status(world: &World, field: &str) -> Value {
    world
        .api
        .get("kafkaconsumers", "orders")
        .expect("the consumer")["status"][field]
        .clone()
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_can_not_be_read_is_unknown_and_not_zero() {
    let world = World::new();
    world.kafka.create_topic("wide", 3, 1).unwrap();
    produce(&world, "wide", 0, 3, 1).await;
    produce(&world, "wide", 1, 2, 1).await;
    commit(&world, "wide", 0, 1);
    world.kafka.partition_leader("wide", 1, None).unwrap();
    let spec = json!({ "topics": ["wide"], "offsetReset": "Earliest" });
    let running = available(world, spec).await;
    running
        .until("the lag is a lower bound", |world| {
            status(world, "lagUnknownPartitions") == 1
        })
        .await;
    let world = &running.world;
    assert_eq!(world.lag("orders"), Some(2));
    let reason = status(world, "lagUnknownReason");
    assert_eq!(reason, "topic wide partition 1: it has no leader");
    let told = world.condition("orders", "MessagesLost");
    assert_eq!(told, Some(("Unknown".into(), "OffsetsNotRead".into())));

    world.kafka.partition_leader("wide", 1, Some(1)).unwrap();
    running
        .until("all is known", |world| world.lag("orders") == Some(4))
        .await;
    assert_eq!(status(&running.world, "lagUnknownPartitions"), Value::Null);
    running
        .until_condition("orders", "MessagesLost", "False", "NothingLost")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_lag_without_a_commit_is_unknown_unless_the_partition_is_empty() {
    let world = World::new();
    world.kafka.create_topic("wide", 2, 1).unwrap();
    produce(&world, "wide", 0, 3, 1).await;
    let running = available(world, json!({ "topics": ["wide"] })).await;
    running
        .until("the lag is read", |world| world.lag("orders") == Some(0))
        .await;
    let reason = status(&running.world, "lagUnknownReason");
    assert_eq!(reason, "topic wide partition 0: nothing committed yet");
    running
        .until_condition("orders", "MessagesLost", "False", "NothingLost")
        .await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_retention_has_removed_are_reported_and_do_not_count_as_lag() {
    let world = World::new();
    produce(&world, "orders", 0, 12, LARGE).await;
    commit(&world, "orders", 0, 2);
    let running = available(world, json!({})).await;
    running
        .until_condition("orders", "MessagesLost", "True", "RetentionPassed")
        .await;
    let world = &running.world;
    let lag = world.lag("orders").unwrap();
    assert!((1..10).contains(&lag), "{lag}");
    let lost = &status(world, "messagesLost")[0];
    assert_eq!(lost["log"], 12 - lag);
    assert_eq!(lost["messages"], 10 - lag);
    let message = world.message("orders", "MessagesLost");
    let part = format!("topic orders partition 0 offsets 2 to {}", 11 - lag);
    assert!(message.contains(&part), "{message}");
    let events = world.api.count("create events");
    assert_eq!(events, 2, "of the pods, and of the messages");

    commit(world, "orders", 0, 12);
    running
        .until("the group has moved past", |world| {
            let message = world.message("orders", "MessagesLost");
            message.contains("has moved past this")
        })
        .await;
    let told = running.world.condition("orders", "MessagesLost");
    assert_eq!(told, Some(("True".into(), "RetentionPassed".into())));
    assert_eq!(running.world.lag("orders"), Some(0));
    assert_eq!(running.world.api.count("create events"), events);
}

#[tokio::test(start_paused = true)]
async fn a_committed_offset_beyond_the_end_is_reported() {
    let world = World::new();
    produce(&world, "orders", 0, 3, 1).await;
    commit(&world, "orders", 0, 500);
    let running = available(world, json!({})).await;
    running
        .until_condition("orders", "MessagesLost", "True", "TopicRecreated")
        .await;
    let message = running.world.message("orders", "MessagesLost");
    assert!(message.contains("committed 500, end 3"), "{message}");
    assert_eq!(running.world.lag("orders"), None, "it is not zero");
    assert_eq!(status(&running.world, "lagUnknownPartitions"), 1);
}

#[tokio::test(start_paused = true)]
async fn offsets_that_are_gone_are_noticed_by_what_the_status_remembers() {
    let world = World::new();
    produce(&world, "orders", 0, 3, 1).await;
    world.apply("orders", json!({}));
    world.api.edit("kafkaconsumers", "orders", |object| {
        object["status"]["committed"] = json!({
            "group": "billing.orders",
            "bootstrapServers": object["spec"]["kafka"]["bootstrapServers"],
            "topics": ["orders"],
        });
    });
    let running = world.run();
    // No pod has been ready under this operator.
    running
        .until_condition("orders", "MessagesLost", "True", "OffsetsExpired")
        .await;
    let message = running.world.message("orders", "MessagesLost");
    assert!(
        message.contains("has none any more: topic orders"),
        "{message}"
    );
}
