//! A ConfigMap for each content: old pods keep theirs, and unused ones go.

use std::sync::Arc;

use kube::runtime::controller::Action;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::world::World;

fn data(world: &World, config_map: &str) -> Option<Value> {
    Some(world.api.get("configmaps", config_map)?["data"].clone())
}

/// The newest template has a ReplicaSet, and its pods are ready.
fn roll(world: &World, replica_set: &str) {
    world.replica_set("orders", replica_set);
    world.all_ready("orders");
}

#[tokio::test]
async fn a_changed_manifest_leaves_the_config_map_of_old_pods_alone() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    roll(&world, "orders-1");
    let old = world.config_map("orders");
    let before = data(&world, &old);

    world.apply("orders", json!({ "stopTimeout": "60s" }));
    world.pass("orders").await.unwrap();
    let new = world.config_map("orders");
    assert_ne!(new, old);
    assert_eq!(data(&world, &old), before);
    assert_ne!(data(&world, &new), before);
    // It stays while a rollback could come back to it.
    roll(&world, "orders-2");
    world.api.calls();
    assert_eq!(world.pass("orders").await.unwrap(), Action::await_change());
    let calls = world.api.spoken();
    assert!(
        calls
            .iter()
            .all(|call| call.starts_with("patch kafkaconsumers/status")),
        "{calls:?}"
    );

    world.api.delete("replicasets", "orders-1");
    world.pass("orders").await.unwrap();
    assert_eq!(data(&world, &old), None);
    assert!(data(&world, &new).is_some());
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);
}

/// The Deployment's controller is behind, or the watch of ReplicaSets is.
#[tokio::test]
async fn a_config_map_that_a_replica_set_may_name_is_kept() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let old = world.config_map("orders");
    world.apply("orders", json!({ "stopTimeout": "60s" }));
    world.pass("orders").await.unwrap();
    assert!(
        data(&world, &old).is_some(),
        "its ReplicaSet may still be made"
    );
    world.all_ready("orders");

    // It was made, and only the API server knows.
    world.show();
    let mut template = world.api.get("deployments", "orders").unwrap()["spec"]["template"].clone();
    template["spec"]["volumes"][0]["configMap"]["name"] = old.clone().into();
    let labels = template["metadata"]["labels"].clone();
    world.api.put(
        "replicasets",
        json!({
            "metadata": { "name": "orders-1", "namespace": "shop", "labels": labels },
            "spec": { "selector": {}, "template": template },
        }),
    );
    let pass =
        || penstock_operator::reconcile::reconcile(world.found("orders"), world.context.clone());
    pass().await.unwrap();
    assert!(data(&world, &old).is_some(), "the API server is asked");
    assert_eq!(world.api.count("list replicasets"), 1);

    world.api.delete("replicasets", "orders-1");
    pass().await.unwrap();
    assert!(data(&world, &old).is_none());
}

/// An earlier operator made one ConfigMap, and changed it in place.
#[tokio::test]
async fn an_upgrade_replaces_pods_once_and_breaks_no_old_ones() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let new = world.config_map("orders");
    // As it was before the upgrade.
    let mut earlier = world.api.get("configmaps", &new).unwrap();
    earlier["metadata"]["name"] = "orders-config".into();
    earlier.as_object_mut().unwrap().remove("immutable");
    world.api.put("configmaps", earlier);
    world.api.delete("configmaps", &new);
    let volume = "/spec/template/spec/volumes/0/configMap/name";
    world.api.edit("deployments", "orders", |object| {
        *object.pointer_mut(volume).unwrap() = "orders-config".into();
    });
    roll(&world, "orders-1");
    let before = world.api.get("configmaps", "orders-config");

    let world = world.restarted();
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.count("patch deployments"), 1);
    assert_eq!(world.config_map("orders"), new);
    assert_eq!(
        world.api.get("configmaps", "orders-config"),
        before,
        "old pods read it"
    );
    roll(&world, "orders-2");
    world.pass("orders").await.unwrap();
    world.api.calls();
    world.pass("orders").await.unwrap();
    assert_eq!(world.api.spoken(), [""; 0]);

    world.api.delete("replicasets", "orders-1");
    world.pass("orders").await.unwrap();
    assert!(world.api.get("configmaps", "orders-config").is_none());
    assert_eq!(world.api.count("patch deployments"), 0, "once");
}

#[tokio::test]
async fn an_unused_config_map_goes_while_a_quota_has_no_room_for_another() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let old = world.config_map("orders");
    world.apply("orders", json!({ "stopTimeout": "60s" }));
    world.pass("orders").await.unwrap();
    roll(&world, "orders-2");
    world.apply("orders", json!({ "stopTimeout": "90s" }));
    world.api.fail("patch configmaps", Fault::Quota);
    world.pass("orders").await.unwrap();
    assert_eq!(data(&world, &old), None);
}

#[tokio::test]
async fn a_config_map_that_is_wanted_again_is_made_though_the_watch_has_not_shown_that_it_went() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let old = world.config_map("orders");
    world.apply("orders", json!({ "stopTimeout": "60s" }));
    world.pass("orders").await.unwrap();
    roll(&world, "orders-2");
    world.pass("orders").await.unwrap();
    assert_eq!(data(&world, &old), None);
    world.apply("orders", json!({}));
    let pass =
        penstock_operator::reconcile::reconcile(world.found("orders"), world.context.clone());
    pass.await.unwrap();
    assert!(data(&world, &old).is_some());
}

/// A role of an earlier release, or one of the administrator's own.
#[tokio::test]
async fn without_a_list_of_replica_sets_no_config_map_goes_and_all_else_goes_on() {
    let world = World::new();
    world.apply("orders", json!({}));
    world.pass("orders").await.unwrap();
    let old = world.config_map("orders");
    world.apply("orders", json!({ "stopTimeout": "60s" }));
    world.pass("orders").await.unwrap();
    world.all_ready("orders");
    world.show();
    let mut context = Arc::try_unwrap(world.context).unwrap_or_else(|_| panic!("one holds it"));
    context.replica_sets = Default::default();
    let world = World {
        context: Arc::new(context),
        ..world
    };
    let pass =
        penstock_operator::reconcile::reconcile(world.found("orders"), world.context.clone());
    pass.await.unwrap();
    assert!(data(&world, &old).is_some());
    world.pass("orders").await.unwrap();
    assert_eq!(data(&world, &old), None, "once they were listed");
}
