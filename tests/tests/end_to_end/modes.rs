//! The two modes: what is produced is handled, in order or side by side.

use std::time::Duration;

use penstock_tests::oracle::Rule;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Reply;

use crate::{LIMIT, Outcome, Scene};

#[tokio::test]
async fn in_order_each_message_is_handled_once_one_at_a_time_and_in_order() -> Outcome {
    let scene = Scene::new("in-order").await?;
    let produced = Produce::to(&scene.topic)
        .count(2_000)
        .send(scene.cluster.kafka())
        .await?;
    scene.run(&scene.in_order()).await?;
    scene
        .all_handled(
            &produced,
            [],
            &[Rule::NothingLost, Rule::InOrder, Rule::DuplicatesExplained],
        )
        .await?;
    assert_eq!(scene.recorder.max_in_flight(), 1);
    Ok(())
}

#[tokio::test]
async fn fast_has_as_many_messages_in_flight_as_handlers_in_all_replicas() -> Outcome {
    let scene = Scene::new("fast").await?;
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_millis(20)));
    scene.run(&scene.fast(8).set("/replicas", 2)).await?;
    // Each has partitions before there is something to do.
    scene.wait_until_complete().await?;
    let produced = Produce::to(&scene.topic)
        .count(2_000)
        .send(scene.cluster.kafka())
        .await?;
    scene
        .recorder
        .wait_for_handled(produced.len(), LIMIT)
        .await?;
    assert_eq!(scene.recorder.max_in_flight(), 16);
    Ok(())
}
