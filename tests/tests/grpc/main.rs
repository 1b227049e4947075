//! Grpc handlers on a real Kafka: killed, restarted, in other languages.

#![forbid(unsafe_code)]

mod contract;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::languages::{self, root};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::process::Program;
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};
use serde_json::json;
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(120);

const PARTITIONS: i32 = 4;

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    dir: TempDir,
}

impl Scene {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        Ok(Self {
            topic: topics::create(&bootstrap, "grpc", PARTITIONS).await?,
            group: topics::unique("test.grpc"),
            bootstrap,
            dir: TempDir::with_prefix("penstock-grpc-")?,
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("handler.sock")
    }

    /// Messages that the examples take for orders.
    fn orders(&self, count: u64) -> Produce {
        Produce::to(&self.topic)
            .count(count)
            .value(|seq| Some(json!({"id": seq, "amount": 1.5}).to_string().into()))
    }

    /// Fast, in batches, to whoever listens on the socket.
    fn fast(&self) -> Manifest {
        Manifest::fast(&self.bootstrap, &self.group, &self.topic, 4)
            .set("/consumeBatchSize", 100)
            .set("/handler/protocol", "Grpc")
            .set("/handler/socket", self.socket().display().to_string())
    }

    /// A consumer handles all that was produced, in batches, with two attempts for each
    /// message, and stops.
    async fn handle_all(
        &self,
        produced: &[Produced],
        manifest: Manifest,
        recorder: &Recorder,
    ) -> Result<Evidence, Box<dyn Error>> {
        let watch = CommitWatch::start(&self.bootstrap, &self.group, &self.topic).await?;
        let manifest = manifest
            .set("/consumeBatchSize", 100)
            .set("/delivery/maxAttempts", 2)
            .set("/delivery/backoff/initial", "1ms")
            .handler(recorder);
        let consumer = Consumer::start(&manifest)?;
        self.wait_for_committed(produced.len() as u64, &consumer)
            .await?;
        assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
        Ok(Evidence::new(produced, recorder.deliveries()).commits(watch.stop().await))
    }

    async fn wait_for_committed(&self, messages: u64, consumer: &Consumer) -> Outcome {
        let messages = i64::try_from(messages)?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, messages, LIMIT)
            .await
            .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_killed_again_and_again_loses_nothing() -> Outcome {
    const KILLS: usize = 8;
    let scene = Scene::new().await?;
    let recorder = Recorder::start_grpc()?;
    recorder.behave(|_| Reply::ok().after(Duration::from_millis(2)));
    // It passes on what the recorder says: its death is that of a handler.
    let start_handler = || {
        Program::workspace("penstock-test-handler")?
            .env("PENSTOCK_HANDLER_SOCKET", scene.socket())
            .env("RECORDER", format!("127.0.0.1:{}", recorder.port()))
            .start()
    };
    let produced = Produce::to(&scene.topic)
        .count(5_000)
        .send(&scene.bootstrap)
        .await?;
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let mut handler = start_handler()?;
    let manifest = scene.fast().set("/delivery/maxAttempts", 100);
    let consumer = Consumer::start(&manifest)?;
    let mut kills = Vec::new();
    for kill in 1..=KILLS {
        recorder.wait_for(kill * 500, LIMIT).await?;
        let from = Instant::now();
        handler.kill()?;
        handler.wait(LIMIT).await?;
        handler = start_handler()?;
        let seen = recorder.count();
        recorder.wait_for(seen + 1, LIMIT).await?;
        kills.push(Disruption::between(from, Instant::now()));
    }
    scene.wait_for_committed(5_000, &consumer).await?;
    assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
    Evidence::new(&produced, recorder.deliveries())
        .commits(watch.stop().await)
        .disruptions(kills)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_several_messages_of_a_key_in_order_through_failures() -> Outcome {
    const KEYS: u64 = 7;
    let scene = Scene::new().await?;
    let recorder = Recorder::start_grpc_unix(scene.socket())?;
    recorder.behave(
        |delivery| match (delivery.position.offset % 50, delivery.attempt) {
            (7, 1) => Reply::status(503),
            (20..25, _) => Reply::ok().after(Duration::from_millis(1)),
            _ => Reply::ok(),
        },
    );
    let produced = Produce::to(&scene.topic)
        .count(4_000)
        .key(|seq| (seq % 5 > 0).then(|| format!("key-{}", seq % KEYS)))
        .send(&scene.bootstrap)
        .await?;
    let manifest = Manifest::key_ordered(&scene.bootstrap, &scene.group, &scene.topic, 4);
    scene
        .handle_all(&produced, manifest, &recorder)
        .await?
        .check(&[
            Rule::NothingLost,
            Rule::KeyOrder,
            Rule::NeverTwiceAtOnce,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
            Rule::AttemptsWithin(2),
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_a_batch_is_handled_in_order_through_failures() -> Outcome {
    let scene = Scene::new().await?;
    let recorder = Recorder::start_grpc_unix(scene.socket())?;
    recorder.behave(
        |delivery| match (delivery.position.offset % 50, delivery.attempt) {
            (7, 1) => Reply::status(503),
            _ => Reply::ok(),
        },
    );
    let produced = Produce::to(&scene.topic)
        .count(2_000)
        .send(&scene.bootstrap)
        .await?;
    let manifest = Manifest::in_order(&scene.bootstrap, &scene.group, &scene.topic);
    scene
        .handle_all(&produced, manifest, &recorder)
        .await?
        .check(&[
            Rule::NothingLost,
            Rule::InOrder,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
            Rule::AttemptsWithin(2),
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_stopped_in_order_and_started_again_costs_no_attempt() -> Outcome {
    let scene = Scene::new().await?;
    let start_handler = || {
        Program::workspace("orders-rust-grpc")?
            .env("PENSTOCK_HANDLER_SOCKET", scene.socket())
            .start()
    };
    let mut handler = start_handler()?;
    // One attempt only, and a failure would end the consumer.
    let consumer = Consumer::start(&scene.fast())?;
    let mut sent = 0;
    for _ in 0..4 {
        scene.orders(10_000).send(&scene.bootstrap).await?;
        sent += 10_000;
        let begun = (sent - 9_000) as f64;
        consumer
            .wait_until("orders handled", LIMIT, async || {
                handled(&consumer)
                    .await
                    .is_some_and(|handled| handled >= begun)
            })
            .await?;
        handler.terminate()?;
        let status = handler.wait(LIMIT).await?;
        assert!(status.success(), "{}", handler.tail());
        handler = start_handler()?;
    }
    scene.wait_for_committed(sent, &consumer).await?;
    assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_handles_every_message() -> Outcome {
    let handler = Program::new(languages::python().await?)
        .arg(root().join("examples/python-grpc/handler.py"))
        .env("PYTHONPATH", root().join("sdk/python"));
    example_handles_every_message(handler).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_example_handles_every_message() -> Outcome {
    let scene_dir = TempDir::with_prefix("penstock-go-grpc-")?;
    let binary = scene_dir.path().join("orders");
    let build = Program::new(languages::go().await?)
        .args(["build", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(root().join("examples/go-grpc"))
        .start()?;
    assert!(build.wait(LIMIT).await?.success(), "{}", build.tail());
    example_handles_every_message(Program::new(binary)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_handles_every_message() -> Outcome {
    example_handles_every_message(Program::workspace("orders-rust-grpc")?).await
}

/// Some thousand orders, two of which the examples dead-letter.
async fn example_handles_every_message(handler: Program) -> Outcome {
    let scene = Scene::new().await?;
    let dead = topics::create(&scene.bootstrap, "grpc-dead", 1).await?;
    let handler = handler
        .env("PENSTOCK_HANDLER_SOCKET", scene.socket())
        .start()?;
    let orders = Produce::to(&scene.topic).count(5_000).value(|seq| {
        let amount = if seq % 2_500 == 7 { -1.0 } else { 1.5 };
        Some(json!({"id": seq, "amount": amount}).to_string().into())
    });
    orders.send(&scene.bootstrap).await?;
    let manifest = scene
        .fast()
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    let consumer = Consumer::start(&manifest)?;
    let ended = scene.wait_for_committed(5_000, &consumer).await;
    ended.map_err(|error| format!("{error}\nhandler:\n{}", handler.tail()))?;
    assert_eq!(handled(&consumer).await, Some(4_998.0));
    assert_eq!(topics::read_all(&scene.bootstrap, &dead).await?.len(), 2);
    assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
    handler.terminate()?;
    assert!(handler.wait(LIMIT).await?.success(), "{}", handler.tail());
    Ok(())
}

/// Messages handled so far, where the consumer tells.
async fn handled(consumer: &Consumer) -> Option<f64> {
    let page = consumer.metrics().await.ok()?;
    let success = [("kafka_success", "true")];
    page.value("kafka_consumer_messages_processed_total", &success)
}
