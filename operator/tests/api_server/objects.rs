//! Passes, one by one: what is applied, left alone and deleted.

use std::time::Duration;

use kube::runtime::controller::Action;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::world::{NAMESPACE, World};

/// What a new consumer of one replica makes the operator say. Before an object is
/// made, its name must be free.
const NEW: [&str; 7] = [
    "get configmaps orders-config-DIGEST",
    "patch configmaps orders-config-DIGEST",
    "get deployments orders",
    "patch deployments orders",
    "get services orders-metrics",
    "patch services orders-metrics",
    "patch kafkaconsumers/status orders",
];

fn controlled_by(kind: &str, uid: &str) -> Value {
    json!([{ "apiVersion": "v1", "kind": kind, "name": "x", "uid": uid, "controller": true }])
}

#[tokio::test]
async fn a_new_consumer_gets_its_config_map_deployment_and_service_in_this_order_then_its_status() {
    let world = World::new();
    world.apply("orders", json!({}));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::await_change());
    let calls = world.api.calls();
    let digest = world.config_map("orders").replace("orders-config-", "");
    let spoken = calls
        .iter()
        .map(|call| call.to_string().replace(&digest, "DIGEST"));
    assert_eq!(spoken.collect::<Vec<_>>(), NEW);
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
        ("MessagesLost", "Unknown", "OffsetsNotRead"),
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
async fn a_change_of_the_rebalance_protocol_recreates_the_pods_once() {
    let world = World::new();
    let spec =
        |config: Value| json!({ "mode": "Fast", "replicas": 2, "kafka": { "config": config } });
    let strategy = || {
        let deployment = world.api.get("deployments", "orders").unwrap();
        deployment["spec"]["strategy"].clone()
    };
    let rolling = json!({
        "type": "RollingUpdate",
        "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 },
    });
    world.apply("orders", spec(json!({ "fetch.min.bytes": "7" })));
    world.pass("orders").await.unwrap();
    world.all_ready("orders");
    world.apply("orders", spec(json!({ "fetch.min.bytes": "8" })));
    world.pass("orders").await.unwrap();
    assert_eq!(strategy(), rolling, "the protocol is the same");
    world.all_ready("orders");

    let cooperative = json!({ "partition.assignment.strategy": "cooperative-sticky" });
    world.apply("orders", spec(cooperative));
    world.pass("orders").await.unwrap();
    assert_eq!(strategy()["type"], "Recreate");
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("patch deployments"), 0, "it is under way");

    world.all_ready("orders");
    world.pass("orders").await.unwrap();
    assert_eq!(strategy(), rolling);
    world.all_ready("orders");
    world.pass("orders").await.unwrap();
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

#[tokio::test]
async fn what_others_add_is_left_alone() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    world.api.edit("deployments", "orders", |object| {
        object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1".into();
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
        "name": "orders",
        "namespace": NAMESPACE,
        "labels": { "app.kubernetes.io/managed-by": "penstock" },
        "ownerReferences": controlled_by("KafkaConsumer", "earlier"),
    } });
    world.api.put("deployments", theirs);
    world.apply("orders", json!({}));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(action, Action::requeue(Duration::from_secs(2)));
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("True".into(), "AwaitingDeletion".into())));
    world.api.delete("deployments", "orders");
    assert_eq!(world.pass("orders").await.unwrap(), Action::await_change());
    assert!(world.api.get("deployments", "orders").is_some());
}

/// A quota on Services, say.
#[tokio::test]
async fn an_object_that_pods_can_run_without_keeps_no_pod_from_starting() {
    let world = World::new();
    world.api.disturb(|call| {
        let text = call.to_string();
        text.starts_with("patch services").then_some(Fault::Quota)
    });
    world.apply("orders", json!({ "mode": "Fast", "replicas": 2 }));
    let action = world.pass("orders").await.unwrap();
    assert_eq!(
        action,
        Action::requeue(Duration::from_secs(60)),
        "tried again"
    );
    assert!(world.api.get("deployments", "orders").is_some());
    assert!(world.api.get("poddisruptionbudgets", "orders").is_some());
    assert!(world.api.get("services", "orders-metrics").is_none());
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("True".into(), "RollingOut".into())));
    let message = world.message("orders", "Progressing");
    assert!(message.contains("Service 'orders-metrics'"), "{message}");
    world.all_ready("orders");
    world.pass("orders").await.unwrap();
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("False".into(), "ObjectRefused".into())));
    let message = world.message("orders", "Progressing");
    assert!(
        message.contains("raise the namespace's ResourceQuota"),
        "{message}"
    );

    world.api.disturb(|_| None);
    world.pass("orders").await.unwrap();
    assert!(world.api.get("services", "orders-metrics").is_some());
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("False".into(), "Complete".into())));
}

#[tokio::test]
async fn a_consumer_that_wants_no_budget_has_none() {
    let world = World::new();
    let spec = |budget: &str| json!({ "mode": "Fast", "replicas": 2, "pod": { "disruptionBudget": budget } });
    let has_budget = || world.api.get("poddisruptionbudgets", "orders").is_some();
    world.apply("orders", spec("Disabled"));
    world.pass("orders").await.unwrap();
    assert!(!has_budget());
    world.apply("orders", spec("Enabled"));
    world.pass("orders").await.unwrap();
    assert!(has_budget());
    world.apply("orders", spec("Disabled"));
    world.pass("orders").await.unwrap();
    assert!(!has_budget());
}

/// Somebody creates a Deployment between the check of its name and the request.
#[tokio::test]
async fn an_object_that_appears_after_the_check_is_not_taken_over() {
    let world = World::new();
    let check = "get deployments orders";
    world
        .api
        .fail(check, Fault::Slow(Duration::from_millis(200)));
    world.apply("orders", json!({}));
    let create = async {
        while world.api.count(check) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let theirs = json!({
            "metadata": { "name": "orders", "namespace": NAMESPACE },
            "spec": { "replicas": 7 },
        });
        world.api.put("deployments", theirs)
    };
    let (passed, theirs) = tokio::join!(world.pass("orders"), create);
    passed.unwrap_err();
    assert_eq!(world.api.get("deployments", "orders"), Some(theirs.clone()));
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.get("deployments", "orders"), Some(theirs));
    let told = world.condition("orders", "Progressing");
    assert_eq!(told, Some(("False".into(), "NameTaken".into())));
}

/// The consumer's Deployment is deleted, and somebody creates another, unseen by the watch.
#[tokio::test]
async fn an_object_that_replaces_a_known_one_is_not_taken_over() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    world.show();
    world.api.delete("deployments", "orders");
    let theirs = json!({
        "metadata": { "name": "orders", "namespace": NAMESPACE },
        "spec": { "replicas": 7 },
    });
    let theirs = world.api.put("deployments", theirs);
    world.apply("orders", json!({ "stopTimeout": "60s" }));
    let found = world.found("orders");
    let pass = penstock_operator::reconcile::reconcile(found, world.context.clone());
    pass.await.unwrap_err();
    assert_eq!(world.api.get("deployments", "orders"), Some(theirs));
}
