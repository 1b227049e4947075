//! Passes, one by one: topics, and brokers that do not answer.

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
