//! Ends of partitions behind the last message that can be read.

use std::error::Error;

use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, groups, topics};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{Outcome, SOON, handled};

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_transactional_consumers_has_no_lag_in_the_end() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let [first, second, third] = [
        topics::create(bootstrap, "chain-a", 2).await?,
        topics::create(bootstrap, "chain-b", 2).await?,
        topics::create(bootstrap, "chain-c", 1).await?,
    ];
    let mut consumers = Vec::new();
    for (from, to) in [(&first, &second), (&second, &third)] {
        let recorder = Recorder::start()?;
        let out = to.clone();
        recorder.behave(move |delivery| {
            let key = delivery.position.offset.to_string();
            Reply::produce(&out, &key, &json!(1))
        });
        let group = topics::unique("test.chain");
        let manifest = Manifest::fast(bootstrap, &group, from, 4)
            .set("/commit", "Transactional")
            .handler(&recorder);
        consumers.push((Consumer::start(&manifest)?, recorder, group, from.clone()));
    }
    Produce::to(&first).count(600).send(bootstrap).await?;
    for (consumer, recorder, group, topic) in &consumers {
        consumer
            .wait_until("all to be handled", SOON, async || {
                recorder.handled() >= 600
            })
            .await?;
        wait_for_no_lag(bootstrap, consumer, group, topic, 2).await?;
    }
    for (consumer, ..) in consumers {
        assert!(consumer.stop(SOON).await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_was_aborted_is_committed_in_every_mode() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "aborted", 1).await?;
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let open = transaction(bootstrap, &topic, 7).await?;
    spawn_blocking(move || open.abort_transaction(SOON)).await??;
    // A log of nothing but aborted messages, too.
    let empty = topics::create(bootstrap, "only-aborted", 1).await?;
    let open = transaction(bootstrap, &empty, 7).await?;
    spawn_blocking(move || open.abort_transaction(SOON)).await??;
    for topic in [&topic, &empty] {
        let plans: [fn(&str, &str, &str) -> Manifest; 4] = [
            Manifest::in_order,
            |bootstrap, group, topic| {
                Manifest::fast(bootstrap, group, topic, 2).set("/commit", "Read")
            },
            |bootstrap, group, topic| Manifest::fast(bootstrap, group, topic, 2),
            |bootstrap, group, topic| {
                Manifest::key_ordered(bootstrap, group, topic, 2).set("/commit", "Transactional")
            },
        ];
        for plan in plans {
            let group = topics::unique("test.aborted");
            let recorder = Recorder::start()?;
            let consumer = Consumer::start(&plan(bootstrap, &group, topic).handler(&recorder))?;
            wait_for_no_lag(bootstrap, &consumer, &group, topic, 1).await?;
            let expected = if topic == &empty { 0 } else { 5 };
            assert_eq!(handled(&recorder).len(), expected);
            assert!(consumer.stop(SOON).await?.success());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_that_blocks_a_partition_is_measured() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "blocked", 1).await?;
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let open = transaction(bootstrap, &topic, 3).await?;
    let recorder = Recorder::start()?;
    let group = topics::unique("test.blocked");
    let manifest = Manifest::in_order(bootstrap, &group, &topic).handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    let labels = [("kafka_topic", &*topic)];
    let series = "penstock_open_transaction_seconds";
    consumer
        .wait_until("the transaction to be measured", SOON, async || {
            let page = consumer.metrics().await;
            page.is_ok_and(|page| page.value(series, &labels).is_some())
        })
        .await?;
    consumer
        .wait_for_metric("penstock_lag", &labels, 3.0, SOON)
        .await?;
    spawn_blocking(move || open.commit_transaction(SOON)).await??;
    consumer
        .wait_until("the transaction to be over", SOON, async || {
            let page = consumer.metrics().await;
            page.is_ok_and(|page| page.value(series, &labels).is_none())
        })
        .await?;
    wait_for_no_lag(bootstrap, &consumer, &group, &topic, 1).await?;
    assert_eq!(recorder.handled(), 8);
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_lag_is_the_age_of_the_oldest_message() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "time", 1).await?;
    let group = topics::unique("test.time");
    let (recorder, gate) = (Recorder::start()?, Gate::closed());
    let held = gate.clone();
    recorder.behave(move |delivery| match delivery.position.offset {
        0 => Reply::ok().once(&held),
        _ => Reply::ok(),
    });
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4).handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    Produce::to(&topic).count(20).send(bootstrap).await?;
    recorder.wait_for_handled(19, SOON).await?;
    let (series, labels) = ("penstock_time_lag_seconds", [("kafka_topic", &*topic)]);
    let stored = topics::read_all(bootstrap, &topic).await?;
    let oldest = stored[0].timestamp.ok_or("no timestamp")?;
    consumer
        .wait_until(
            "the oldest message to be two seconds old",
            SOON,
            async || {
                let Ok(page) = consumer.metrics().await else {
                    return false;
                };
                let now = jiff::Timestamp::now().as_millisecond();
                // It is measured twice a second.
                let age = (now - oldest) as f64 / 1000.0;
                page.value(series, &labels)
                    .is_some_and(|lag| lag >= 2.0 && lag <= age)
            },
        )
        .await?;
    gate.open();
    consumer.wait_for_metric(series, &labels, 0.0, SOON).await?;
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

/// Waits until the ends of all partitions are committed, and the lag is 0 everywhere.
async fn wait_for_no_lag(
    bootstrap: &str,
    consumer: &Consumer,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Outcome {
    let ends: i64 = topics::ends(bootstrap, topic, "read_uncommitted")
        .await?
        .iter()
        .sum();
    groups::wait_for_committed(bootstrap, group, topic, ends, SOON).await?;
    for partition in 0..partitions {
        let partition = partition.to_string();
        let labels = [("kafka_topic", topic), ("kafka_partition", &partition)];
        consumer
            .wait_for_metric("penstock_lag", &labels, 0.0, SOON)
            .await?;
    }
    Ok(())
}

/// Begins a transaction with so many messages, all of them stored.
async fn transaction(
    bootstrap: &str,
    topic: &str,
    count: u64,
) -> Result<BaseProducer, Box<dyn Error>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    let begun = spawn_blocking(move || -> KafkaResult<BaseProducer> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("transactional.id", topics::unique("test.transaction"))
            .create()?;
        producer.init_transactions(SOON)?;
        producer.begin_transaction()?;
        for seq in 0..count {
            let value = format!(r#"{{"seq":{}}}"#, 1000 + seq);
            let record = BaseRecord::<str, str>::to(&topic).payload(&value);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(SOON)?;
        Ok(producer)
    });
    Ok(begun.await??)
}
