//! Offsets that the brokers no longer have.

use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, Position, groups, topics, wait};

use super::{Outcome, SOON, handled, lost, recreate};

const LOST: &str = "penstock_lost_messages_total";

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_deleted_before_the_start_is_told_and_the_rest_is_handled() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "retention", 1).await?;
    let group = topics::unique("test.retention");
    Produce::to(&topic).count(20).send(bootstrap).await?;
    let position = Position::new(&topic, 0, 10);
    groups::commit_with_metadata(bootstrap, &group, position, "").await?;
    topics::delete_records(bootstrap, &topic, 0, 15).await?;

    let recorder = Recorder::start()?;
    // Latest is for groups without offsets, which this is none of.
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .without("offsetReset")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_until("the rest to be handled", SOON, async || {
            handled(&recorder).len() == 5
        })
        .await?;
    assert_eq!(handled(&recorder), (15..20).collect::<Vec<_>>());
    assert_eq!(lost(&consumer, LOST, &topic, "retention").await?, 5.0);
    assert_eq!(consumer.count("the brokers no longer have the position"), 1);
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_handled_or_counted_when_retention_passes_a_slow_handler() -> Outcome {
    // librdkafka's own default is eager: all partitions are restarted with one.
    for assignor in ["range,roundrobin", "cooperative-sticky"] {
        passes_a_slow_handler(assignor).await?;
    }
    Ok(())
}

async fn passes_a_slow_handler(assignor: &str) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "passed", 2).await?;
    let group = topics::unique("test.passed");
    let count = 600;
    let value = |seq: u64| Some(format!(r#"{{"seq":{seq},"fill":"{:40000}"}}"#, "").into_bytes());
    Produce::to(&topic)
        .count(count)
        .value(value)
        .partition(|seq| i32::from(seq % 2 == 1))
        .send(bootstrap)
        .await?;
    let (recorder, gate) = (Recorder::start()?, Gate::closed());
    let held = gate.clone();
    recorder.behave(move |_| Reply::ok().once(&held));
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .handler(&recorder)
        .kafka("partition.assignment.strategy", assignor)
        .kafka("queued.max.messages.kbytes", "256")
        .kafka("fetch.message.max.bytes", "100000");
    let consumer = Consumer::start(&manifest)?;
    recorder.wait_for_in_flight(1, SOON).await?;

    // Both partitions: the client restarts one while the other reads on.
    for partition in 0..2 {
        topics::delete_records(bootstrap, &topic, partition, 290).await?;
    }
    gate.open();
    consumer
        .wait_until("the end to be handled", SOON, async || {
            handled(&recorder).len() >= 20 && handled(&recorder).last() == Some(&(count - 1))
        })
        .await?;
    for partition in ["0", "1"] {
        let labels = [("kafka_topic", &*topic), ("kafka_partition", partition)];
        consumer
            .wait_for_metric("penstock_lag", &labels, 0.0, SOON)
            .await?;
    }
    let lost = lost(&consumer, LOST, &topic, "retention").await?;
    assert!(lost > 0.0, "{lost}");
    assert_eq!(handled(&recorder).len() as f64 + lost, count as f64);
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_skips_to_the_end_and_fail_ends_the_consumer() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "policies", 1).await?;
    Produce::to(&topic).count(20).send(bootstrap).await?;
    topics::delete_records(bootstrap, &topic, 0, 15).await?;
    let recorder = Recorder::start()?;
    let manifest = async |policy: &str| {
        let group = topics::unique("test.policies");
        let position = Position::new(&topic, 0, 10);
        groups::commit_with_metadata(bootstrap, &group, position, "").await?;
        let manifest = Manifest::in_order(bootstrap, &group, &topic)
            .handler(&recorder)
            .set("/onOffsetLost", policy);
        Ok::<_, topics::TopicError>((group, manifest))
    };

    let (group, latest) = manifest("Latest").await?;
    let consumer = Consumer::start(&latest)?;
    // The end is committed before anything comes.
    groups::wait_for_committed(bootstrap, &group, &topic, 20, SOON).await?;
    assert_eq!(lost(&consumer, LOST, &topic, "retention").await?, 10.0);
    assert!(consumer.stop(SOON).await?.success());
    assert_eq!(recorder.count(), 0);

    let (_, fail) = manifest("Fail").await?;
    let consumer = Consumer::start(&fail)?;
    consumer.wait_for_line("onOffsetLost is Fail", SOON).await?;
    assert!(!consumer.wait(SOON).await?.success());
    assert_eq!(recorder.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_under_a_slow_handler_is_read_from_its_start() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "again", 1).await?;
    let group = topics::unique("test.again");
    Produce::to(&topic).count(10).send(bootstrap).await?;
    let (recorder, gate) = (Recorder::start()?, Gate::closed());
    let held = gate.clone();
    recorder.behave(move |delivery| match delivery.position.offset {
        3.. => Reply::ok().once(&held),
        _ => Reply::ok(),
    });
    // The handler is slow for as long as it takes to notice.
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .set("/handler/timeout", "5m")
        .kafka("topic.metadata.refresh.interval.ms", "1000")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    recorder.wait_for(4, SOON).await?;
    // Only an id that was read before can differ; commits name it from then on.
    wait::until("the topic's id to be committed", SOON, async || {
        let committed = groups::committed_with_metadata(bootstrap, &group, &topic, 0).await;
        matches!(committed, Ok(Some((_, text))) if text.starts_with("penstock/2:"))
    })
    .await?;

    recreate(bootstrap, &topic, 1).await?;
    // More than there were: the old position lies within the new log.
    Produce::to(&topic)
        .first_seq(100)
        .count(30)
        .send(bootstrap)
        .await?;
    gate.open();
    // librdkafka reports that the topic is gone if it looks at that moment, and the
    // consumer ends.
    let noticed = consumer.wait_until("the new messages to be handled", SOON, async || {
        handled(&recorder).iter().filter(|it| **it >= 100).count() == 30
    });
    if let Err(error) = noticed.await {
        eprintln!("the consumer ended: {error}");
        assert!(consumer.status().is_some(), "{}", consumer.tail());
        let consumer = Consumer::start(&manifest)?;
        consumer
            .wait_until("the new messages to be handled", SOON, async || {
                handled(&recorder).iter().filter(|it| **it >= 100).count() == 30
            })
            .await?;
        groups::wait_for_committed(bootstrap, &group, &topic, 30, SOON).await?;
        assert!(consumer.stop(SOON).await?.success());
        return Ok(());
    }
    let series = "penstock_lost_positions_total";
    assert_eq!(lost(&consumer, series, &topic, "recreation").await?, 1.0);
    groups::wait_for_committed(bootstrap, &group, &topic, 30, SOON).await?;
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_while_its_consumer_is_stopped_is_read_from_its_start()
-> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    for commit in ["Handled", "Read"] {
        let topic = topics::create(bootstrap, "meanwhile", 1).await?;
        let group = topics::unique("test.meanwhile");
        Produce::to(&topic).count(10).send(bootstrap).await?;
        let recorder = Recorder::start()?;
        let manifest = Manifest::fast(bootstrap, &group, &topic, 2)
            .set("/commit", commit)
            .kafka("auto.commit.interval.ms", "200")
            .handler(&recorder);
        let consumer = Consumer::start(&manifest)?;
        let committed = wait_for_topic_id(bootstrap, &group, &topic, 10).await?;
        assert!(consumer.stop(SOON).await?.success());
        assert_eq!(handled(&recorder).len(), 10);

        recreate(bootstrap, &topic, 1).await?;
        // More than there were: the old offset lies within the new log.
        let more = Produce::to(&topic).first_seq(100).count(30);
        more.send(bootstrap).await?;
        // Brokers delete the offsets with the topic, and take a commit that comes late.
        let position = Position::new(&topic, 0, 10);
        groups::commit_with_metadata(bootstrap, &group, position, &committed).await?;

        let consumer = Consumer::start(&manifest)?;
        consumer
            .wait_until("the new messages to be handled", SOON, async || {
                handled(&recorder).len() == 40
            })
            .await?;
        let series = "penstock_lost_positions_total";
        assert_eq!(lost(&consumer, series, &topic, "recreation").await?, 1.0);
        let again = wait_for_topic_id(bootstrap, &group, &topic, 30).await?;
        assert_ne!(again, committed);
        assert!(consumer.stop(SOON).await?.success());
    }
    Ok(())
}

/// Waits until this offset is committed with the topic's id, and returns the metadata.
async fn wait_for_topic_id(
    bootstrap: &str,
    group: &str,
    topic: &str,
    offset: i64,
) -> Result<String, wait::TimedOut> {
    let what = format!("offset {offset} with the topic's id");
    wait::value(what, SOON, async || {
        let committed = groups::committed_with_metadata(bootstrap, group, topic, 0).await;
        match committed.map_err(|error| error.to_string())? {
            Some((found, text)) if found == offset && text.starts_with("penstock/2:") => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
