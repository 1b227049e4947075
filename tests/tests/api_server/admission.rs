//! The API server says no, for a while.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::Outcome;
use crate::scene::{Scene, shared};

/// Objects of the namespace in the words of admission.
fn in_namespace(namespace: &str) -> serde_json::Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } })
}

#[tokio::test]
async fn a_policy_that_refuses_pods_is_told_in_its_words_until_it_is_gone() -> Outcome {
    let (control_plane, scene) = (shared().await?, Scene::new("policy").await?);
    let name = scene.namespace.as_str();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["deployments"],
            }] },
            "validations": [{ "expression": "false", "message": "no Deployments on Fridays" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": { "namespaceSelector": in_namespace(name) },
        },
    });
    control_plane.apply(&format!("{policy}\n---\n{binding}"))?;
    // It takes effect a moment later.
    let probe = ["create", "deployment", "probe", "--image=x", "--namespace"];
    let probe = probe.into_iter().chain([name, "--dry-run=server"]);
    penstock_tests::wait::until("the policy's effect", crate::scene::LIMIT, async || {
        control_plane.run_kubectl(probe.clone()).is_err()
    })
    .await?;

    let operator = scene.operator(control_plane).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    let progressing = scene
        .wait_for_reason("orders", "Progressing", "ObjectRefused")
        .await?;
    let message = &progressing.message;
    assert!(message.contains("no Deployments on Fridays"), "{message}");
    assert!(message.contains("Deployment 'orders'"), "{message}");
    // What comes before it in the order is there.
    assert_eq!(scene.config_maps("orders").await?.len(), 1);

    control_plane.run_kubectl(["delete", "validatingadmissionpolicybinding", name])?;
    control_plane.run_kubectl(["delete", "validatingadmissionpolicy", name])?;
    scene
        .wait_for("orders", "one", |_: &Deployment| true)
        .await?;
    scene
        .wait_for_reason("orders", "Progressing", "RollingOut")
        .await?;
    assert!(operator.process().status().is_none());
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_tried_again_and_told() -> Outcome {
    let (control_plane, scene) = (shared().await?, Scene::new("webhook").await?);
    let name = scene.namespace.as_str();
    // Nobody listens there: the API server answers 500.
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": "silent.penstock.dev",
            "clientConfig": { "url": "https://127.0.0.1:1/" },
            "rules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["configmaps"],
            }],
            "namespaceSelector": in_namespace(name),
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 1,
        }],
    });
    control_plane.apply(&webhook.to_string())?;
    let probe = ["create", "configmap", "probe", "--namespace"];
    let probe = probe.into_iter().chain([name, "--dry-run=server"]);
    penstock_tests::wait::until("the webhook's effect", crate::scene::LIMIT, async || {
        control_plane.run_kubectl(probe.clone()).is_err()
    })
    .await?;

    let _operator = scene.operator(control_plane).start().await?;
    scene.create(&scene.fast(), "orders").await?;
    let progressing = scene
        .wait_for_reason("orders", "Progressing", "RequestFailed")
        .await?;
    let message = &progressing.message;
    assert!(message.contains("silent.penstock.dev"), "{message}");

    control_plane.run_kubectl(["delete", "validatingwebhookconfiguration", name])?;
    scene
        .wait_for_reason("orders", "Progressing", "RollingOut")
        .await?;
    scene.api::<Deployment>().get("orders").await?;
    Ok(())
}
