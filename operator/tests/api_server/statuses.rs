//! Passes, one by one: what is told, in statuses and events.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use penstock_operator::key::Key;
use penstock_operator::reconcile::{ReconcileError, reconcile};
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::world::{NAMESPACE, World};

#[tokio::test]
async fn an_unreadable_consumer_gets_its_status() {
    let world = World::new();
    world.apply("orders", json!({ "handler": { "retries": 3 }, "group": 5 }));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::await_change());
    let spoken = world.api.spoken();
    assert_eq!(spoken[0], "patch kafkaconsumers/status orders");
    let told = world.condition("orders", "Accepted");
    assert_eq!(told, Some(("False".into(), "Unreadable".into())));
    let message = world.message("orders", "Accepted");
    assert!(message.contains("spec.handler.retries"), "{message}");
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn a_consumer_that_is_being_deleted_gets_no_call() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.api.edit("kafkaconsumers", "orders", |object| {
        object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
    });
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::await_change());
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn tools_that_wait_see_a_consumer_wait_start_and_become_ready() {
    let world = World::new();
    let told = || ["Ready", "Reconciling", "Stalled"].map(|it| world.condition("orders", it));
    let is = |state: &str, reason: &str| Some((state.to_owned(), reason.to_owned()));
    world.apply("orders", json!({ "topics": ["typo"] }));
    let action = world.pass("orders").await.unwrap();
    let missing = "TopicNotFound";
    assert_eq!(told(), [is("False", missing), is("True", missing), None]);
    // By then the consumer is stalled.
    assert_eq!(action, Action::requeue(Duration::from_secs(601)));
    assert_eq!(
        world.api.count("create events"),
        1,
        "of TopicsResolved alone"
    );

    world.apply("orders", json!({}));
    let action = world.pass("orders").await.unwrap();
    let rolling = "RollingOut";
    assert_eq!(told(), [is("False", rolling), is("True", rolling), None]);
    assert_eq!(action, Action::await_change());

    world.all_ready("orders");
    world.pass("orders").await.unwrap();
    assert_eq!(told(), [is("True", "HandlersReady"), None, None]);
    assert_eq!(world.api.count("create events"), 2, "of Available");

    world.apply("orders", json!({ "group": "no-service" }));
    world.pass("orders").await.unwrap();
    assert_eq!(
        told(),
        [is("False", "Invalid"), None, is("True", "Invalid")]
    );
}

#[tokio::test]
async fn a_conflict_on_the_status_is_not_an_error() {
    let world = World::new();
    world.apply("orders", json!({}));
    world
        .api
        .fail("patch kafkaconsumers/status", Fault::Status(409));
    world.pass("orders").await.unwrap();
    assert_eq!(world.condition("orders", "Accepted"), None);
    assert_eq!(
        world.api.count("create events"),
        0,
        "nothing has changed yet"
    );
    // It is written by the next pass.
    world.pass("orders").await.unwrap();
    assert!(world.condition("orders", "Accepted").is_some());
}

#[tokio::test]
async fn a_conflict_on_the_status_is_followed_by_another_pass() {
    let world = World::new();
    world.apply("orders", json!({}));
    world
        .api
        .fail("patch kafkaconsumers/status", Fault::Status(409));
    let action = world.pass("orders").await.unwrap();
    assert_ne!(action, Action::await_change());
}

#[tokio::test]
async fn the_status_of_an_earlier_consumer_is_not_taken_for_that_of_a_new_one() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    // Both the deletion and the status went unseen, as in an interrupted watch.
    world.api.delete("kafkaconsumers", "orders");
    for resource in ["deployments", "configmaps", "services"] {
        let name = world.api.all(resource)[0]["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        world.api.delete(resource, &name);
    }
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    assert!(
        world.condition("orders", "Accepted").is_some(),
        "the new one has a status"
    );
}

#[tokio::test]
async fn a_failed_request_is_an_error_until_it_has_lasted_and_is_then_told() {
    let world = World::new();
    world.apply("orders", json!({}));
    let key = Key::new(NAMESPACE, "orders");
    for attempt in 0..4 {
        world.api.fail("patch deployments", Fault::Status(500));
        let error = world.pass("orders").await.unwrap_err();
        assert!(matches!(error, ReconcileError::Apply(_)), "{error}");
        assert_eq!(
            world.condition("orders", "Progressing").is_some(),
            attempt >= 3,
            "{attempt}"
        );
        world.context.backoffs.next(&key);
    }
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("True".into(), "RequestFailed".into())));
    world.pass("orders").await.unwrap();
    assert_eq!(
        world.condition("orders", "Progressing").unwrap().1,
        "RollingOut"
    );
}

#[tokio::test]
async fn a_refusal_is_told_with_its_remedy_and_tried_again_later() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.api.fail("patch deployments", Fault::Status(403));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::requeue(Duration::from_secs(60)));
    assert_eq!(
        world.condition("orders", "Progressing").unwrap().1,
        "ObjectRefused"
    );
    let message = world.message("orders", "Progressing");
    assert!(message.contains("grant the operator"), "{message}");
}

#[tokio::test]
async fn events_are_published_on_transitions_only() {
    let world = World::new();
    world.apply(
        "orders",
        json!({ "mode": "Fast", "replicas": 3, "topics": ["typo"] }),
    );
    let reasons = || -> Vec<(String, String)> {
        let calls = world.api.calls();
        let events = calls.iter().filter(|call| call.resource == "events");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events
            .map(|call| (text(&call.body["type"]), text(&call.body["reason"])))
            .collect()
    };
    world.pass("orders").await.unwrap();
    assert_eq!(reasons(), [("Warning".into(), "TopicNotFound".into())]);
    world.pass("orders").await.unwrap();
    assert_eq!(reasons(), []);
    world.apply("orders", json!({ "mode": "Fast", "replicas": 3 }));
    world.pass("orders").await.unwrap();
    assert_eq!(reasons(), [], "it is found, which is no news to anybody");
    world.all_ready("orders");
    world.pass("orders").await.unwrap();
    assert_eq!(reasons(), [("Normal".into(), "HandlersReady".into())]);
    world.api.edit("deployments", "orders", |object| {
        object["status"]["readyReplicas"] = 2.into()
    });
    world.pass("orders").await.unwrap();
    let message = world.message("orders", "Available");
    assert_eq!(message, "2 of 3 replicas ready");
    assert_eq!(reasons(), [], "a figure is no transition");
}

#[tokio::test]
async fn an_event_that_cannot_be_published_is_no_error() {
    let world = World::new();
    world.apply("orders", json!({ "topics": ["typo"] }));
    world.api.fail("create events", Fault::Status(403));
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("create events"), 1);
    assert_eq!(
        world.condition("orders", "TopicsResolved").unwrap().1,
        "TopicNotFound"
    );
}

#[tokio::test]
async fn consumers_that_share_a_group_are_told_of_each_other() {
    let mut world = World::new();
    world.apply("a", json!({ "group": "billing.same" }));
    world.apply("b", json!({ "group": "billing.same" }));
    world.pass("a").await.unwrap();
    assert_eq!(world.condition("a", "Accepted").unwrap().1, "Valid");
    world.pass("b").await.unwrap();
    assert_eq!(world.condition("b", "Accepted").unwrap().1, "GroupShared");
    assert_eq!(world.woken.try_recv().unwrap(), Key::new(NAMESPACE, "a"));
    world.pass("a").await.unwrap();
    assert!(world.message("a", "Accepted").contains("shop/b"));
    world.context.forget(&Key::new(NAMESPACE, "b"));
    assert_eq!(world.woken.try_recv().unwrap(), Key::new(NAMESPACE, "a"));
    world.pass("a").await.unwrap();
    assert_eq!(world.condition("a", "Accepted").unwrap().1, "Valid");
}

/// A pass is handed to another thread, and the watch shows the deletion before it begins.
#[tokio::test]
async fn a_consumer_that_is_deleted_before_its_pass_begins_is_forgotten() {
    let mut world = World::new();
    world.apply("a", json!({ "group": "billing.same" }));
    world.apply("b", json!({ "group": "billing.same" }));
    world.pass("a").await.unwrap();
    world.pass("b").await.unwrap();
    let late = reconcile(world.found("b"), Arc::clone(&world.context));
    world.context.forget(&Key::new(NAMESPACE, "b"));
    late.await.unwrap();
    while world.woken.try_recv().is_ok() {}
    world.pass("a").await.unwrap();
    assert_eq!(world.condition("a", "Accepted").unwrap().1, "Valid");
}
