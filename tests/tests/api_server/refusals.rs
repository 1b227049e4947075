//! The tables of good and bad manifests: the API server says what Rust says.

#[path = "../../../crds/tests/common/mod.rs"]
mod common;

use common::{By, Case, table, violations};
use kube::client::Client;
use kube::core::response::StatusCause;
use penstock_crds::violation::Violation;
use serde_json::Value;

use crate::Outcome;
use crate::scene::{Scene, shared};

const BAD: &str = include_str!("../../../crds/tests/bad_manifests.yaml");
const GOOD: &str = include_str!("../../../crds/tests/good_manifests.yaml");

/// As `kubectl apply` asks, but that nothing is kept.
const URL: &str = "/apis/penstock.dev/v1alpha1/namespaces/default/kafkaconsumers\
    ?dryRun=All&fieldValidation=Strict&fieldManager=kubectl";

/// The API server's refusal; nothing when it takes the manifest.
pub async fn refusal(
    client: &Client,
    manifest: &Value,
) -> kube::Result<Option<kube::core::Status>> {
    let request = http_post(URL, manifest);
    match client.request::<Value>(request).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(*status)),
        Err(error) => Err(error),
    }
}

fn http_post(url: &str, body: &Value) -> http::Request<Vec<u8>> {
    http::Request::post(url)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .expect("a request")
}

/// Table rows are laid over a manifest without a namespace, which some rows give.
fn in_default(case: &Case) -> Value {
    let mut manifest = case.object();
    if let Some(metadata) = manifest["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    manifest
}

/// Whether a cause and a violation are the same fault. A rule about a list can't name
/// the item, and one about the whole object names its field in the message.
fn same(cause: &StatusCause, violation: &Violation) -> bool {
    let (path, said) = match cause.field.as_str() {
        "" | "<nil>" => ("metadata.name", cause.message.replace("metadata.name ", "")),
        field => (field, cause.message.clone()),
    };
    let same_path = violation.path == path || violation.path.starts_with(&format!("{path}["));
    same_path && (said.ends_with(&violation.message) || said.ends_with(&violation.explain()))
}

/// What the API server says beside the CRD's rules, of a field that these refuse too:
/// by its check of names, of sets, and of a scale's replicas.
fn is_own(cause: &StatusCause) -> bool {
    match cause.field.as_str() {
        "metadata.name" => cause.message.contains("RFC 1123 subdomain"),
        "spec.topics[2]" => cause.message.starts_with("Duplicate value"),
        ".spec.replicas" => cause.message.ends_with("should be a non-negative integer"),
        _ => false,
    }
}

fn check_rule(case: &Case, status: &kube::core::Status) -> Result<(), String> {
    let violations = violations(&in_default(case));
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<&StatusCause> = causes.filter(|cause| !is_own(cause)).collect();
    for cause in &causes {
        if !violations.iter().any(|violation| same(cause, violation)) {
            return Err(format!("only the API server says: {cause:?}"));
        }
    }
    for violation in &violations {
        if !causes.iter().any(|cause| same(cause, violation)) {
            return Err(format!("only Rust says: {violation}; {causes:#?}"));
        }
    }
    Ok(())
}

/// The schema's messages are the API server's own; the path is the same, or that of
/// the object that lacks the field, or holds the item.
fn check_schema(case: &Case, status: &kube::core::Status) -> Result<(), String> {
    let named = |violation: &Violation| {
        let (parent, field) = violation
            .path
            .rsplit_once('.')
            .unwrap_or(("", &violation.path));
        let dotted = violation.path.replace('[', ".").replace(']', "");
        let paths = [violation.path.as_str(), dotted.as_str(), parent];
        let said = &status.message;
        paths
            .iter()
            .any(|path| !path.is_empty() && said.contains(path))
            || said.contains(&format!("\"{field}\""))
    };
    let violations = violations(&in_default(case));
    match violations.iter().any(named) {
        true => Ok(()),
        false => Err(format!("{} names none of {violations:?}", status.message)),
    }
}

async fn check(client: &Client, case: &Case) -> Result<(), String> {
    let refusal = refusal(client, &in_default(case)).await;
    let refusal = refusal.map_err(|error| error.to_string())?;
    match (case.by, refusal) {
        (Some(By::Rust) | None, None) => Ok(()),
        (Some(By::Rust) | None, Some(status)) => Err(format!("it is refused: {status:?}")),
        (Some(_), None) => Err("the API server takes it".into()),
        (Some(By::Rule), Some(status)) => check_rule(case, &status),
        (Some(By::Schema), Some(status)) => check_schema(case, &status),
        (Some(By::Api), Some(status)) => match status.code {
            400 | 422 => Ok(()),
            _ => Err(format!("{status:?}")),
        },
    }
}

async fn failures(text: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let client = Scene::new("refusals").await?.client;
    let mut failures = Vec::new();
    for case in table(text) {
        if let Err(failure) = check(&client, &case).await {
            failures.push(format!("{}: {failure}", case.name));
        }
    }
    Ok(failures)
}

#[tokio::test]
async fn the_api_server_refuses_every_bad_manifest_as_rust_does() -> Outcome {
    let failures = failures(BAD).await?;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test]
async fn the_api_server_takes_every_good_manifest() -> Outcome {
    let failures = failures(GOOD).await?;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test]
async fn what_only_rust_refuses_is_told_in_a_condition_and_gets_no_pods() -> Outcome {
    let scene = Scene::new("rust-only").await?;
    let _operator = scene.operator(shared().await?).start().await?;
    let only_rust = table(BAD)
        .into_iter()
        .filter(|case| case.by == Some(By::Rust));
    for (number, case) in only_rust.enumerate() {
        let name = format!("case-{number}");
        let mut object = case.object();
        object["metadata"]["name"] = name.as_str().into();
        let object = serde_json::from_value(object)?;
        let consumers = scene.consumers_as_written();
        consumers.create(&Default::default(), &object).await?;
        let accepted = scene.wait_for_reason(&name, "Accepted", "Invalid").await?;
        for expected in &case.expect {
            assert!(accepted.message.contains(expected), "{}", accepted.message);
        }
        let deployments = scene.api::<k8s_openapi::api::apps::v1::Deployment>();
        assert!(deployments.get_opt(&name).await?.is_none(), "{}", case.name);
    }
    Ok(())
}
