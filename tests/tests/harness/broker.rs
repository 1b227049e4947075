//! Brokers, topics, messages, offsets and groups.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::{Kafka, KafkaError, unsecured_token};
use penstock_tests::produce::Produce;
use penstock_tests::{topics, wait};
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer, ConsumerContext, DefaultConsumerContext, StreamConsumer,
};
use rdkafka::{ClientConfig, ClientContext, Message};

use super::Outcome;

const SOON: Duration = Duration::from_secs(30);

fn member(bootstrap: &str, group: &str) -> rdkafka::error::KafkaResult<StreamConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("client.id", "harness")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()
}

#[tokio::test]
async fn what_is_produced_is_read_back() -> Outcome {
    let kafka = Kafka::shared().await?;
    let topic = topics::create(kafka.bootstrap(), "read-back", 3).await?;
    let produced = Produce::to(&topic)
        .count(10)
        .first_seq(100)
        .key(|seq| (seq != 101).then(|| format!("k{seq}")))
        .value(|seq| (seq != 102).then(|| seq.to_string().into()))
        .partition(|seq| i32::try_from(seq % 3).unwrap_or_default())
        .header("trace", "abc")
        .send(kafka.bootstrap())
        .await?;
    let stored = topics::read_all(kafka.bootstrap(), &topic).await?;

    assert_eq!(stored.len(), 10);
    for (seq, one) in (100..).zip(&produced) {
        assert_eq!(one.seq, seq);
        let message = stored
            .iter()
            .find(|message| message.position == one.position)
            .ok_or("not stored")?;
        assert_eq!(u64::try_from(message.position.partition)?, seq % 3);
        assert_eq!(message.key, (seq != 101).then(|| format!("k{seq}").into()));
        assert_eq!(message.value, (seq != 102).then(|| seq.to_string().into()));
        assert_eq!(
            message.headers,
            [("trace".to_owned(), Some(b"abc".to_vec()))]
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_messages_take_moments() -> Outcome {
    let kafka = Kafka::shared().await?;
    let topic = topics::create(kafka.bootstrap(), "many", 4).await?;
    let start = Instant::now();
    let produced = Produce::to(&topic)
        .count(100_000)
        .endpoint_timestamp()
        .send(kafka.bootstrap())
        .await?;
    let took = start.elapsed();
    println!("100,000 messages in {took:?}");

    let positions: BTreeSet<_> = produced.iter().map(|one| &one.position).collect();
    assert_eq!(positions.len(), 100_000);
    // It is 1 s on two idle cores; the rest is room for busy ones.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let stored = topics::read_all(kafka.bootstrap(), &topic).await?;
    let last = stored.last().and_then(|message| message.value.as_deref());
    let value: serde_json::Value = serde_json::from_slice(last.ok_or("no message")?)?;
    assert!(value["seq"].is_u64(), "{value}");
    assert!(value["endpoint_timestamp"].is_u64(), "{value}");
    Ok(())
}

#[tokio::test]
async fn commits_and_members_are_seen_from_outside() -> Outcome {
    let kafka = Kafka::shared().await?;
    let bootstrap = kafka.bootstrap();
    let topic = topics::create(bootstrap, "commits", 1).await?;
    let group = topics::unique("harness.commits");
    Produce::to(&topic).count(3).send(bootstrap).await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    assert!(
        groups::committed(bootstrap, &group, &topic)
            .await?
            .is_empty()
    );

    let consumer = member(bootstrap, &group)?;
    consumer.subscribe(&[&topic])?;
    for _ in 0..3 {
        let message = consumer.recv().await?;
        consumer.commit_message(&message, CommitMode::Sync)?;
    }
    groups::wait_for_members(bootstrap, &group, 1, SOON).await?;
    let seen = groups::describe(bootstrap, &group).await?;
    assert_eq!(seen.members[0].client_id, "harness");
    groups::wait_for_committed(bootstrap, &group, &topic, 3, SOON).await?;

    drop(consumer);
    groups::wait_for_members(bootstrap, &group, 0, SOON).await?;
    let samples = watch.stop().await;
    let partition = (topic.clone(), 0);
    assert!(samples[0].offsets.is_empty());
    let last = samples.last().ok_or("no sample")?;
    assert_eq!(last.offsets[&partition], 3);
    assert!(samples.iter().all(|sample| sample.asked <= sample.answered));
    Ok(())
}

#[tokio::test]
async fn a_topic_that_exists_is_not_created_again_and_can_be_deleted() -> Outcome {
    let kafka = Kafka::shared().await?;
    let topic = topics::create(kafka.bootstrap(), "deleted", 2).await?;
    let again = topics::create_named(kafka.bootstrap(), &topic, 2).await;
    let refused = again.unwrap_err().to_string();
    assert!(refused.contains("already exists"), "{refused}");

    topics::delete(kafka.bootstrap(), &topic).await?;
    wait::until("the topic to be gone", SOON, async || {
        topics::read_all(kafka.bootstrap(), &topic).await.is_err()
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_keeps_its_data_and_ports_and_leaves_nothing_behind() -> Outcome {
    let kafka = Kafka::start().await?;
    let bootstrap = kafka.bootstrap().to_owned();
    let topic = topics::create(&bootstrap, "restart", 1).await?;
    Produce::to(&topic).count(5).send(&bootstrap).await?;

    kafka.stop().await?;
    assert!(matches!(kafka.stop().await, Err(KafkaError::Stopped)));
    kafka.start_again().await?;
    assert_eq!(kafka.bootstrap(), bootstrap);
    Produce::to(&topic)
        .count(5)
        .first_seq(5)
        .send(&bootstrap)
        .await?;

    kafka.kill()?;
    kafka.start_again().await?;
    assert_eq!(topics::read_all(&bootstrap, &topic).await?.len(), 10);

    kafka.pause()?;
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .create()?;
    let frozen = client.fetch_metadata(None, Duration::from_millis(500));
    assert!(frozen.is_err());
    kafka.resume()?;
    wait::value("the broker to go on", SOON, async || {
        client
            .fetch_metadata(None, Duration::from_secs(1))
            .map(drop)
    })
    .await?;

    let data = kafka.data_dir().ok_or("no data")?.to_owned();
    assert!(data.exists());
    drop(kafka);
    assert!(!data.exists());
    Ok(())
}

#[tokio::test]
async fn the_shared_broker_is_one() -> Outcome {
    let (one, other) = (Kafka::shared().await?, Kafka::shared().await?);
    assert!(std::ptr::eq(one, other));
    Ok(())
}

#[tokio::test]
async fn a_broker_that_can_not_start_says_why() -> Outcome {
    let refused = Kafka::builder().property("log.retention.hours", "soon");
    let error = refused.start().await.unwrap_err();
    assert!(matches!(error, KafkaError::Format(_)), "{error}");
    assert!(error.to_string().contains("log.retention.hours"), "{error}");

    let starved = Kafka::builder().java_option("-Xmx1m");
    let error = starved.start().await.unwrap_err();
    assert!(matches!(error, KafkaError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("heap"), "{error}");
    Ok(())
}

/// Gives a token when librdkafka asks for one.
struct Token;

impl ClientContext for Token {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let lifetime = Duration::from_secs(600);
        let expires = std::time::SystemTime::now() + lifetime;
        let expires = expires.duration_since(std::time::UNIX_EPOCH)?;
        Ok(OAuthToken {
            token: unsecured_token("ann", lifetime),
            principal_name: "ann".into(),
            lifetime_ms: i64::try_from(expires.as_millis())?,
        })
    }
}

impl ConsumerContext for Token {}

/// What a client with these settings is told on a request for metadata.
fn ask<C: ConsumerContext>(config: &ClientConfig, context: C) -> Result<usize, String> {
    let client: BaseConsumer<C> = config
        .create_with_context(context)
        .map_err(|error| error.to_string())?;
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < Duration::from_secs(10) {
        // Polling is what asks for a token.
        if let Some(Err(error)) = client.poll(Duration::from_millis(10)) {
            last = error.to_string();
            if last.contains("Authentication") || last.contains("SSL") {
                return Err(last);
            }
        }
        match client.fetch_metadata(None, Duration::from_millis(500)) {
            Ok(metadata) => return Ok(metadata.brokers().len()),
            Err(error) => last = format!("{last} {error}"),
        }
    }
    Err(last)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_users_are_checked() -> Outcome {
    let kafka = Kafka::builder()
        .tls()
        .sasl_user("ann", "secret")
        .start()
        .await?;
    let files = kafka.tls_files().ok_or("no TLS")?;
    let path = |path: &std::path::Path| path.display().to_string();
    assert!(fs::read_to_string(&files.ca)?.starts_with("-----BEGIN CERTIFICATE"));

    let mut tls = ClientConfig::new();
    tls.set("bootstrap.servers", kafka.tls_bootstrap().ok_or("no TLS")?)
        .set("security.protocol", "ssl")
        .set("socket.connection.setup.timeout.ms", "5000");
    let untrusted = ask(&tls, DefaultConsumerContext).unwrap_err();
    assert!(untrusted.contains("SSL"), "{untrusted}");
    tls.set("ssl.ca.location", path(&files.ca));
    assert_eq!(ask(&tls, DefaultConsumerContext), Ok(1));

    let mutual = kafka.mutual_tls_bootstrap().ok_or("no TLS")?;
    tls.set("bootstrap.servers", mutual);
    assert!(ask(&tls, DefaultConsumerContext).is_err());
    tls.set("ssl.certificate.location", path(&files.client_certificate))
        .set("ssl.key.location", path(&files.client_key));
    assert_eq!(ask(&tls, DefaultConsumerContext), Ok(1));

    let mut sasl = ClientConfig::new();
    sasl.set(
        "bootstrap.servers",
        kafka.sasl_bootstrap().ok_or("no SASL")?,
    )
    .set("security.protocol", "sasl_ssl")
    .set("ssl.ca.location", path(&files.ca))
    .set("sasl.username", "ann");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        sasl.set("sasl.mechanism", mechanism)
            .set("sasl.password", "secret");
        assert_eq!(ask(&sasl, DefaultConsumerContext), Ok(1), "{mechanism}");
        sasl.set("sasl.password", "wrong");
        let refused = ask(&sasl, DefaultConsumerContext).unwrap_err();
        assert!(refused.contains("Authentication"), "{mechanism}: {refused}");
    }
    sasl.set("sasl.mechanism", "OAUTHBEARER");
    assert_eq!(ask(&sasl, Token), Ok(1));
    Ok(())
}

#[tokio::test]
async fn users_can_do_without_tls() -> Outcome {
    let kafka = Kafka::builder().sasl_user("bob", "secret").start().await?;
    assert!(kafka.tls_bootstrap().is_none());
    let topic = topics::create(kafka.bootstrap(), "plain", 1).await?;
    Produce::to(&topic).send(kafka.bootstrap()).await?;

    let consumer: StreamConsumer = ClientConfig::new()
        .set(
            "bootstrap.servers",
            kafka.sasl_bootstrap().ok_or("no SASL")?,
        )
        .set("security.protocol", "sasl_plaintext")
        .set("sasl.mechanism", "SCRAM-SHA-512")
        .set("sasl.username", "bob")
        .set("sasl.password", "secret")
        .set("group.id", "harness.plain")
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[&topic])?;
    let message = tokio::time::timeout(SOON, consumer.recv()).await??;
    assert_eq!(message.payload(), Some(br#"{"seq":0}"#.as_slice()));
    Ok(())
}
