//! Messages of one key are handled one after the other, whatever the others do.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Duration;

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

const HANDLERS: usize = 8;

/// The key that fails or is slow.
const STUCK: &str = "stuck";

/// A topic, a handler and a consumer that orders by key.
struct Scene {
    bootstrap: String,
    topic: String,
    manifest: Manifest,
    recorder: Recorder,
}

impl Scene {
    async fn new(partitions: i32) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "keys", partitions).await?;
        let group = topics::unique("test.keys");
        let recorder = Recorder::start()?;
        let manifest =
            Manifest::key_ordered(&bootstrap, &group, &topic, HANDLERS).handler(&recorder);
        Ok(Self {
            bootstrap,
            topic,
            manifest,
            recorder,
        })
    }

    async fn wait_for_committed(&self, offset: i64) -> Outcome {
        let group = self.manifest.group();
        Ok(groups::wait_for_committed(&self.bootstrap, group, &self.topic, offset, SOON).await?)
    }

    async fn watch(&self) -> Result<CommitWatch, Box<dyn Error>> {
        let group = self.manifest.group();
        Ok(CommitWatch::start(&self.bootstrap, group, &self.topic).await?)
    }

    async fn judge(&self, produced: &[Produced], watch: CommitWatch, attempts: u32) -> Outcome {
        Evidence::new(produced, self.recorder.deliveries())
            .commits(watch.stop().await)
            .check(&[
                Rule::NothingLost,
                Rule::KeyOrder,
                Rule::CommitsWithinSettled,
                Rule::CommitsNeverGoBack,
                Rule::DuplicatesExplained,
                Rule::NeverTwiceAtOnce,
                Rule::AttemptsWithin(attempts),
            ])?;
        Ok(())
    }
}

fn is_stuck(delivery: &Delivery) -> bool {
    delivery.key.as_deref() == Some(STUCK)
}

/// One in five is of the key that is stuck.
fn some_stuck(seq: u64) -> Option<String> {
    Some(match seq % 5 {
        0 => STUCK.to_owned(),
        _ => format!("key-{}", seq % 23),
    })
}

async fn stop(consumer: &Consumer) -> Outcome {
    let status = consumer.stop(SOON).await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{status}:\n{}", consumer.tail()).into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_run_side_by_side_and_each_in_order() -> Outcome {
    let scene = Scene::new(3).await?;
    scene.recorder.behave(|delivery| {
        let wait = delivery.position.offset.unsigned_abs() * 7 % 13;
        Reply::ok().after(Duration::from_millis(wait))
    });
    let watch = scene.watch().await?;
    let produced = Produce::to(&scene.topic)
        .count(1500)
        .key(|seq| Some(format!("key-{}", seq % 23)))
        .send(&scene.bootstrap)
        .await?;
    let consumer = Consumer::start(&scene.manifest)?;
    scene.wait_for_committed(1500).await?;
    stop(&consumer).await?;
    let at_once = scene.recorder.max_in_flight();
    assert!((2..=HANDLERS).contains(&at_once), "{at_once} at once");
    scene.judge(&produced, watch, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_a_key_wait_for_none() -> Outcome {
    let scene = Scene::new(1).await?;
    let gate = Gate::closed();
    let held = gate.clone();
    scene.recorder.behave(move |_| Reply::ok().once(&held));
    let watch = scene.watch().await?;
    let produced = Produce::to(&scene.topic)
        .count(100)
        .key(|_| None)
        .send(&scene.bootstrap)
        .await?;
    let consumer = Consumer::start(&scene.manifest)?;
    scene.recorder.wait_for_in_flight(HANDLERS, SOON).await?;
    gate.open();
    scene.wait_for_committed(100).await?;
    stop(&consumer).await?;
    scene.judge(&produced, watch, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_key_takes_no_handler_from_the_others() -> Outcome {
    let scene = Scene::new(1).await?;
    let gate = Gate::closed();
    let mended = gate.clone();
    scene.recorder.behave(
        move |delivery| match is_stuck(delivery) && !mended.is_open() {
            true => Reply::status(503),
            false => Reply::ok(),
        },
    );
    let watch = scene.watch().await?;
    let produced = Produce::to(&scene.topic)
        .count(500)
        .key(some_stuck)
        .send(&scene.bootstrap)
        .await?;
    // Of one handler, a failing message that kept it would stop all others.
    let manifest = scene
        .manifest
        .clone()
        .set("/maxConcurrency", 1)
        .set("/delivery/maxAttempts", 1000);
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_handled(400, SOON).await?;
    assert!(!scene.recorder.with(|all| {
        all.iter()
            .any(|one| is_stuck(one) && one.attempt == 1 && one.position.offset > 0)
    }));
    gate.open();
    scene.wait_for_committed(500).await?;
    stop(&consumer).await?;
    scene.judge(&produced, watch, 1000).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_holds_too_many_messages_pauses_its_partition_alone() -> Outcome {
    let scene = Scene::new(2).await?;
    let gate = Gate::closed();
    let held = gate.clone();
    scene
        .recorder
        .behave(move |delivery| match is_stuck(delivery) {
            true => Reply::ok().once(&held),
            false => Reply::ok(),
        });
    let watch = scene.watch().await?;
    // More than may be held, all behind one message.
    let stuck = Produce::to(&scene.topic)
        .count(6000)
        .key(|_| Some(STUCK.into()))
        .value(|seq| Some(format!("{{\"seq\": {seq}{:5000}}}", "").into()))
        .partition(|_| 0)
        .send(&scene.bootstrap)
        .await?;
    let free = Produce::to(&scene.topic)
        .first_seq(6000)
        .count(3000)
        .partition(|_| 1)
        .send(&scene.bootstrap)
        .await?;
    let manifest = scene.manifest.clone().set("/handler/timeout", "5m");
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_for_metric("penstock_paused_partitions", &[], 1.0, SOON)
        .await?;
    scene.recorder.wait_for_handled(3000, SOON).await?;
    let waiting = consumer
        .metrics()
        .await?
        .value("penstock_queued_messages", &[]);
    assert!(
        waiting.is_some_and(|waiting| waiting < 6000.0),
        "{waiting:?} wait"
    );
    gate.open();
    scene.wait_for_committed(9000).await?;
    consumer
        .wait_for_metric("penstock_paused_partitions", &[], 0.0, SOON)
        .await?;
    stop(&consumer).await?;
    scene.judge(&[stuck, free].concat(), watch, 1).await
}
