//! What users see when they apply a manifest: refusals, and the consumer in a list.

use penstock_tests::Manifest;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Reply};

use crate::{LIMIT, Outcome, Scene};

#[tokio::test]
async fn a_wrong_manifest_is_refused_with_the_rule_that_it_breaks() -> Outcome {
    let scene = Scene::new("refused").await?;
    let good = || Manifest::in_order("kafka:9092", "billing.orders", "orders");
    for (manifest, words) in [
        (
            Manifest::in_order("kafka:9092", "billing", "orders"),
            "spec.group: Invalid value: \"string\": group_id must start with 'SERVICENAME.'",
        ),
        (
            Manifest::in_order("kafka:9092", "billing.orders", "re turns"),
            "spec.topics[0]: Invalid value: \"string\": a topic name has 1 to 249 characters",
        ),
        (
            good().set("/maxConcurrency", 2),
            "spec.maxConcurrency: Invalid value: \"object\": Can only run 1 message handler!",
        ),
        (
            good().kafka("sasl.password", "hunter2"),
            "a manifest is no place for a credential; put it into a Secret and name that in \
             spec.kafka.authentication.passwordSecret",
        ),
        (
            good().set("/handler/retries", 3),
            "unknown field \"spec.handler.retries\"",
        ),
    ] {
        let refusal = match scene.namespace.apply(&manifest.named("orders")) {
            Ok(said) => panic!("{words} was expected, but: {said}"),
            Err(refusal) => refusal.to_string(),
        };
        assert!(refusal.contains(words), "{words}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
    assert!(scene.namespace.json(&["get", "kc", "orders"]).is_err());
    Ok(())
}

#[tokio::test]
async fn explain_tells_the_rule_of_a_field() -> Outcome {
    let scene = Scene::new("explain").await?;
    let explained = scene
        .namespace
        .run_kubectl(["explain", "kafkaconsumer.spec.group"])?;
    let words: Vec<&str> = explained.split_whitespace().collect();
    assert!(
        words
            .join(" ")
            .contains("Kafka consumer group, written SERVICENAME.group_name."),
        "{explained}"
    );
    Ok(())
}

#[tokio::test]
async fn a_running_consumer_is_waited_for_and_listed_with_what_it_does() -> Outcome {
    let scene = Scene::new("columns").await?;
    Produce::to(&scene.topic)
        .count(5)
        .send(scene.cluster.kafka())
        .await?;
    let gate = Gate::closed();
    let held = gate.clone();
    scene.recorder.behave(move |_| Reply::ok().once(&held));
    let manifest = scene
        .fast(4)
        .set("/replicas", 2)
        .set("/handler/timeout", "2m");
    scene.namespace.apply(&manifest.named("orders"))?;
    let waited = scene.namespace.run_kubectl([
        "wait",
        "--for=condition=Available",
        "kc/orders",
        "--timeout=2m",
    ])?;
    assert_eq!(waited, "kafkaconsumer.penstock.dev/orders condition met\n");
    scene.recorder.wait_for_in_flight(5, LIMIT).await?;
    for expected in ["{.status.lag}=5", "{.status.ready}=2/2"] {
        let expected = format!("jsonpath={expected}");
        scene
            .namespace
            .wait_until("kc/orders", &expected, LIMIT)
            .await?;
    }

    let table = scene.namespace.run_kubectl(["get", "kc", "-o", "wide"])?;
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = [
        "NAME", "MODE", "GROUP", "TOPICS", "REPLICAS", "HANDLERS", "LAG", "READY", "REASON", "AGE",
    ];
    assert_eq!(lines.next().unwrap_or_default(), header);
    let line = lines.next().unwrap_or_default();
    let (age, values) = line.split_last().ok_or("no line")?;
    let topics = format!("[\"{}\"]", scene.topic);
    let group = scene.group();
    let expected = [
        "orders",
        "Fast",
        &group,
        &topics,
        "2/2",
        "8",
        "5",
        "True",
        "HandlersReady",
    ];
    assert_eq!(values, expected);
    assert!(age.ends_with(['s', 'm']), "{age}");

    gate.open();
    scene.recorder.wait_for_handled(5, LIMIT).await?;
    scene
        .namespace
        .wait_until("kc/orders", "jsonpath={.status.lag}=0", LIMIT)
        .await?;
    Ok(())
}
