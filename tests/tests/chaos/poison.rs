//! A message that can't be handled.

use penstock_tests::kubernetes::Scene;
use penstock_tests::oracle::Rule;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::Reply;

use crate::{LIMIT, Outcome};

#[tokio::test]
async fn a_message_that_stops_the_consumer_is_named_and_goes_through_once_the_handler_is_mended()
-> Outcome {
    const POISON: u64 = 25;
    let scene = Scene::new("poison").await?;
    let produced = Produce::to(&scene.topic)
        .count(50)
        .partition(|_| 3)
        .send(&scene.kafka)
        .await?;
    let position = &produced[25].position;
    scene
        .recorder
        .behave(|delivery| match delivery.json()["seq"] == POISON {
            true => Reply::status(400).with_body("no such customer"),
            false => Reply::ok(),
        });
    scene.namespace.apply(&scene.in_order().named("orders"))?;
    // It is told of with a number that grows: the container is started again and again.
    let condition = scene
        .namespace
        .wait_for_reason(
            "orders",
            "Available",
            "ConsumerFailed",
            &[
                "container 'runtime' ended twice",
                &format!(
                    "topic {} partition {} offset {}",
                    position.topic, position.partition, position.offset
                ),
                "400 Bad Request",
                "no such customer",
                "correct the handler or the message",
            ],
            LIMIT,
        )
        .await?;
    assert_eq!(condition.status, "False");
    assert_eq!(scene.recorder.handled(), 25, "those before it, and no more");

    scene.recorder.behave(|_| Reply::ok());
    scene
        .namespace
        .wait_until("kc/orders", "condition=Available", LIMIT)
        .await?;
    // Each of its ends was in order, and no excuse for a message that comes again.
    scene
        .all_handled(
            &produced,
            [],
            &[Rule::NothingLost, Rule::InOrder, Rule::DuplicatesExplained],
        )
        .await?;
    Ok(())
}
