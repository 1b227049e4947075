//! Passes, one by one.

use std::time::Duration;

use kube::runtime::controller::Action;
use penstock_operator::controller::Triggers;
use penstock_operator::key::Key;
use penstock_operator::reconcile::ReconcileError;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::world::{NAMESPACE, World};

/// What a new consumer of one replica makes the operator say. Before an object is
/// made, its name must be free.
const NEW: [&str; 7] = [
    "get configmaps orders-config",
    "patch configmaps orders-config",
    "get services orders-metrics",
    "patch services orders-metrics",
    "get deployments orders",
    "patch deployments orders",
    "patch kafkaconsumers/status orders",
];

fn secured() -> Value {
    json!({ "handler": { "env": [{
        "name": "TOKEN",
        "valueFrom": { "secretKeyRef": { "name": "billing", "key": "token" } },
    }] } })
}

fn secret(name: &str, entry: &str, value: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": NAMESPACE },
        // Base64 is of no account here, so the test's values are.
        "data": { entry: value },
    })
}

fn controlled_by(kind: &str, uid: &str) -> Value {
    json!([{ "apiVersion": "v1", "kind": kind, "name": "x", "uid": uid, "controller": true }])
}

#[tokio::test]
async fn a_new_consumer_gets_its_config_map_service_and_deployment_in_this_order_then_its_status() {
    let world = World::new();
    world.apply("orders", json!({}));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::await_change());
    let calls = world.api.calls();
    let spoken: Vec<String> = calls.iter().map(ToString::to_string).collect();
    assert_eq!(spoken, NEW);
    assert!(
        calls
            .iter()
            .filter(|call| call.verb == "get")
            .all(|call| call.metadata)
    );
    assert!(calls.iter().all(|call| call.namespace == NAMESPACE));
    for (type_, status, reason) in [
        ("Accepted", "True", "Valid"),
        ("TopicsResolved", "True", "TopicsFound"),
        ("Available", "False", "Starting"),
        ("Progressing", "True", "RollingOut"),
    ] {
        let told = world.condition("orders", type_);
        assert_eq!(told, Some((status.to_owned(), reason.to_owned())));
    }
}

#[tokio::test]
async fn an_unchanged_consumer_makes_no_call_at_all() {
    let world = World::new();
    world.apply("orders", json!({ "mode": "Fast", "replicas": 2 }));
    world.pass("orders").await.unwrap();
    world.api.calls();
    for _ in 0..3 {
        let action = world.pass("orders").await.unwrap();
        assert_eq!(action, Action::await_change());
    }
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn no_call_is_made_while_the_watch_has_yet_to_show_what_was_written() {
    let world = World::new();
    world.apply("orders", json!({}));
    let before = world.found("orders");
    world.pass("orders").await.unwrap();
    world.api.calls();
    let again = penstock_operator::reconcile::reconcile(before, world.context.clone()).await;
    assert_eq!(again.unwrap(), Action::await_change());
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn a_quantity_that_the_api_server_writes_differently_is_applied_once() {
    let world = World::new();
    let resources = json!({ "requests": { "cpu": "1000m" } });
    world.apply("orders", json!({ "handler": { "resources": resources } }));
    world.pass("orders").await.unwrap();
    let deployment = world.api.get("deployments", "orders").unwrap();
    let sidecar = &deployment["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(sidecar["resources"]["requests"]["cpu"], "1");
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn a_drifted_deployment_is_put_back_in_one_patch() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    world
        .api
        .take_over("deployments", "orders", &["spec", "replicas"], json!(5));
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), ["patch deployments orders"]);
    let deployment = world.api.get("deployments", "orders").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn what_others_add_is_left_alone() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    world.api.edit("deployments", "orders", |object| {
        object["metadata"]["annotations"] = json!({ "deployment.kubernetes.io/revision": "1" });
        object["spec"]["template"]["spec"]["schedulerName"] = "theirs".into();
    });
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn what_is_no_longer_needed_is_deleted_if_it_is_ours() {
    let world = World::new();
    world.apply("orders", json!({ "mode": "Fast", "replicas": 2 }));
    world.pass("orders").await.unwrap();
    let budget = world.api.get("poddisruptionbudgets", "orders").unwrap();
    world.apply("orders", json!({ "mode": "Fast", "replicas": 1 }));
    world.api.calls();
    world.pass("orders").await.unwrap();
    let calls = world.api.calls();
    assert_eq!(calls[1].to_string(), "delete poddisruptionbudgets orders");
    assert_eq!(
        calls[1].body["preconditions"]["uid"],
        budget["metadata"]["uid"]
    );
    assert!(world.api.get("poddisruptionbudgets", "orders").is_none());
}

#[tokio::test]
async fn a_budget_of_somebody_else_is_not_deleted() {
    let world = World::new();
    world.api.put(
        "poddisruptionbudgets",
        json!({ "metadata": {
            "name": "orders",
            "namespace": NAMESPACE,
            "labels": { "app.kubernetes.io/managed-by": "penstock" },
            "ownerReferences": controlled_by("KafkaConsumer", "another"),
        } }),
    );
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("delete"), 0);
    assert!(world.api.get("poddisruptionbudgets", "orders").is_some());
}

#[tokio::test]
async fn a_foreign_object_of_the_same_name_is_left_alone_and_reported() {
    for labels in [
        json!({}),
        json!({ "app.kubernetes.io/managed-by": "penstock" }),
    ] {
        let world = World::new();
        let theirs = json!({
            "metadata": { "name": "orders", "namespace": NAMESPACE, "labels": labels },
            "spec": { "replicas": 7 },
        });
        let theirs = world.api.put("deployments", theirs);
        world.apply("orders", json!({}));
        let action = world.pass("orders").await.unwrap();
        assert_eq!(action, Action::requeue(Duration::from_secs(60)));
        assert_eq!(world.api.get("deployments", "orders"), Some(theirs));
        assert_eq!(world.api.count("patch deployments"), 0);
        let told = world.condition("orders", "Progressing");
        assert_eq!(told, Some(("False".into(), "NameTaken".into())));
        let message = world.message("orders", "Progressing");
        assert!(message.contains("Deployment named 'orders'"), "{message}");
        let replicas = world.api.get("kafkaconsumers", "orders").unwrap();
        assert_eq!(
            replicas["status"]["readyReplicas"], 0,
            "theirs are not ours"
        );
    }
}

#[tokio::test]
async fn objects_of_an_earlier_consumer_are_waited_for() {
    let world = World::new();
    let theirs = json!({ "metadata": {
        "name": "orders-config",
        "namespace": NAMESPACE,
        "labels": { "app.kubernetes.io/managed-by": "penstock" },
        "ownerReferences": controlled_by("KafkaConsumer", "earlier"),
    } });
    world.api.put("configmaps", theirs);
    world.apply("orders", json!({}));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::requeue(Duration::from_secs(2)));
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("True".into(), "AwaitingDeletion".into())));
    world.api.delete("configmaps", "orders-config");
    assert_eq!(world.pass("orders").await.unwrap(), Action::await_change());
    assert!(world.api.get("deployments", "orders").is_some());
}

#[tokio::test]
async fn a_missing_secret_ends_in_secret_not_found_and_starts_nothing() {
    let world = World::new();
    world.apply("orders", secured());
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("patch deployments"), 0);
    assert_eq!(world.api.count("patch configmaps"), 0);
    let told = world.condition("orders", "TopicsResolved");
    assert_eq!(told, Some(("Unknown".into(), "SecretNotFound".into())));
    let message = world.message("orders", "TopicsResolved");
    assert!(
        message.contains("Secret 'billing' does not exist"),
        "{message}"
    );

    // The watch shows it, but without the entry; then with it.
    for (entry, reason) in [("other", "SecretNotFound"), ("token", "TopicsFound")] {
        let object = world.api.put("secrets", secret("billing", entry, "cw=="));
        let shown = serde_json::from_value(object).unwrap();
        let woken = world.context.secrets.changed(&shown);
        assert_eq!(woken, [Key::new(NAMESPACE, "orders")]);
        world.pass("orders").await.unwrap();
        assert_eq!(
            world.condition("orders", "TopicsResolved").unwrap().1,
            reason
        );
    }
    assert!(world.api.get("deployments", "orders").is_some());
}

#[tokio::test]
async fn a_secret_in_a_projected_volume_counts_as_one_that_is_named() {
    let world = World::new();
    let sources =
        json!([{ "secret": { "name": "billing", "items": [{ "key": "token", "path": "t" }] } }]);
    world.apply(
        "orders",
        json!({ "pod": { "volumes": [{ "name": "v", "projected": { "sources": sources } }] } }),
    );
    world.pass("orders").await.unwrap();
    assert_eq!(
        world.condition("orders", "TopicsResolved").unwrap().1,
        "SecretNotFound"
    );

    let digest = || {
        let deployment = world.api.get("deployments", "orders").unwrap();
        deployment["spec"]["template"]["metadata"]["annotations"]["penstock.dev/config-digest"]
            .clone()
    };
    let mut digests = Vec::new();
    for value in ["cw==", "dA=="] {
        let object = world.api.put("secrets", secret("billing", "token", value));
        world
            .context
            .secrets
            .changed(&serde_json::from_value(object).unwrap());
        world.pass("orders").await.unwrap();
        digests.push(digest());
    }
    assert_ne!(digests[0], digests[1]);
}

#[tokio::test]
async fn a_changed_secret_replaces_the_pods_and_the_same_one_does_not() {
    let world = World::new();
    world.apply("orders", secured());
    let put = |value: &str| {
        let object = world.api.put("secrets", secret("billing", "token", value));
        world
            .context
            .secrets
            .changed(&serde_json::from_value(object).unwrap())
    };
    put("cw==");
    world.pass("orders").await.unwrap();
    world.api.calls();
    assert_eq!(put("cw=="), [], "nothing is new");
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
    put("dA==");
    world.pass("orders").await.unwrap();
    assert_eq!(
        world.api.spoken(),
        ["get secrets billing", "patch deployments orders"]
    );
}

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
async fn a_secret_that_cannot_be_read_is_an_error_until_it_has_lasted_and_is_then_told() {
    let world = World::new();
    world.apply("orders", secured());
    let key = Key::new(NAMESPACE, "orders");
    for attempt in 0..4 {
        world.api.fail("get secrets", Fault::Status(403));
        let error = world.pass("orders").await.unwrap_err();
        assert!(matches!(error, ReconcileError::Secrets(_)), "{error}");
        assert_eq!(
            world.condition("orders", "TopicsResolved").is_some(),
            attempt >= 3,
            "{attempt}"
        );
        world.context.backoffs.next(&key);
    }
    let message = world.message("orders", "TopicsResolved");
    assert!(
        message.contains("Secret 'billing' can't be read"),
        "{message}"
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

#[tokio::test]
async fn a_wake_up_after_the_end_is_lost_without_harm() {
    let (triggers, woken) = Triggers::new();
    drop(woken);
    triggers.wake(&Key::new(NAMESPACE, "orders"));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_while_it_is_read_is_read_again() {
    let world = World::new();
    let show = |value: &str| {
        let object = world.api.put("secrets", secret("billing", "token", value));
        world
            .context
            .secrets
            .changed(&serde_json::from_value(object).unwrap());
    };
    show("b2xk");
    world.apply("orders", secured());
    world
        .api
        .fail("get secrets", Fault::Slow(Duration::from_secs(1)));
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        show("bmV3");
    };
    let (pass, ()) = tokio::join!(world.pass("orders"), change);
    pass.unwrap();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("get secrets"), 2);
    assert_eq!(
        world.api.count("patch deployments"),
        2,
        "the pods see the new one"
    );
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
