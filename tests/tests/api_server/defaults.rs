//! What the API server fills in is what Rust fills in.

use kube::api::PostParams;
use penstock_crds::spec::{KafkaConsumer, KafkaConsumerSpec};
use penstock_tests::Manifest;
use serde_json::Value;

use crate::Outcome;
use crate::scene::Scene;

/// A manifest's spec as the API server keeps it.
async fn kept(scene: &Scene, manifest: &Manifest) -> Result<Value, Box<dyn std::error::Error>> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let object = serde_json::from_str(&manifest.text())?;
    let kept = scene
        .consumers_as_written()
        .create(&params, &object)
        .await?;
    Ok(kept.data["spec"].clone())
}

/// Whether all that `least` holds stands in `whole` as well; 2.0 is 2.
fn covers(whole: &Value, least: &Value) -> bool {
    match (whole, least) {
        (Value::Object(whole), Value::Object(least)) => least.iter().all(|(name, value)| {
            let found = whole.get(name);
            found.is_some_and(|found| covers(found, value))
        }),
        (Value::Number(whole), Value::Number(least)) => whole.as_f64() == least.as_f64(),
        _ => whole == least,
    }
}

#[tokio::test]
async fn the_api_server_fills_in_what_rust_fills_in() -> Outcome {
    let scene = Scene::new("defaults").await?;
    let manifests = [
        Manifest::in_order("b:1", "a.b", "t")
            .without("offsetReset")
            .without("delivery"),
        Manifest::fast("b:1", "a.b", "t", 8).set("/delivery/backoff/max", "5s"),
        Manifest::fast("b:1", "a.b", "t", 1)
            .without("maxConcurrency")
            .without("commit")
            .set("/kafka/tls", serde_json::json!({})),
    ];
    for manifest in manifests {
        let by_api_server = kept(&scene, &manifest).await?;
        let by_rust: KafkaConsumer = serde_json::from_str(&manifest.text())?;
        let filled_in = serde_json::to_value(&by_rust.spec)?;
        assert!(
            covers(&by_api_server, &filled_in),
            "{by_api_server:#}\n{filled_in:#}"
        );
        let read: KafkaConsumerSpec = serde_json::from_value(by_api_server)?;
        assert_eq!(read, by_rust.spec);
    }
    Ok(())
}
