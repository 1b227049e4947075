//! With the rights that the chart gives, and no more.

use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use penstock_crds::spec::KafkaConsumer;
use penstock_tests::kubernetes::{Binaries, ControlPlane};
use penstock_tests::operator::Operator;
use penstock_tests::wait;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::Outcome;
use crate::scene::{LIMIT, Scene, shared};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/penstock");

/// Consumers that an operator finds at its start.
const CROWD: usize = 60;

/// Passes that are tried again.
const FAILURES: &str = "penstock_operator_reconcile_failures_total";

/// What of the chart gives the operator its rights.
const RIGHTS: [&str; 3] = [
    "templates/serviceaccount.yaml",
    "templates/rbac.yaml",
    "templates/rbac-lease.yaml",
];

/// Gives the operator of a release its rights, and a kubeconfig that has them.
pub(crate) async fn grant(
    control_plane: &ControlPlane,
    namespace: &str,
    values: &[&str],
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let helm = spawn_blocking(Binaries::all).await??.path("helm");
    let mut helm = Command::new(helm);
    helm.args(["template", "penstock", CHART, "--namespace", namespace]);
    // Without a cluster to ask, Helm takes the one that it was built for.
    helm.arg("--kube-version=1.34.2");
    for template in RIGHTS {
        helm.args(["--show-only", template]);
    }
    for value in values {
        helm.args(["--set", value]);
    }
    let rendered = helm.output()?;
    let error = String::from_utf8_lossy(&rendered.stderr);
    assert!(rendered.status.success(), "{error}");
    control_plane.apply(&String::from_utf8(rendered.stdout)?)?;
    Ok(control_plane.kubeconfig_of(namespace, "penstock-operator")?)
}

/// The API server has refused the operator nothing.
pub(crate) fn assert_nothing_forbidden(operator: &Operator) {
    let lines = operator.process().lines();
    let mut lines = lines.iter();
    let found = lines.find(|line| line.text.to_lowercase().contains("forbidden"));
    assert!(found.is_none(), "{found:?}");
}

/// A variable of the handler that comes from a Secret.
fn secret_variable() -> Value {
    let reference = json!({ "name": "database", "key": "password" });
    json!([{ "name": "PASSWORD", "valueFrom": { "secretKeyRef": reference } }])
}

/// All that happens to a consumer: a Secret that is not there yet, a change, another
/// Secret, fewer replicas, a topic that is not there.
async fn live(scene: &Scene) -> Outcome {
    let consumers = scene.api::<KafkaConsumer>();
    let patch = async |patch: Value| {
        let params = PatchParams::default();
        consumers
            .patch("orders", &params, &Patch::Merge(patch))
            .await
    };
    let secrets = scene.api::<Secret>();
    let manifest = scene.fast().set("/handler/env", secret_variable());
    scene.create(&manifest, "orders").await?;
    scene
        .wait_for_reason("orders", "TopicsResolved", "SecretNotFound")
        .await?;
    let secret = json!({ "metadata": { "name": "database" }, "stringData": { "password": "a" } });
    secrets
        .create(&PostParams::default(), &serde_json::from_value(secret)?)
        .await?;
    let template =
        |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.template.clone());
    let first = scene
        .wait_for("orders", "one", |_: &Deployment| true)
        .await?;

    let secret = json!({ "stringData": { "password": "b" } });
    secrets
        .patch("database", &PatchParams::default(), &Patch::Merge(secret))
        .await?;
    let second = scene
        .wait_for("orders", "another template", |now: &Deployment| {
            template(now) != template(&first)
        })
        .await?;
    patch(json!({ "spec": { "handler": { "image": "registry.example/billing:2" } } })).await?;
    scene
        .wait_for("orders", "another image", |now: &Deployment| {
            template(now) != template(&second)
        })
        .await?;
    scene.api::<PodDisruptionBudget>().get("orders").await?;
    patch(json!({ "spec": { "replicas": 1 } })).await?;
    wait::until("the budget to go", LIMIT, async || {
        let budgets = scene.api::<PodDisruptionBudget>();
        matches!(budgets.get_opt("orders").await, Ok(None))
    })
    .await?;
    patch(json!({ "spec": { "topics": ["nowhere"] } })).await?;
    scene
        .wait_for_reason("orders", "TopicsResolved", "TopicNotFound")
        .await?;
    wait::value("an event about it", LIMIT, async || {
        let events = scene.api::<Event>().list(&ListParams::default()).await;
        let events = events.map_err(|error| error.to_string())?;
        let reason = |event: &&Event| event.reason.as_deref() == Some("TopicNotFound");
        events
            .items
            .iter()
            .find(reason)
            .map(|_| ())
            .ok_or("none".to_owned())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_role_in_one_namespace_is_enough_for_that_namespace() -> Outcome {
    let control_plane = shared().await?;
    let scene = Scene::new("watched").await?;
    let (home, other) = (Scene::new("home").await?, Scene::new("other").await?);
    let watched = format!("watchNamespace={}", scene.namespace);
    let values = ["scope=Namespaced", &watched];
    let kubeconfig = grant(control_plane, &home.namespace, &values).await?;
    let operator = Operator::with(kubeconfig)
        .namespace(&home.namespace)
        .watch_namespace(&scene.namespace)
        .start()
        .await?;
    other.create(&other.fast(), "orders").await?;
    live(&scene).await?;
    assert_nothing_forbidden(&operator);
    let elsewhere = other.api::<KafkaConsumer>().get("orders").await?;
    let seen = elsewhere
        .status
        .and_then(|status| status.observed_generation);
    assert_eq!(seen, Some(-1), "no operator has seen it");
    assert!(other.config_maps("orders").await?.is_empty());
    assert_eq!(operator.metric("penstock_operator_consumers").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn the_cluster_role_is_enough_for_the_whole_life_of_a_consumer() -> Outcome {
    let control_plane = ControlPlane::builder().controllers().start().await?;
    control_plane.install_crd().await?;
    let home = Scene::on(&control_plane, "home").await?;
    let scene = Scene::on(&control_plane, "life").await?;
    let kubeconfig = grant(&control_plane, &home.namespace, &[]).await?;
    let settings = Operator::with(kubeconfig).namespace(&home.namespace);
    let operator = settings.identity("first").start().await?;
    live(&scene).await?;
    scene
        .api::<KafkaConsumer>()
        .delete("orders", &DeleteParams::default())
        .await?;
    wait::until("its objects to go", LIMIT, async || {
        let deployments = scene.api::<Deployment>();
        matches!(deployments.get_opt("orders").await, Ok(None))
    })
    .await?;
    wait::value("no consumer left", LIMIT, async || {
        match operator.metric("penstock_operator_consumers").await {
            Ok(0.0) => Ok(()),
            Ok(count) => Err(count.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    operator.process().terminate()?;
    assert!(operator.process().wait(LIMIT).await?.success());
    assert_nothing_forbidden(&operator);
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_is_overloaded_is_asked_again_later() -> Outcome {
    let control_plane = shared().await?;
    let scene = Scene::new("throttled").await?;
    let watched = format!("watchNamespace={}", scene.namespace);
    let values = ["scope=Namespaced", &watched];
    let kubeconfig = grant(control_plane, &scene.namespace, &values).await?;
    let name = scene.namespace.as_str();
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "PriorityLevelConfiguration",
        "metadata": { "name": name },
        // One request at a time: the first is let in even where the limit is 0.
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": 0,
            "lendablePercent": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": { "type": "Reject" },
        } },
    });
    let flow = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": { "name": name },
        "spec": {
            "priorityLevelConfiguration": { "name": name },
            "matchingPrecedence": 10,
            "rules": [{
                "subjects": [{
                    "kind": "ServiceAccount",
                    "serviceAccount": { "name": "penstock-operator", "namespace": name },
                }],
                "resourceRules": [{
                    "verbs": ["patch"],
                    "apiGroups": ["", "apps"],
                    "resources": ["configmaps", "services", "deployments"],
                    "namespaces": [name],
                }],
            }],
        },
    });
    control_plane.apply(&format!("{level}\n---\n{flow}"))?;
    wait::value("the limit's effect", LIMIT, async || {
        let levels = "--raw=/debug/api_priority_and_fairness/dump_priority_levels";
        match control_plane.run_kubectl(["get", levels]) {
            Ok(levels) if levels.contains(name) => Ok(()),
            Ok(levels) => Err(levels),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;

    let consumers: Vec<String> = (0..CROWD)
        .map(|number| format!("orders-{number}"))
        .collect();
    for consumer in &consumers {
        let group = format!("billing.{consumer}");
        scene
            .create(&scene.fast().set("/group", group), consumer)
            .await?;
    }
    let operator = Operator::with(kubeconfig)
        .namespace(name)
        .watch_namespace(name)
        .start()
        .await?;
    for consumer in &consumers {
        scene
            .wait_for_reason(consumer, "Progressing", "RollingOut")
            .await?;
        scene.api::<Deployment>().get(consumer).await?;
    }
    let failures = operator.metric(FAILURES).await?;
    assert!(failures > 0.0);
    let lines = operator.process().lines();
    let mut told = lines.iter().map(|line| line.text.to_lowercase());
    assert!(told.any(|line| line.contains("too many requests")));
    assert_nothing_forbidden(&operator);
    Ok(())
}
