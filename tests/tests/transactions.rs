//! Transactions that take long are told of, and waited for.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::groups;
use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use tokio::task::spawn_blocking;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_transaction_that_covers_where_to_begin_is_told_of_and_waited_for() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "open", 1).await?;
    let group = topics::unique("test.open");
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let (address, to, id) = (bootstrap.to_owned(), topic.clone(), group.clone());
    let open = spawn_blocking(move || leave_open(&address, &to, &id, 3)).await??;

    let recorder = Recorder::start()?;
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .set("/commit", "Transactional")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    let told = "a transaction that covers these offsets has not ended";
    consumer.wait_for_line(told, SOON).await?;
    assert_eq!(recorder.count(), 0);

    spawn_blocking(move || open.commit_transaction(SOON)).await??;
    groups::wait_for_committed(bootstrap, &group, &topic, 5, SOON).await?;
    assert_eq!(recorder.count(), 2);
    Ok(())
}

#[tokio::test]
async fn what_a_transaction_waits_for_is_told() -> Outcome {
    // A session that ends would take the leaders away, and with them a transaction's end.
    let session = Kafka::builder().property("broker.session.timeout.ms", "120000");
    let kafka = session.start().await?;
    let bootstrap = kafka.bootstrap();
    let topic = topics::create(bootstrap, "slow", 1).await?;
    let out = topics::create(bootstrap, "slow-out", 1).await?;
    let group = topics::unique("test.slow");
    let recorder = Recorder::start()?;
    let (to, gate) = (out.clone(), Gate::closed());
    gate.open();
    let handled = gate.clone();
    recorder.behave(move |_| Reply::produce(&to, "k", &json!(1)).once(&handled));
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .set("/commit", "Transactional")
        .handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    Produce::to(&topic).count(1).send(bootstrap).await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1, SOON).await?;

    gate.close();
    Produce::to(&topic).count(1).send(bootstrap).await?;
    recorder.wait_for(2, SOON).await?;
    kafka.pause()?;
    gate.open();
    let told = "the transactional producer has waited";
    consumer.wait_for_line(told, SOON).await?;

    kafka.resume()?;
    groups::wait_for_committed(bootstrap, &group, &topic, 2, SOON).await?;
    assert_eq!(topics::read_all(bootstrap, &out).await?.len(), 2);
    Ok(())
}

/// Commits an offset of partition 0 in a transaction that stays open.
fn leave_open(bootstrap: &str, topic: &str, group: &str, offset: i64) -> KafkaResult<BaseProducer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    let producer: BaseProducer = config
        .clone()
        .set("transactional.id", format!("{group}.other"))
        .set("transaction.timeout.ms", "600000")
        .create()?;
    let consumer: BaseConsumer = config.set("group.id", group).create()?;
    producer.init_transactions(SOON)?;
    producer.begin_transaction()?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(offset))?;
    let metadata = consumer.group_metadata();
    let metadata = metadata.ok_or(KafkaError::GroupListFetch(RDKafkaErrorCode::UnknownGroup))?;
    producer.send_offsets_to_transaction(&offsets, &metadata, SOON)?;
    Ok(producer)
}
