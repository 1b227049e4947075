//! `kubectl explain` tells of fields what the types' documentation says.

use std::time::Duration;

use penstock_crds::crd::crd;
use penstock_tests::wait;
use serde_json::Value;

use crate::Outcome;
use crate::scene::shared;

const SOON: Duration = Duration::from_secs(60);

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The description of a field in the CRD's schema.
fn description(schema: &Value, path: &str) -> Option<String> {
    let mut node = schema;
    for name in path.split('.') {
        node = match node.get("items") {
            Some(items) => items,
            None => node,
        };
        node = node.get("properties")?.get(name)?;
    }
    Some(words(node.get("description")?.as_str()?))
}

#[tokio::test]
async fn fields_are_explained_in_the_words_of_the_types() -> Outcome {
    let control_plane = shared().await?;
    // The API server publishes the schema some time after it has accepted the CRD.
    wait::value("an explanation", SOON, async || {
        let told = control_plane.run_kubectl(["explain", "kafkaconsumer"]);
        told.map_err(|error| error.to_string())
    })
    .await?;
    let crd = serde_json::to_value(crd())?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for path in [
        "spec",
        "spec.group",
        "spec.mode",
        "spec.maxConcurrency",
        "spec.replicas",
        "spec.kafka.bootstrapServers",
        "spec.kafka.config",
        "spec.kafka.authentication.passwordSecret",
        "spec.handler.image",
        "spec.delivery.onFailure",
        "spec.delivery.backoff.jitter",
        "status.lag",
    ] {
        let told = control_plane.run_kubectl(["explain", &format!("kafkaconsumer.{path}")])?;
        let expected = description(schema, path).ok_or(path)?;
        assert!(expected.len() > 10, "{path}: {expected}");
        assert!(
            words(&told).contains(&expected),
            "{path}: {expected}\n{told}"
        );
    }
    let mode = control_plane.run_kubectl(["explain", "kc.spec.mode"])?;
    assert!(
        words(&mode).contains("ENUM: InOrder KeyOrdered Fast"),
        "{mode}"
    );
    Ok(())
}
