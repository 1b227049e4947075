//! Topics that are not there, and brokers that do not answer.

use penstock_tests::produce::Produce;
use penstock_tests::topics;

use crate::{LIMIT, Outcome, Scene};

#[tokio::test]
async fn a_missing_topic_is_told_and_the_consumer_starts_once_it_is_created() -> Outcome {
    let scene = Scene::new("missing").await?;
    let topic = topics::unique("created-later");
    let manifest = scene.in_order().set("/topics", vec![topic.as_str()]);
    scene.namespace.apply(&manifest.named("orders"))?;

    let resolved = scene
        .wait_for_reason("TopicsResolved", "TopicNotFound")
        .await?;
    let message = format!(
        "topic '{topic}' does not exist. maybe it's misspelled or on a different kafka cluster?"
    );
    assert_eq!(
        (resolved.status.as_str(), &resolved.message),
        ("False", &message)
    );
    let available = scene
        .wait_for_reason("Available", "TopicsNotResolved")
        .await?;
    assert_eq!(available.status, "False");
    scene.wait_for_warning("TopicNotFound", &message).await?;
    let nothing: [String; 0] = [];
    assert_eq!(scene.names("deployments")?, nothing);
    assert_eq!(scene.names("configmaps")?, nothing);

    topics::create_named(scene.cluster.kafka(), &topic, 1).await?;
    Produce::to(&topic)
        .count(10)
        .send(scene.cluster.kafka())
        .await?;
    scene.recorder.wait_for_handled(10, LIMIT).await?;
    scene
        .wait_for_reason("TopicsResolved", "TopicsFound")
        .await?;
    scene
        .namespace
        .wait_until("kc/orders", "condition=Available", LIMIT)
        .await?;
    Ok(())
}

#[tokio::test]
async fn while_brokers_do_not_answer_what_runs_is_left_running() -> Outcome {
    let scene = Scene::new("unreachable").await?;
    scene.run(&scene.in_order()).await?;
    scene.wait_until_complete().await?;
    let pods = scene.pods()?;
    assert_eq!(pods.len(), 1);

    let nobody = format!("{}:1", scene.cluster.host());
    let wrong = scene
        .in_order()
        .set("/kafka/bootstrapServers", nobody.as_str());
    scene.namespace.apply(&wrong.named("orders"))?;
    let resolved = scene
        .wait_for_reason("TopicsResolved", "BrokersUnreachable")
        .await?;
    assert_eq!(resolved.status, "Unknown");
    let begin = format!("failed getting metadata from {nobody}: ");
    assert!(resolved.message.starts_with(&begin), "{resolved:?}");
    scene.wait_for_warning("BrokersUnreachable", &begin).await?;
    let available = scene.condition("Available")?;
    assert_eq!(
        (available.status.as_str(), available.reason.as_str()),
        ("True", "HandlersReady")
    );

    Produce::to(&scene.topic)
        .count(10)
        .send(scene.cluster.kafka())
        .await?;
    scene.recorder.wait_for_handled(10, LIMIT).await?;
    assert_eq!(scene.pods()?, pods);

    scene.namespace.apply(&scene.in_order().named("orders"))?;
    scene
        .wait_for_reason("TopicsResolved", "TopicsFound")
        .await?;
    scene.wait_until_complete().await?;
    assert_eq!(scene.pods()?, pods);
    Ok(())
}
