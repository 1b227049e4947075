//! The forms of a handler: beside the runtime, on a port or a socket, or in it.

use penstock_tests::groups;
use penstock_tests::produce::Produce;
use penstock_tests::topics::{self, Stored};
use penstock_tests::wait;
use serde_json::json;

use crate::look::{processed, runtime_page};
use crate::{LIMIT, Outcome, Scene};

impl Scene {
    /// Waits until the only pod tells of so many messages with success.
    async fn wait_for_processed(&self, count: u32) -> Outcome {
        let pod = self.pod()?;
        wait::value(format!("{count} messages processed"), LIMIT, async || {
            let page = runtime_page(&pod)
                .await
                .map_err(|error| error.to_string())?;
            let seen = processed(&page, true).map_err(|error| error.to_string())?;
            match seen == f64::from(count) {
                true => Ok(()),
                false => Err(format!("{seen}")),
            }
        })
        .await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_listens_on_a_socket_that_it_shares_with_the_runtime() -> Outcome {
    let scene = Scene::new("socket").await?;
    let produced = Produce::to(&scene.topic)
        .count(500)
        .send(scene.cluster.kafka())
        .await?;
    let manifest = scene.fast(4).set("/handler/socket", "/sockets/orders");
    scene.run(&manifest).await?;
    scene
        .recorder
        .wait_for_handled(produced.len(), LIMIT)
        .await?;
    let ports = "/spec/template/spec/initContainers/0/ports";
    assert!(scene.field("deployment/orders", ports)?.is_null());
    Ok(())
}

#[tokio::test]
async fn the_go_example_handles_messages_on_a_port() -> Outcome {
    let scene = Scene::new("go").await?;
    Produce::to(&scene.topic)
        .count(500)
        .send(scene.cluster.kafka())
        .await?;
    let manifest = scene.fast(16).set(
        "/handler",
        json!({"image": "registry.example/orders-go:test", "port": 8080}),
    );
    scene.run(&manifest).await?;
    scene.wait_for_processed(500).await
}

#[tokio::test]
async fn the_rust_example_handles_messages_in_its_own_process_and_keeps_failures_aside() -> Outcome
{
    let scene = Scene::new("embedded").await?;
    let bootstrap = scene.cluster.kafka();
    let dead = topics::create(bootstrap, "embedded-dead", 1).await?;
    let produced = Produce::to(&scene.topic)
        .count(500)
        .value(|seq| {
            let amount = if seq % 100 == 7 { -1.0 } else { 1.5 };
            Some(json!({"id": seq, "amount": amount}).to_string().into())
        })
        .send(bootstrap)
        .await?;
    let handler = json!({"image": "registry.example/orders-rust:test", "protocol": "Embedded"});
    let manifest = scene
        .fast(4)
        .set("/handler", handler)
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    scene.run(&manifest).await?;
    groups::wait_for_committed(bootstrap, &scene.group(), &scene.topic, 500, LIMIT).await?;
    scene.wait_for_processed(495).await?;
    assert_eq!(
        scene.field("deployment/orders", "/spec/template/spec/initContainers")?,
        json!(null)
    );

    let letters = topics::read_all(bootstrap, &dead).await?;
    assert_eq!(letters.len(), 5);
    for letter in &letters {
        let value = letter.value.as_deref().unwrap_or_default();
        let order: serde_json::Value = serde_json::from_slice(value)?;
        let seq = order["id"].as_u64().ok_or("no id")?;
        assert_eq!(seq % 100, 7);
        let origin = &produced[usize::try_from(seq)?].position;
        let expected = [
            ("topic", scene.topic.clone()),
            ("partition", origin.partition.to_string()),
            ("offset", origin.offset.to_string()),
            ("group", scene.group()),
            ("attempts", "1".to_owned()),
            ("reason", "an amount is not negative".to_owned()),
        ];
        for (name, expected) in expected {
            assert_eq!(failure(letter, name), Some(expected), "{name}: {letter:?}");
        }
    }
    Ok(())
}

/// What a dead letter tells of the failure.
fn failure(letter: &Stored, name: &str) -> Option<String> {
    let name = format!("penstock.failure.{name}");
    let (_, value) = letter.headers.iter().find(|(found, _)| *found == name)?;
    String::from_utf8(value.clone()?).ok()
}
