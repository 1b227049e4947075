//! Attempts, the waits between them, and what follows the last.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::process::Process;
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, Launch, Manifest, topics};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

/// Offset of the message that the handler does not take.
const POISON: i64 = 5;

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    produced: Vec<Produced>,
    recorder: Recorder,
}

impl Scene {
    /// Ten messages in one partition; the handler answers `status` to one of them.
    async fn new(status: u16) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "delivery", 1).await?;
        let produced = Produce::to(&topic)
            .count(10)
            .key(|seq| Some(format!("key {seq}")))
            .header("trace", "abc")
            .send(&bootstrap)
            .await?;
        let recorder = Recorder::start()?;
        recorder.behave(move |delivery| match delivery.position.offset == POISON {
            true => Reply::status(status).with_body("no such order"),
            false => Reply::ok(),
        });
        Ok(Self {
            bootstrap,
            topic,
            group: topics::unique("test.delivery"),
            produced,
            recorder,
        })
    }

    fn in_order(&self) -> Manifest {
        Manifest::in_order(&self.bootstrap, &self.group, &self.topic).handler(&self.recorder)
    }

    fn fast(&self) -> Manifest {
        Manifest::fast(&self.bootstrap, &self.group, &self.topic, 4).handler(&self.recorder)
    }

    async fn committed(&self) -> Result<i64, Box<dyn Error>> {
        let offsets = groups::committed(&self.bootstrap, &self.group, &self.topic).await?;
        Ok(offsets.get(&(self.topic.clone(), 0)).copied().unwrap_or(0))
    }

    async fn wait_for_committed(&self) -> Outcome {
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, total, SOON).await?;
        Ok(())
    }

    fn attempts(&self) -> Vec<Delivery> {
        let mut deliveries = self.recorder.deliveries();
        deliveries.retain(|delivery| delivery.position.offset == POISON);
        deliveries
    }
}

/// The log lines with this message, as JSON.
fn lines(process: &Process, message: &str) -> Vec<Value> {
    let lines = process.lines();
    let parsed = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(&line.text).ok());
    parsed
        .filter(|line| {
            line["message"]
                .as_str()
                .is_some_and(|found| found.contains(message))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_that_ends_it_is_left_in_the_termination_log() -> Outcome {
    let scene = Scene::new(422).await?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("termination-log");
    let expected = format!(
        "topic {} partition 0 offset {POISON}: the handler failed at attempt 1: \
         the handler answered 422 Unprocessable Entity: no such order",
        scene.topic
    );
    let consumer = Launch::new(&scene.in_order())
        .termination_log(&log)
        .start()?;
    assert_eq!(consumer.wait(SOON).await?.code(), Some(1));
    let written = std::fs::read_to_string(&log)?;
    assert_eq!(written, format!("{expected} (code=MessageFailed)"));

    // If the file can't be written, the program reports that, and the error that ended it.
    let consumer = Launch::new(&scene.in_order())
        .termination_log(dir.path())
        .start()?;
    assert_eq!(consumer.wait(SOON).await?.code(), Some(1));
    let last = consumer.lines().pop().map(|line| line.text);
    let end = format!("code=MessageFailed error={expected}");
    assert!(
        last.is_some_and(|line| line.ends_with(&end)),
        "{}",
        consumer.tail()
    );
    let warning = "warning: the termination message can't be written to";
    assert_eq!(consumer.count(warning), 1);

    // Nothing is left by a stop.
    scene.recorder.behave(|_| Reply::ok());
    std::fs::remove_file(&log)?;
    let consumer = Launch::new(&scene.in_order())
        .termination_log(&log)
        .start()?;
    scene.wait_for_committed().await?;
    assert!(consumer.stop(SOON).await?.success());
    assert!(!log.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_an_in_order_consumer_and_the_message_comes_again() -> Outcome {
    let scene = Scene::new(422).await?;
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let consumer = Consumer::start(&scene.in_order())?;
        let status = consumer.wait(SOON).await?;
        ends.push(Disruption::at(Instant::now()));
        assert_eq!(status.code(), Some(1), "{}", consumer.tail());
        let terminating =
            "Unhandled error while trying to process a message, terminating the server";
        assert_eq!(consumer.count(terminating), 1, "{}", consumer.tail());
        let reason = format!(
            "code=MessageFailed error=topic {} partition 0 offset {POISON}: the handler failed at attempt 1: \
             the handler answered 422 Unprocessable Entity: no such order",
            scene.topic
        );
        assert_eq!(consumer.count(&reason), 1, "{}", consumer.tail());
        assert_eq!(scene.committed().await?, POISON);
    }
    // It blocked the partition, and blocks it no longer once it is handled.
    assert_eq!(scene.attempts().len(), 2);
    assert!(
        scene
            .recorder
            .deliveries()
            .iter()
            .all(|one| one.position.offset <= POISON)
    );
    scene.recorder.behave(|_| Reply::ok());
    let consumer = Consumer::start(&scene.in_order())?;
    scene.wait_for_committed().await?;
    assert!(consumer.stop(SOON).await?.success());
    Evidence::new(&scene.produced, scene.recorder.deliveries())
        .commits(watch.stop().await)
        .disruptions(ends)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
            Rule::InOrder,
            Rule::AttemptsWithin(1),
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_a_fast_consumer_and_nothing_behind_the_message_is_committed() -> Outcome {
    let scene = Scene::new(500).await?;
    let consumer = Consumer::start(&scene.fast())?;
    let status = consumer.wait(SOON).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    assert_eq!(scene.committed().await?, POISON);
    scene.recorder.behave(|_| Reply::ok());
    let consumer = Consumer::start(&scene.fast())?;
    scene.wait_for_committed().await?;
    assert!(consumer.stop(SOON).await?.success());
    Evidence::new(&scene.produced, scene.recorder.deliveries()).check(&[Rule::NothingLost])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_where_what_was_read_is_committed_brings_the_message_again() -> Outcome {
    let scene = Scene::new(422).await?;
    // The client commits what was read long before the consumer ends.
    let slow = Duration::from_millis(500);
    scene
        .recorder
        .behave(move |delivery| match delivery.position.offset == POISON {
            true => Reply::status(422).after(slow),
            false => Reply::ok(),
        });
    let manifest = scene.fast().set("/commit", "Read");
    let consumer = Consumer::start(&manifest)?;
    let status = consumer.wait(SOON).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    assert_eq!(scene.committed().await?, POISON, "{}", consumer.tail());
    scene.recorder.behave(|_| Reply::ok());
    let consumer = Consumer::start(&manifest)?;
    scene.wait_for_committed().await?;
    assert!(consumer.stop(SOON).await?.success());
    Evidence::new(&scene.produced, scene.recorder.deliveries()).check(&[Rule::NothingLost])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_counted_and_wait_ever_longer() -> Outcome {
    let scene = Scene::new(503).await?;
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 5)
        .set("/delivery/backoff/initial", "100ms")
        .set("/delivery/backoff/factor", 2.0)
        .set("/delivery/backoff/jitter", 0.0);
    let consumer = Launch::new(&manifest).json_log().start()?;
    let status = consumer.wait(SOON).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());

    let attempts = scene.attempts();
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    for (two, wait) in attempts.windows(2).zip([100, 200, 400, 800]) {
        let waited = two[1].start.duration_since(two[0].start);
        assert!(
            waited >= Duration::from_millis(wait),
            "{waited:?} instead of {wait} ms"
        );
    }
    let retries = lines(&consumer, "the handler failed; the next attempt follows");
    assert_eq!(retries.len(), 4);
    assert_eq!(retries[3]["attempt"], 4);
    assert_eq!(retries[3]["offset"], POISON);
    assert_eq!(retries[3]["level"], "WARN");
    assert_eq!(scene.committed().await?, POISON);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_after_failures_is_a_success() -> Outcome {
    let scene = Scene::new(503).await?;
    scene.recorder.behave(|delivery| match delivery.attempt {
        1 | 2 => Reply::status(429),
        _ => Reply::ok(),
    });
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 3)
        .set("/delivery/backoff/initial", "5ms");
    let consumer = Consumer::start(&manifest)?;
    scene.wait_for_committed().await?;
    let topic = [("kafka_topic", scene.topic.as_str())];
    consumer
        .wait_for_metric("penstock_retries_total", &topic, 20.0, SOON)
        .await?;
    let success = [
        ("kafka_topic", scene.topic.as_str()),
        ("kafka_success", "true"),
    ];
    consumer
        .wait_for_metric(
            "kafka_consumer_messages_processed_total",
            &success,
            10.0,
            SOON,
        )
        .await?;
    assert!(consumer.stop(SOON).await?.success());
    Evidence::new(&scene.produced, scene.recorder.deliveries()).check(&[
        Rule::NothingLost,
        Rule::InOrder,
        Rule::AttemptsWithin(3),
        Rule::DuplicatesExplained,
    ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_logs_and_counts_what_it_leaves_behind() -> Outcome {
    for manifest in [Scene::in_order, Scene::fast] {
        let scene = Scene::new(503).await?;
        let manifest = manifest(&scene)
            .set("/delivery/maxAttempts", 2)
            .set("/delivery/onFailure", "Skip");
        let consumer = Launch::new(&manifest).json_log().start()?;
        scene.wait_for_committed().await?;

        let skipped = lines(&consumer, "skipping a message that could not be handled");
        assert_eq!(skipped.len(), 1, "{}", consumer.tail());
        assert_eq!(skipped[0]["level"], "ERROR");
        assert_eq!(skipped[0]["topic"], scene.topic.as_str());
        assert_eq!(skipped[0]["partition"], 0);
        assert_eq!(skipped[0]["offset"], POISON);
        assert_eq!(skipped[0]["key"], format!("key {POISON}"));
        assert_eq!(skipped[0]["attempts"], 2);
        assert_eq!(
            skipped[0]["error"],
            "the handler answered 503 Service Unavailable: no such order"
        );
        let topic = [("kafka_topic", scene.topic.as_str())];
        let page = consumer.metrics().await?;
        assert_eq!(
            page.value("penstock_skipped_messages_total", &topic),
            Some(1.0)
        );
        assert_eq!(
            page.value("penstock_dead_lettered_messages_total", &topic),
            Some(0.0)
        );
        let failed = [
            ("kafka_topic", scene.topic.as_str()),
            ("kafka_success", "false"),
        ];
        let processed = "kafka_consumer_messages_processed_total";
        assert_eq!(page.value(processed, &failed), Some(1.0));
        assert_eq!(scene.attempts().len(), 2);
        assert_eq!(scene.recorder.handled(), 9);
        assert!(consumer.stop(SOON).await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_the_message_and_says_why() -> Outcome {
    for manifest in [Scene::in_order, Scene::fast] {
        let scene = Scene::new(422).await?;
        let dead = topics::create(&scene.bootstrap, "delivery-dead", 1).await?;
        let manifest = manifest(&scene)
            .set("/delivery/maxAttempts", 3)
            .set("/delivery/onFailure", "DeadLetter")
            .set("/delivery/deadLetterTopic", dead.as_str());
        let consumer = Launch::new(&manifest).json_log().start()?;
        scene.wait_for_committed().await?;

        let letters = topics::read_all(&scene.bootstrap, &dead).await?;
        let all = topics::read_all(&scene.bootstrap, &scene.topic).await?;
        let original = all
            .iter()
            .find(|one| one.position.offset == POISON)
            .ok_or("none")?;
        let [letter] = letters.as_slice() else {
            return Err(format!("{letters:?}").into());
        };
        assert_eq!(letter.key, original.key);
        assert_eq!(letter.value, original.value);
        assert_eq!(letter.timestamp, original.timestamp);
        let headers: Vec<_> = letter
            .headers
            .iter()
            .map(|(name, value)| {
                let value = value.as_deref().unwrap_or_default();
                (name.as_str(), String::from_utf8_lossy(value).into_owned())
            })
            .collect();
        let reason = "the handler answered 422 Unprocessable Entity: no such order";
        let expected = [
            ("trace", "abc".to_owned()),
            ("penstock.failure.topic", scene.topic.clone()),
            ("penstock.failure.partition", "0".into()),
            ("penstock.failure.offset", POISON.to_string()),
            ("penstock.failure.group", scene.group.clone()),
            // 422 won't pass, so it was not tried again.
            ("penstock.failure.attempts", "1".into()),
            ("penstock.failure.reason", reason.into()),
        ];
        assert_eq!(headers, expected);

        let wrote = lines(
            &consumer,
            "dead-lettered a message that could not be handled",
        );
        assert_eq!(wrote.len(), 1, "{}", consumer.tail());
        assert_eq!(wrote[0]["offset"], POISON);
        let topic = [("kafka_topic", scene.topic.as_str())];
        let page = consumer.metrics().await?;
        assert_eq!(
            page.value("penstock_dead_lettered_messages_total", &topic),
            Some(1.0)
        );
        assert!(consumer.stop(SOON).await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_refused_ends_it_and_the_message_is_not_committed() -> Outcome {
    let scene = Scene::new(422).await?;
    let dead = topics::create(&scene.bootstrap, "delivery-dead", 1).await?;
    let manifest = scene
        .in_order()
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    // The topic is there when the consumer starts, and gone when it is needed.
    scene.recorder.down().await;
    scene.recorder.up()?;
    let gate = penstock_tests::recorder::Gate::closed();
    let held = gate.clone();
    scene
        .recorder
        .behave(move |delivery| match delivery.position.offset == POISON {
            true => Reply::status(422).once(&held),
            false => Reply::ok(),
        });
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_until("the poison", SOON, async || !scene.attempts().is_empty())
        .await?;
    topics::delete(&scene.bootstrap, &dead).await?;
    gate.open();

    let status = consumer.wait(Duration::from_secs(60)).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    let expected = format!("could not be written to the dead-letter topic '{dead}'");
    assert!(consumer.count(&expected) >= 1, "{}", consumer.tail());
    assert_eq!(scene.attempts()[0].verdict, Verdict::Answered(422));
    assert_eq!(scene.committed().await?, POISON);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_is_missing_is_told_at_the_start() -> Outcome {
    let scene = Scene::new(422).await?;
    let manifest = scene
        .in_order()
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", "no-such-topic");
    let consumer = Consumer::start(&manifest)?;
    assert_eq!(consumer.wait(SOON).await?.code(), Some(1));
    let expected = "topic 'no-such-topic' does not exist. maybe it's misspelled or on a different kafka cluster?";
    assert!(consumer.count(expected) >= 1, "{}", consumer.tail());
    assert_eq!(scene.recorder.count(), 0);
    Ok(())
}
