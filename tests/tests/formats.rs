//! What messages look like to the handler, what is skipped, and what is read
//! whatever it was compressed with.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Recorder};
use penstock_tests::{Consumer, Launch, Manifest, Position, topics};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

/// Values that are no JSON: skipped, whatever the mode.
const INVALID: [Option<&[u8]>; 6] = [
    None,
    Some(b""),
    Some(b"{\"a\":"),
    Some(b"{} {}"),
    Some(b"{\"a\": [\"\xff\xfe\"]}"),
    Some(b"{\"a\": [1e999, \"\\ud800\"]}"),
];

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    recorder: Recorder,
}

impl Scene {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        Ok(Self {
            topic: topics::create(&bootstrap, "formats", 1).await?,
            group: topics::unique("test.formats"),
            recorder: Recorder::start()?,
            bootstrap,
        })
    }

    fn in_order(&self) -> Manifest {
        Manifest::in_order(&self.bootstrap, &self.group, &self.topic).handler(&self.recorder)
    }

    fn fast(&self) -> Manifest {
        Manifest::fast(&self.bootstrap, &self.group, &self.topic, 4).handler(&self.recorder)
    }

    async fn produce(
        &self,
        first: u64,
        values: Vec<Option<Vec<u8>>>,
    ) -> Result<Vec<Produced>, Box<dyn Error>> {
        let count = values.len() as u64;
        let produce = Produce::to(&self.topic).count(count).first_seq(first);
        let value =
            move |seq: u64| values[usize::try_from(seq - first).unwrap_or_default()].clone();
        Ok(produce.value(value).send(&self.bootstrap).await?)
    }

    async fn wait_for_committed(&self, total: i64) -> Outcome {
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, total, SOON).await?;
        Ok(())
    }

    async fn committed(&self) -> Result<Option<i64>, Box<dyn Error>> {
        let offsets = groups::committed(&self.bootstrap, &self.group, &self.topic).await?;
        Ok(offsets.get(&(self.topic.clone(), 0)).copied())
    }

    /// Deliveries in the order of their offsets.
    fn deliveries(&self) -> Vec<Delivery> {
        let mut deliveries = self.recorder.deliveries();
        deliveries.sort_by_key(|delivery| delivery.position.offset);
        deliveries
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_hands_over_any_bytes_and_tombstones() -> Outcome {
    for manifest in [Scene::in_order, Scene::fast] {
        let scene = Scene::new().await?;
        let binary: Vec<u8> = (0..=255).collect();
        let large = vec![0xA5; 900_000];
        let values = vec![
            Some(binary.clone()),
            None,
            Some(Vec::new()),
            Some(b"{\"a\":".to_vec()),
            Some(large.clone()),
        ];
        let produced = scene.produce(0, values).await?;
        let consumer = Consumer::start(&manifest(&scene).set("/format", "Raw"))?;
        scene.wait_for_committed(5).await?;
        assert!(consumer.stop(SOON).await?.success());

        let deliveries = scene.deliveries();
        Evidence::new(&produced, deliveries.clone()).check(&[Rule::NothingLost])?;
        assert_eq!(deliveries.len(), 5);
        assert_eq!(deliveries[0].body, binary);
        assert_eq!(deliveries[1].body, b"");
        assert_eq!(deliveries[2].body, b"");
        assert_eq!(deliveries[3].body, b"{\"a\":");
        assert!(deliveries[4].body == large);
        for (place, delivery) in deliveries.iter().enumerate() {
            // Only this tells a tombstone from an empty value.
            let tombstone = (place == 1).then_some("true");
            assert_eq!(delivery.header("ce-kafkatombstone"), tombstone, "{place}");
            assert_eq!(
                delivery.header("content-type"),
                Some("application/octet-stream")
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_comes_to_the_letter_with_its_attributes() -> Outcome {
    let scene = Scene::new().await?;
    let texts = [
        "{\"b\": 1,\n  \"a\": [1.10, 1e2, \"\\u00e9\u{e9}\"]}",
        "null",
        "12345678901234567890.5",
        "\"text\"",
    ];
    let values = texts.map(|text| Some(text.as_bytes().to_vec())).to_vec();
    let produced = Produce::to(&scene.topic)
        .count(4)
        .key(|seq| (seq != 1).then(|| format!("schlüssel {seq}")))
        .value(move |seq| values[usize::try_from(seq).unwrap_or_default()].clone())
        .header("trace id", "x y")
        .header("ce_type", "com.example.order")
        .send(&scene.bootstrap)
        .await?;
    let consumer = Consumer::start(&scene.in_order().set("/handler/path", "/orders?x=1"))?;
    scene.wait_for_committed(4).await?;
    assert!(consumer.stop(SOON).await?.success());
    let deliveries = scene.deliveries();
    Evidence::new(&produced, deliveries.clone()).check(&[Rule::NothingLost, Rule::InOrder])?;
    for (seq, (delivery, text)) in deliveries.iter().zip(texts).enumerate() {
        assert_eq!(String::from_utf8_lossy(&delivery.body), text);
        assert_eq!(
            (delivery.method.as_str(), delivery.path.as_str()),
            ("POST", "/orders?x=1")
        );
        assert_eq!(delivery.key, (seq != 1).then(|| format!("schlüssel {seq}")));
        let id = format!("{}-0-{seq}", scene.topic);
        let source = format!("/kafka/topics/{}", scene.topic);
        for (name, value) in [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", id.as_str()),
            ("ce-source", source.as_str()),
            ("ce-type", "com.example.order"),
            ("ce-attempt", "1"),
            ("kafka-header-trace%20id", "x%20y"),
        ] {
            assert_eq!(delivery.header(name), Some(value), "{name}");
        }
        assert!(
            delivery
                .header("ce-time")
                .is_some_and(|time| time.ends_with('Z'))
        );
    }
    Ok(())
}

fn invalid() -> Vec<Option<Vec<u8>>> {
    INVALID
        .iter()
        .map(|value| value.map(<[u8]>::to_vec))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_json_is_skipped_logged_and_counted_and_not_committed_in_order() -> Outcome {
    let scene = Scene::new().await?;
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let good = |n: usize| vec![Some(b"{}".to_vec()); n];
    let mut produced = scene.produce(0, good(2)).await?;
    let skipped = scene.produce(2, invalid()).await?;
    let consumer = Launch::new(&scene.in_order()).json_log().start()?;
    let topic = [("kafka_topic", scene.topic.as_str())];
    consumer
        .wait_for_metric("penstock_invalid_messages_total", &topic, 6.0, SOON)
        .await?;
    // The invalid ones at the end are not committed.
    assert_eq!(scene.committed().await?, Some(2));
    let lines = consumer.lines();
    let lines: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(&line.text).ok())
        .filter(|line: &Value| line["message"] == "skipping invalid message")
        .collect();
    assert_eq!(lines.len(), 6);
    for (offset, line) in (2..).zip(&lines) {
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["topic"], scene.topic.as_str());
        assert_eq!(line["partition"], 0);
        assert_eq!(line["offset"], offset);
    }
    let failure = [
        ("kafka_topic", scene.topic.as_str()),
        ("kafka_success", "false"),
    ];
    let page = consumer.metrics().await?;
    assert_eq!(
        page.value("kafka_consumer_messages_processed_total", &failure),
        Some(6.0)
    );

    // The next good one commits past them.
    produced.extend(scene.produce(8, good(1)).await?);
    scene.wait_for_committed(9).await?;
    assert!(consumer.stop(SOON).await?.success());
    let positions = skipped.into_iter().map(|one| one.position);
    Evidence::new(&produced, scene.recorder.deliveries())
        .skipped(positions.collect::<Vec<Position>>())
        .commits(watch.stop().await)
        .check(&[
            Rule::NothingLost,
            Rule::InOrder,
            Rule::DuplicatesExplained,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_json_at_the_end_comes_again_after_a_restart_in_order_and_is_skipped_again()
-> Outcome {
    let scene = Scene::new().await?;
    scene
        .produce(0, vec![Some(b"1".to_vec()), Some(b"{".to_vec())])
        .await?;
    for _ in 0..2 {
        let consumer = Consumer::start(&scene.in_order())?;
        consumer
            .wait_for_line("skipping invalid message", SOON)
            .await?;
        assert!(consumer.stop(SOON).await?.success());
        assert_eq!(scene.committed().await?, Some(1));
    }
    assert_eq!(scene.recorder.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_json_holds_up_nothing_in_fast() -> Outcome {
    let scene = Scene::new().await?;
    let mut values = vec![Some(b"{}".to_vec()); 10];
    values.extend(invalid());
    values.extend(vec![Some(b"{}".to_vec()); 10]);
    let all = scene.produce(0, values).await?;
    let consumer = Consumer::start(&scene.fast())?;
    scene.wait_for_committed(26).await?;
    assert!(consumer.stop(SOON).await?.success());
    let (skipped, good): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|one| (10..16).contains(&one.seq));
    Evidence::new(&good, scene.recorder.deliveries())
        .skipped(skipped.into_iter().map(|one| one.position))
        .check(&[Rule::NothingLost, Rule::DuplicatesExplained])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_is_read() -> Outcome {
    let scene = Scene::new().await?;
    for (place, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &scene.bootstrap)
            .set("compression.type", *codec)
            .set("linger.ms", "50")
            .create()?;
        let value = format!(r#"{{"codec":"{codec}","text":"{}"}}"#, "x".repeat(5_000));
        let sends = (0..20).map(|_| {
            let record = FutureRecord::<(), _>::to(&scene.topic).payload(&value);
            producer.send(record, SOON)
        });
        for sent in futures_util::future::join_all(sends).await {
            sent.map_err(|(error, _)| format!("{codec}: {error}"))?;
        }
        assert_eq!(
            topics::read_all(&scene.bootstrap, &scene.topic)
                .await?
                .len(),
            20 * (place + 1)
        );
    }
    let consumer = Consumer::start(&scene.in_order())?;
    scene.wait_for_committed(100).await?;
    assert!(consumer.stop(SOON).await?.success());
    let codecs: Vec<_> = scene
        .deliveries()
        .chunks(20)
        .map(|twenty| {
            assert!(twenty.iter().all(|one| one.body == twenty[0].body));
            twenty[0].json()["codec"].clone()
        })
        .collect();
    assert_eq!(codecs, ["none", "gzip", "snappy", "lz4", "zstd"]);
    Ok(())
}
