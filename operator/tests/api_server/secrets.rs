//! Passes, one by one: the Secrets that a consumer names.

use std::time::Duration;

use penstock_operator::key::Key;
use penstock_operator::reconcile::ReconcileError;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::world::{NAMESPACE, World};

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
