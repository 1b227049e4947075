//! The pages that the program serves: the metrics' format, names and figures.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::groups;
use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::promtext::Kind;
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

const PROCESSED: &str = "kafka_consumer_messages_processed_total";
const TIME: &str = "kafka_consumer_message_processing_time_seconds";
const ACTIVE: &str = "kafka_consumer_active_messages";

/// Upper bounds of the source's buckets, as it writes them.
const BUCKETS: [&str; 16] = [
    "0.0001", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5",
    "1", "5", "15", "30", "+Inf",
];

/// Every name, with its kind, labels and help: an interface.
const SERIES: [(&str, Kind, &[&str], &str); 23] = [
    (
        TIME,
        Kind::Histogram,
        &["kafka_client_name", "kafka_success", "kafka_topic"],
        "latency histogram of how long it takes to process a message",
    ),
    (
        PROCESSED,
        Kind::Counter,
        &["kafka_client_name", "kafka_success", "kafka_topic"],
        "total count of messages processed by this host",
    ),
    (
        ACTIVE,
        Kind::Gauge,
        &["kafka_client_name", "kafka_topic"],
        "gauge that reflects the number of messages currently being processed",
    ),
    (
        "penstock_message_latency_seconds",
        Kind::Histogram,
        &TOPIC,
        "",
    ),
    ("penstock_handled_offset", Kind::Gauge, &PARTITION, ""),
    ("penstock_invalid_messages_total", Kind::Counter, &TOPIC, ""),
    ("penstock_retries_total", Kind::Counter, &TOPIC, ""),
    ("penstock_skipped_messages_total", Kind::Counter, &TOPIC, ""),
    (
        "penstock_dead_lettered_messages_total",
        Kind::Counter,
        &TOPIC,
        "",
    ),
    (
        "penstock_abandoned_messages_total",
        Kind::Counter,
        &TOPIC,
        "",
    ),
    ("penstock_already_handled_total", Kind::Counter, &TOPIC, ""),
    ("penstock_committed_offset", Kind::Gauge, &PARTITION, ""),
    ("penstock_lag", Kind::Gauge, &PARTITION, ""),
    ("penstock_time_lag_seconds", Kind::Gauge, &PARTITION, ""),
    (
        "penstock_last_fetch_timestamp_seconds",
        Kind::Gauge,
        &PARTITION,
        "",
    ),
    (
        "penstock_assigned_partitions",
        Kind::Gauge,
        &["consumer"],
        "",
    ),
    (
        "penstock_rebalances_total",
        Kind::Counter,
        &["consumer"],
        "",
    ),
    (
        "penstock_commit_failures_total",
        Kind::Counter,
        &["consumer"],
        "",
    ),
    ("penstock_paused_partitions", Kind::Gauge, &["consumer"], ""),
    (
        "penstock_produced_messages_total",
        Kind::Counter,
        &["consumer"],
        "",
    ),
    ("penstock_queued_messages", Kind::Gauge, &["consumer"], ""),
    ("penstock_queued_bytes", Kind::Gauge, &["consumer"], ""),
    (
        "penstock_handler_available",
        Kind::Gauge,
        &["consumer", "reason"],
        "",
    ),
];

const TOPIC: [&str; 2] = ["consumer", "kafka_topic"];
const PARTITION: [&str; 3] = ["consumer", "kafka_partition", "kafka_topic"];

#[tokio::test(flavor = "multi_thread")]
async fn after_load_the_page_keeps_the_format_and_tells_what_happened() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "metrics", 3).await?;
    let group = topics::unique("test.metrics");
    // 900 good ones with an endpoint timestamp, 100 that are no JSON, 10 that the
    // handler refuses.
    Produce::to(&topic)
        .count(900)
        .endpoint_timestamp()
        .send(bootstrap)
        .await?;
    Produce::to(&topic)
        .count(100)
        .first_seq(900)
        .value(|_| Some(b"{not json".to_vec()))
        .send(bootstrap)
        .await?;
    Produce::to(&topic)
        .count(10)
        .first_seq(1000)
        .value(|_| Some(br#"{"bad": true}"#.to_vec()))
        .send(bootstrap)
        .await?;
    let recorder = Recorder::start()?;
    recorder.behave(|delivery| match delivery.json()["bad"].is_boolean() {
        true => Reply::status(503),
        false => Reply::ok(),
    });
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .handler(&recorder)
        .set("/prometheusClientName", "billing \"main\"\\x")
        .set("/delivery/onFailure", "Skip")
        .set("/delivery/maxAttempts", 3)
        .set("/delivery/backoff/initial", "5ms");
    let consumer = Consumer::start(&manifest)?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1010, SOON).await?;
    let client = ("kafka_client_name", "billing \"main\"\\x");
    let of_topic = ("kafka_topic", topic.as_str());
    for partition in ["0", "1", "2"] {
        let labels = [of_topic, ("kafka_partition", partition)];
        consumer
            .wait_for_metric("penstock_lag", &labels, 0.0, SOON)
            .await?;
    }

    let raw = consumer.metrics_page().await?;
    assert_eq!(raw.status, 200);
    assert_eq!(raw.content_type, "text/plain; version=0.0.4; charset=utf-8");
    let page = consumer.metrics().await?;
    for (name, kind, labels, help) in SERIES {
        let family = page.family(name).ok_or(name)?;
        assert_eq!(family.kind, kind, "{name}");
        assert!(
            help.is_empty() || family.help == help,
            "{name}: {}",
            family.help
        );
        for sample in &family.samples {
            let names: Vec<_> = sample
                .labels
                .keys()
                .filter(|label| *label != "le")
                .collect();
            assert_eq!(names, labels, "{name}");
        }
    }
    let known: Vec<_> = SERIES.iter().map(|(name, ..)| *name).collect();
    let unknown: Vec<_> = page
        .families()
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "not in this table: {unknown:?}");

    let success = [client, of_topic, ("kafka_success", "true")];
    let failure = [client, of_topic, ("kafka_success", "false")];
    assert_eq!(page.value(PROCESSED, &success), Some(900.0));
    assert_eq!(page.value(PROCESSED, &failure), Some(110.0));
    let count = format!("{TIME}_count");
    assert_eq!(page.value(&count, &success), Some(900.0));
    assert_eq!(page.value(&count, &failure), Some(110.0));
    let bucket = format!("{TIME}_bucket");
    let bounds: Vec<_> = page
        .samples(&bucket, &success)
        .map(|s| s.labels["le"].as_str())
        .collect();
    assert_eq!(bounds, BUCKETS);
    assert_eq!(page.value(ACTIVE, &[client, of_topic]), Some(0.0));

    let ours = [of_topic];
    assert_eq!(
        page.value("penstock_invalid_messages_total", &ours),
        Some(100.0)
    );
    assert_eq!(
        page.value("penstock_skipped_messages_total", &ours),
        Some(10.0)
    );
    assert_eq!(page.value("penstock_retries_total", &ours), Some(20.0));
    assert_eq!(
        page.value("penstock_dead_lettered_messages_total", &ours),
        Some(0.0)
    );
    assert_eq!(
        page.value("penstock_message_latency_seconds_count", &ours),
        Some(900.0)
    );
    assert_eq!(page.value("penstock_assigned_partitions", &[]), Some(3.0));
    assert_eq!(page.value("penstock_commit_failures_total", &[]), Some(0.0));
    let committed: f64 = page
        .samples("penstock_committed_offset", &ours)
        .map(|s| s.value)
        .sum();
    assert_eq!(committed, 1010.0);
    let consumer_label = page
        .samples("penstock_lag", &ours)
        .next()
        .map(|s| s.labels["consumer"].clone());
    let name = group
        .split_once('.')
        .map(|(_, name)| format!("kafka_consumer.{name}"));
    assert_eq!(consumer_label, name);
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_yet_is_absent_and_what_is_going_on_is_seen() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "metrics-lag", 2).await?;
    let group = topics::unique("test.lag");
    Produce::to(&topic)
        .count(40)
        .partition(|_| 0)
        .send(bootstrap)
        .await?;
    let recorder = Recorder::start()?;
    let gate = Gate::closed();
    let held = gate.clone();
    recorder.behave(move |_| Reply::ok().once(&held));
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4).handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    recorder.wait_for_in_flight(4, SOON).await?;

    let of_topic = ("kafka_topic", topic.as_str());
    consumer
        .wait_for_metric(ACTIVE, &[of_topic, ("kafka_client_name", "")], 4.0, SOON)
        .await?;
    let (first, second) = (("kafka_partition", "0"), ("kafka_partition", "1"));
    consumer
        .wait_for_metric("penstock_lag", &[of_topic, first], 40.0, SOON)
        .await?;
    // Nothing lies there, which is known without a message.
    consumer
        .wait_for_metric("penstock_lag", &[of_topic, second], 0.0, SOON)
        .await?;
    let page = consumer.metrics().await?;
    // Nothing was handled, so nothing is said of it; a zero would pass for good news.
    assert_eq!(
        page.value("penstock_handled_offset", &[of_topic, first]),
        None
    );
    assert_eq!(
        page.value("penstock_committed_offset", &[of_topic, second]),
        None
    );
    assert_eq!(
        page.value(PROCESSED, &[of_topic, ("kafka_success", "true")]),
        Some(0.0)
    );

    gate.open();
    groups::wait_for_committed(bootstrap, &group, &topic, 40, SOON).await?;
    consumer
        .wait_for_metric("penstock_lag", &[of_topic, first], 0.0, SOON)
        .await?;
    consumer
        .wait_for_metric(ACTIVE, &[of_topic], 0.0, SOON)
        .await?;
    let page = consumer.metrics().await?;
    assert_eq!(
        page.value("penstock_handled_offset", &[of_topic, first])
            .map(|o| o <= 39.0),
        Some(true)
    );
    assert_eq!(
        page.value("penstock_committed_offset", &[of_topic, first]),
        Some(40.0)
    );
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

/// Whoever is full of one partition's messages fetches nothing of another that it takes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_told_of_a_partition_from_which_nothing_was_read_yet() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "metrics-unread", 2).await?;
    let group = topics::unique("test.unread");
    let each = Produce::to(&topic).count(20);
    let each = each.partition(|seq| (seq % 2) as i32);
    each.send(bootstrap).await?;
    let recorder = Recorder::start()?;
    let gate = Gate::closed();
    let held = gate.clone();
    recorder.behave(move |delivery| match delivery.json()["held"].is_boolean() {
        true => Reply::ok().once(&held),
        false => Reply::ok(),
    });
    let manifest = Manifest::fast(bootstrap, &group, &topic, 2)
        .handler(&recorder)
        .set("/handler/timeout", "1m")
        .set("/consumeBatchSize", 1)
        .kafka("partition.assignment.strategy", "cooperative-sticky")
        .kafka("queued.min.messages", "1")
        .kafka("heartbeat.interval.ms", "200");
    let full = Consumer::start(&manifest)?;
    let other = Consumer::start(&manifest)?;
    for member in [&full, &other] {
        member
            .wait_for_metric("penstock_assigned_partitions", &[], 1.0, SOON)
            .await?;
    }
    groups::wait_for_committed(bootstrap, &group, &topic, 20, SOON).await?;
    let of_topic = ("kafka_topic", topic.as_str());
    full.wait_for_metric("penstock_lag", &[of_topic], 0.0, SOON)
        .await?;
    let page = full.metrics().await?;
    let labels = [of_topic];
    let lag = page.samples("penstock_lag", &labels).next();
    let partition: i32 = lag.ok_or("no lag")?.labels["kafka_partition"].parse()?;
    Produce::to(&topic)
        .count(500)
        .first_seq(20)
        .partition(move |_| partition)
        .value(|_| Some(br#"{"held": true}"#.to_vec()))
        .send(bootstrap)
        .await?;
    recorder.wait_for_in_flight(2, SOON).await?;

    assert!(other.stop(SOON).await?.success());
    full.wait_for_metric("penstock_assigned_partitions", &[], 2.0, SOON)
        .await?;
    let taken_on = (1 - partition).to_string();
    Produce::to(&topic)
        .count(7)
        .first_seq(520)
        .partition(move |_| 1 - partition)
        .send(bootstrap)
        .await?;
    let labels = [of_topic, ("kafka_partition", taken_on.as_str())];
    full.wait_for_metric("penstock_lag", &labels, 7.0, SOON)
        .await?;
    gate.open();
    groups::wait_for_committed(bootstrap, &group, &topic, 527, SOON).await?;
    assert!(full.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_were_given_away_are_no_longer_told_of() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "metrics-gone", 2).await?;
    let group = topics::unique("test.gone");
    Produce::to(&topic)
        .count(20)
        .partition(|seq| (seq % 2) as i32)
        .send(bootstrap)
        .await?;
    let recorder = Recorder::start()?;
    let manifest = Manifest::fast(bootstrap, &group, &topic, 2)
        .handler(&recorder)
        .kafka("heartbeat.interval.ms", "200");
    let one = Consumer::start(&manifest)?;
    groups::wait_for_committed(bootstrap, &group, &topic, 20, SOON).await?;
    one.wait_for_metric("penstock_assigned_partitions", &[], 2.0, SOON)
        .await?;
    let two = Consumer::start(&manifest)?;
    two.wait_for_metric("penstock_assigned_partitions", &[], 1.0, SOON)
        .await?;
    one.wait_for_metric("penstock_assigned_partitions", &[], 1.0, SOON)
        .await?;
    Produce::to(&topic)
        .count(20)
        .first_seq(20)
        .partition(|seq| (seq % 2) as i32)
        .send(bootstrap)
        .await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 40, SOON).await?;
    let mut seen = Vec::new();
    for consumer in [&one, &two] {
        consumer
            .wait_for_metric(
                "penstock_committed_offset",
                &[("kafka_topic", &topic)],
                20.0,
                SOON,
            )
            .await?;
        let page = consumer.metrics().await?;
        let committed = page.samples("penstock_committed_offset", &[]);
        seen.extend(committed.map(|sample| sample.labels["kafka_partition"].clone()));
    }
    for consumer in [&one, &two] {
        assert!(consumer.stop(SOON).await?.success());
    }
    seen.sort();
    assert_eq!(seen, ["0", "1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_pages_tell_their_state_in_json() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "health", 1).await?;
    let recorder = Recorder::start()?;
    let group = topics::unique("test.health");
    let consumer =
        Consumer::start(&Manifest::in_order(bootstrap, &group, &topic).handler(&recorder))?;
    consumer.wait_until_ready(SOON).await?;
    for (path, status) in [
        ("/health", "healthy"),
        ("/livez", "alive"),
        ("/readyz", "ready"),
    ] {
        let page = consumer.health(path).await?;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.content_type, "application/json", "{path}");
        let body: serde_json::Value = serde_json::from_str(&page.body)?;
        assert_eq!(body["status"], status, "{path}");
        assert!(body.is_object());
    }
    assert_eq!(consumer.health("/other").await?.status, 404);
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}
