//! What handlers in pods give to produce, for who reads committed messages.

use std::time::Duration;

use penstock_tests::load::Load;
use penstock_tests::recorder::Reply;
use penstock_tests::{groups, topics, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{LIMIT, Outcome, Scene};

#[tokio::test]
async fn every_record_is_there_once_though_a_runtime_is_killed_and_a_pod_deleted() -> Outcome {
    let scene = Scene::grpc("once").await?;
    let bootstrap = scene.cluster.kafka();
    let out = topics::create(bootstrap, "once-out", 1).await?;
    let to = out.clone();
    scene.recorder.behave(move |delivery| {
        let position = &delivery.position;
        let data = json!([position.partition, position.offset]);
        let key = delivery.key.as_deref().unwrap_or_default();
        Reply::produce(&to, key, &data).after(Duration::from_millis(2))
    });
    let manifest = scene.key_ordered(4).set("/commit", "Transactional");
    scene.run(&manifest.short_session()).await?;
    let load = Load::start(bootstrap, &scene.topic, 20);

    scene.recorder.wait_for_handled(200, LIMIT).await?;
    let pod = scene.pod()?;
    scene.namespace.signal(&pod.name, "runtime", Signal::KILL)?;
    scene.wait_for_restart(&pod).await?;
    let before = scene.recorder.count();
    let more = async || scene.recorder.count() > before + 200;
    wait::until("messages to go on", LIMIT, more).await?;
    // Another pod has another transactional id.
    scene.namespace.run_kubectl(["delete", "pod", &pod.name])?;
    let before = scene.recorder.count();
    let more = async || scene.recorder.count() > before + 200;
    wait::until("messages to go on in another pod", LIMIT, more).await?;

    let produced = load.stop().await?;
    let total = i64::try_from(produced.len())?;
    groups::wait_for_committed(bootstrap, &scene.group(), &scene.topic, total, LIMIT).await?;
    topics::wait_for_transactions(bootstrap, &out, LIMIT).await?;
    let mut expected: Vec<_> = produced
        .iter()
        .map(|one| json!([one.position.partition, one.position.offset]))
        .collect();
    let records = topics::read_all(bootstrap, &out).await?;
    let values = records
        .iter()
        .map(|record| serde_json::from_slice(record.value.as_deref().unwrap_or_default()));
    let mut found = values.collect::<Result<Vec<Value>, _>>()?;
    let place = |value: &Value| (value[0].as_i64(), value[1].as_i64());
    expected.sort_by_key(place);
    found.sort_by_key(place);
    assert_eq!(found, expected);
    Ok(())
}
