//! BatchHttp handlers on a real Kafka: whole batches, single failures, and broken answers.

#![forbid(unsafe_code)]

mod in_order;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::Duration;

use penstock_tests::groups::{self, CommitSample, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::Mode;
use penstock_tests::oracle::{Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Gate, Recorder, Reply};
use penstock_tests::topics::Stored;
use penstock_tests::{Consumer, Manifest, Position, topics};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 3;

const HANDLERS: usize = 4;

/// `consumeBatchSize`.
const BATCH: usize = 50;

/// What every run must keep.
const ALWAYS: [Rule; 4] = [
    Rule::NothingLost,
    Rule::CommitsWithinSettled,
    Rule::CommitsNeverGoBack,
    Rule::DuplicatesExplained,
];

/// A topic, a handler and a consumer that gives it batches.
struct Scene {
    bootstrap: String,
    topic: String,
    manifest: Manifest,
    recorder: Recorder,
    _dir: TempDir,
}

impl Scene {
    async fn new(mode: Mode) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "batch", PARTITIONS).await?;
        let group = topics::unique("test.batch");
        let dir = TempDir::with_prefix("penstock-batch-")?;
        let recorder = match mode {
            Mode::InOrder | Mode::Fast => Recorder::start()?,
            Mode::KeyOrdered => Recorder::start_unix(dir.path().join("handler.sock"))?,
        };
        let manifest = mode
            .manifest(&bootstrap, &group, &topic, HANDLERS)
            .handler(&recorder)
            .set("/handler/protocol", "BatchHttp")
            .set("/consumeBatchSize", BATCH);
        Ok(Self {
            bootstrap,
            topic,
            manifest,
            recorder,
            _dir: dir,
        })
    }

    fn messages(&self, count: u64) -> Produce {
        Produce::to(&self.topic).count(count)
    }

    async fn watch(&self) -> Result<CommitWatch, Box<dyn Error>> {
        let group = self.manifest.group();
        Ok(CommitWatch::start(&self.bootstrap, group, &self.topic).await?)
    }

    /// Produces so many messages and lets a consumer handle all of them.
    async fn run(&self, manifest: &Manifest, messages: u64) -> Result<Ran, Box<dyn Error>> {
        let watch = self.watch().await?;
        let produced = self.messages(messages).send(&self.bootstrap).await?;
        let consumer = Consumer::start(manifest)?;
        self.finish(&consumer, i64::try_from(messages)?).await?;
        Ok(Ran {
            produced,
            deliveries: self.recorder.deliveries(),
            commits: watch.stop().await,
        })
    }

    /// Waits until all is committed, and stops the consumer.
    async fn finish(&self, consumer: &Consumer, messages: i64) -> Outcome {
        let group = self.manifest.group();
        groups::wait_for_committed(&self.bootstrap, group, &self.topic, messages, LIMIT)
            .await
            .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
        stop(consumer).await
    }
}

/// What a consumer did that handled all messages.
struct Ran {
    produced: Vec<Produced>,
    deliveries: Vec<Delivery>,
    commits: Vec<CommitSample>,
}

impl Ran {
    fn evidence(self) -> Evidence {
        Evidence::new(&self.produced, self.deliveries).commits(self.commits)
    }
}

async fn stop(consumer: &Consumer) -> Outcome {
    let status = consumer.stop(LIMIT).await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{status}:\n{}", consumer.tail()).into()),
    }
}

/// The deliveries of each request, in the order of arrival.
fn batches(deliveries: &[Delivery]) -> Vec<&[Delivery]> {
    deliveries
        .chunk_by(|one, next| (one.connection, one.start) == (next.connection, next.start))
        .collect()
}

/// How often each message was delivered.
fn times(deliveries: &[Delivery]) -> BTreeMap<&Position, usize> {
    let mut times = BTreeMap::new();
    for delivery in deliveries {
        *times.entry(&delivery.position).or_default() += 1;
    }
    times
}

/// What a dead letter says of its message.
fn header(letter: &Stored, name: &str) -> String {
    let name = format!("penstock.failure.{name}");
    let header = letter.headers.iter().find(|(found, _)| *found == name);
    let value = header.and_then(|(_, value)| value.as_deref());
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn is(seq: u64) -> impl Fn(&Delivery) -> bool {
    move |delivery| delivery.json()["seq"] == seq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_comes_once_in_batches_of_several() -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    scene
        .recorder
        .behave(|_| Reply::ok().after(Duration::from_millis(2)));
    let ran = scene.run(&scene.manifest, 5_000).await?;
    assert_eq!(ran.deliveries.len(), 5_000);
    let sizes: Vec<_> = batches(&ran.deliveries)
        .iter()
        .map(|all| all.len())
        .collect();
    let largest = sizes.iter().max().copied().unwrap_or_default();
    assert!((2..=BATCH).contains(&largest), "{largest} in one");
    assert!(scene.recorder.connections() <= HANDLERS);
    let evidence = ran.evidence();
    evidence.check(&ALWAYS)?;
    evidence.check(&[Rule::NeverTwiceAtOnce, Rule::AttemptsWithin(1)])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_comes_in_one_batch() -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    let gate = Gate::closed();
    let held = gate.clone();
    scene.recorder.behave(move |_| Reply::ok().once(&held));
    scene.messages(500).send(&scene.bootstrap).await?;
    let consumer = Consumer::start(&scene.manifest.clone().set("/maxConcurrency", 1))?;
    scene.recorder.wait_for_in_flight(1, LIMIT).await?;
    consumer
        .wait_for_metric("penstock_queued_messages", &[], BATCH as f64, LIMIT)
        .await?;
    let first = scene.recorder.count();
    gate.open();
    scene.finish(&consumer, 500).await?;
    let deliveries = scene.recorder.deliveries();
    assert_eq!(batches(&deliveries[first..])[0].len(), BATCH);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_while_some_messages_fail() -> Outcome {
    let scene = Scene::new(Mode::KeyOrdered).await?;
    scene
        .recorder
        .behave(|one| match (one.position.offset % 20, one.attempt) {
            (7, 1 | 2) | (8, 1) => Reply::status(503),
            _ => Reply::ok(),
        });
    let manifest = scene
        .manifest
        .clone()
        .set("/delivery/maxAttempts", 3)
        .set("/delivery/backoff/initial", "5ms");
    let ran = scene.run(&manifest, 2_000).await?;
    let batches = batches(&ran.deliveries);
    assert!(batches.iter().any(|batch| batch.len() > 1));
    for batch in batches {
        let keys = batch.iter().map(|one| (one.position.partition, &one.key));
        assert_eq!(keys.collect::<BTreeSet<_>>().len(), batch.len());
    }
    let retried = ran.deliveries.iter().filter(|one| one.attempt == 3).count();
    assert!(retried >= 90, "{retried} reached the third attempt");
    let evidence = ran.evidence();
    evidence.check(&ALWAYS)?;
    evidence.check(&[
        Rule::KeyOrder,
        Rule::NeverTwiceAtOnce,
        Rule::AttemptsWithin(3),
    ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_fast_a_message_that_fails_is_retried_alone() -> Outcome {
    one_fails_alone(Mode::Fast).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_key_a_message_that_fails_is_retried_alone() -> Outcome {
    one_fails_alone(Mode::KeyOrdered).await
}

/// The others are settled: not even another consumer is given them again.
async fn one_fails_alone(mode: Mode) -> Outcome {
    const STUCK: u64 = 7;
    let scene = Scene::new(mode).await?;
    let mended = Gate::closed();
    let gate = mended.clone();
    scene
        .recorder
        .behave(move |one| match is(STUCK)(one) && !gate.is_open() {
            true => Reply::status(503),
            false => Reply::ok(),
        });
    let watch = scene.watch().await?;
    let produced = scene.messages(100).send(&scene.bootstrap).await?;
    let manifest = scene.manifest.clone().set("/delivery/maxAttempts", 1000);
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_handled(99, LIMIT).await?;
    // The others are done with meanwhile.
    let name = "kafka_consumer_messages_processed_total";
    consumer
        .wait_for_metric(name, &[("kafka_success", "true")], 99.0, LIMIT)
        .await?;
    let seen = scene.recorder.count();
    scene.recorder.wait_for(seen + 3, LIMIT).await?;
    stop(&consumer).await?;
    mended.open();
    let consumer = Consumer::start(&manifest)?;
    scene.finish(&consumer, 100).await?;

    let deliveries = scene.recorder.deliveries();
    let retries = batches(&deliveries[seen..]);
    assert!(retries.iter().all(|batch| batch.len() == 1));
    let stuck = &produced[STUCK as usize].position;
    for (position, times) in times(&deliveries) {
        assert_eq!(times > 1, position == stuck, "{position}: {times} times");
    }
    Evidence::new(&produced, deliveries)
        .commits(watch.stop().await)
        .check(&ALWAYS)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_a_dead_letter_and_its_batch_is_not() -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    let dead = topics::create(&scene.bootstrap, "batch-dead", 1).await?;
    let refused = |one: &Delivery| one.position.offset % 25 == 7;
    scene.recorder.behave(move |one| match refused(one) {
        true => Reply::status(422).with_body("no amount"),
        false => Reply::ok(),
    });
    let manifest = scene
        .manifest
        .clone()
        .set("/delivery/maxAttempts", 5)
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    let ran = scene.run(&manifest, 1_000).await?;
    assert_eq!(ran.deliveries.len(), 1_000);
    let expected: BTreeSet<_> = ran
        .deliveries
        .iter()
        .filter(|one| refused(one))
        .map(|one| one.position.clone())
        .collect();
    let letters = topics::read_all(&scene.bootstrap, &dead).await?;
    let mut origins = BTreeSet::new();
    for letter in &letters {
        assert_eq!(header(letter, "reason"), "no amount");
        origins.insert(Position::new(
            header(letter, "topic"),
            header(letter, "partition").parse()?,
            header(letter, "offset").parse()?,
        ));
    }
    assert!(!expected.is_empty());
    assert_eq!((letters.len(), origins), (expected.len(), expected));
    let good: Vec<_> = ran
        .produced
        .iter()
        .filter(|one| one.position.offset % 25 != 7)
        .cloned()
        .collect();
    let handled = ran.deliveries.iter().filter(|one| !refused(one));
    Evidence::new(&good, handled.cloned().collect()).check(&[Rule::NothingLost])?;
    ran.evidence()
        .settled_by(|one| one.end.is_some())
        .check(&ALWAYS[1..])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_wrongly_comes_again() -> Outcome {
    for (name, reply) in [
        ("a status for all", Reply::status(503).for_all()),
        ("no answer", Reply::close()),
        ("no HTTP", Reply::garbage()),
        ("less than announced", Reply::truncated()),
        (
            "garbled verdicts",
            Reply::garbled_verdicts(r#"{"verdicts": ["done", "fine""#),
        ),
        (
            "verdicts of another shape",
            Reply::garbled_verdicts(r#"{"Verdicts": ["done"]}"#),
        ),
        ("silence", Reply::hang()),
    ] {
        all_come_again(reply)
            .await
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// One message of a first attempt is enough to have its whole batch answered so.
async fn all_come_again(wrong: Reply) -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    scene.recorder.behave(move |one| match one.attempt {
        1 => wrong.clone(),
        _ => Reply::ok(),
    });
    let manifest = scene
        .manifest
        .clone()
        .set("/handler/timeout", "1s")
        .set("/delivery/maxAttempts", 2);
    let ran = scene.run(&manifest, 200).await?;
    let succeeded = ran.deliveries.iter().filter(|one| one.verdict.is_success());
    assert_eq!(succeeded.clone().count(), 200);
    assert!(succeeded.clone().all(|one| one.attempt == 2));
    assert!(times(&ran.deliveries).values().all(|times| *times >= 2));
    ran.evidence().check(&ALWAYS)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_without_verdicts_is_one_for_all() -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    scene.recorder.behave(|_| Reply::ok().for_all());
    scene.messages(500).send(&scene.bootstrap).await?;
    let consumer = Consumer::start(&scene.manifest)?;
    scene.finish(&consumer, 500).await?;
    assert_eq!(
        (scene.recorder.count(), scene.recorder.handled()),
        (500, 500)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_json_costs_its_batch_nothing() -> Outcome {
    const INVALID: &[u8] = b"{\"a\": {\"b\": [\"\xff\", \"\\ud800\", 1e999]}}";
    let scene = Scene::new(Mode::Fast).await?;
    let is_invalid = |seq: u64| seq % 20 == 7;
    let messages = scene.messages(200).value(move |seq| match is_invalid(seq) {
        true => Some(INVALID.to_vec()),
        false => Some(b"{}".to_vec()),
    });
    let produced = messages.send(&scene.bootstrap).await?;
    let consumer = Consumer::start(&scene.manifest)?;
    scene.finish(&consumer, 200).await?;
    let deliveries = scene.recorder.deliveries();
    assert_eq!(deliveries.len(), 190);
    assert!(deliveries.iter().all(|one| one.attempt == 1));
    assert!(deliveries.iter().all(|one| one.verdict.is_success()));
    let (skipped, good): (Vec<_>, Vec<_>) =
        produced.into_iter().partition(|one| is_invalid(one.seq));
    let skipped = skipped.into_iter().map(|one| one.position);
    Evidence::new(&good, deliveries)
        .skipped(skipped)
        .check(&[Rule::NothingLost, Rule::DuplicatesExplained])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_tombstones_keys_and_headers_arrive_as_they_were() -> Outcome {
    let scene = Scene::new(Mode::Fast).await?;
    scene
        .messages(20)
        .key(|_| Some("50%20 gr\u{fc}n".into()))
        .value(|seq| (seq % 2 == 0).then(|| vec![0, 0xff, b'"']))
        .header("Trace id", "a&b=c")
        .send(&scene.bootstrap)
        .await?;
    let manifest = scene.manifest.clone().set("/format", "Raw");
    let consumer = Consumer::start(&manifest)?;
    scene.finish(&consumer, 20).await?;
    let deliveries = scene.recorder.deliveries();
    assert_eq!(deliveries.len(), 20);
    let has_value = |one: &&Delivery| one.header("ce-kafkatombstone").is_none();
    assert_eq!(deliveries.iter().filter(has_value).count(), 10);
    for one in &deliveries {
        let value: &[u8] = match has_value(&one) {
            true => &[0, 0xff, b'"'],
            false => &[],
        };
        assert_eq!(one.body, value);
        assert_eq!(one.key.as_deref(), Some("50%20 gr\u{fc}n"));
        assert_eq!(one.header("kafka-header-trace%20id"), Some("a%26b%3Dc"));
    }
    Ok(())
}
