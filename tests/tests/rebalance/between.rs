//! A member that stops while the group is between two generations, in which the
//! coordinator refuses commits.

use std::time::Duration;

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Launch, Manifest, topics, wait};
use tokio::time::sleep;

use crate::{Outcome, PARTITIONS, SOON, end_well};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_between_two_generations_commits_all_that_it_handled() -> Outcome {
    stop_between_generations(Kafka::shared().await?, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_between_two_generations_waits_for_a_slow_broker() -> Outcome {
    let kafka = Kafka::start().await?;
    stop_between_generations(&kafka, Some(Duration::from_secs(4))).await
}

/// `pause`: how long the broker does not answer the commit.
async fn stop_between_generations(kafka: &Kafka, pause: Option<Duration>) -> Outcome {
    let bootstrap = kafka.bootstrap();
    let topic = topics::create(bootstrap, "between", PARTITIONS).await?;
    let group = topics::unique("test.between");
    let produced = Produce::to(&topic)
        .count(6000)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    let recorder = Recorder::start()?;
    recorder.behave(|_| Reply::ok().after(Duration::from_millis(5)));
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .handler(&recorder)
        .kafka("partition.assignment.strategy", "cooperative-sticky")
        .kafka("session.timeout.ms", "30000")
        .kafka("heartbeat.interval.ms", "200");
    let member = || Launch::new(&manifest).log("info,penstock_runtime=debug");
    let other = member().start()?;
    groups::wait_for_members(bootstrap, &group, 1, SOON).await?;
    let stopping = Launch::new(&manifest.clone().kafka("debug", "protocol"))
        .log("info,penstock_runtime=debug,librdkafka=debug")
        .start()?;
    stopping.wait_for_line("assigned", SOON).await?;
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    let handled = recorder.handled();
    recorder.wait_for_handled(handled + 20, SOON).await?;

    // A third joins, and with it all must join again. One can't, so the next
    // generation does not begin; and on its connection the commit waits for that.
    other.pause()?;
    let joins = || stopping.count("Sent JoinGroupRequest");
    let before = joins();
    let third = member().start()?;
    let joined = async || joins() > before;
    stopping
        .wait_until("it to join again", SOON, joined)
        .await?;
    stopping.terminate()?;
    stopping
        .wait_for_line("the last commit begins", SOON)
        .await?;
    other.resume()?;
    if let Some(pause) = pause {
        // Most often it is refused first; it may also be over by now.
        let refused = async || stopping.count("is sent again") > 0 || stopping.status().is_some();
        wait::until("a commit to be refused", SOON, refused).await?;
        kafka.pause()?;
        sleep(pause).await;
        kafka.resume()?;
    }
    let status = stopping.wait(SOON).await?;
    assert!(status.success(), "{}", stopping.tail());
    let given_up = "messages that were handled since the previous commit may come again";
    assert_eq!(stopping.count(given_up), 0, "{}", stopping.tail());
    groups::wait_for_committed(bootstrap, &group, &topic, 6000, SOON).await?;
    end_well(other).await?;
    end_well(third).await?;
    Evidence::new(&produced, recorder.deliveries())
        .commits(watch.stop().await)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            // Without a disruption: each message was handled exactly once.
            Rule::DuplicatesExplained,
            Rule::NeverTwiceAtOnce,
        ])?;
    Ok(())
}
