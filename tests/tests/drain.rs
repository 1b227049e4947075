//! Stopping: what is in flight ends well, what is queued comes again, the group is
//! left at once, and the exit code tells.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::process::Signal;
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Gate, Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);

/// A member that does not leave is missed only after this.
const SESSION: Duration = Duration::from_secs(40);

/// A topic of one partition, filled; a handler that answers once the gate is open.
struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    produced: Vec<Produced>,
    recorder: Recorder,
    gate: Gate,
}

impl Scene {
    async fn new(messages: u64) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "drain", 1).await?;
        let produced = Produce::to(&topic).count(messages).send(&bootstrap).await?;
        let recorder = Recorder::start()?;
        let gate = Gate::closed();
        let held = gate.clone();
        recorder.behave(move |_| Reply::ok().once(&held));
        Ok(Self {
            bootstrap,
            topic,
            group: topics::unique("test.drain"),
            produced,
            recorder,
            gate,
        })
    }

    fn fast(&self, handlers: usize) -> Manifest {
        self.ready(Manifest::fast(
            &self.bootstrap,
            &self.group,
            &self.topic,
            handlers,
        ))
    }

    fn in_order(&self) -> Manifest {
        self.ready(Manifest::in_order(
            &self.bootstrap,
            &self.group,
            &self.topic,
        ))
    }

    fn ready(&self, manifest: Manifest) -> Manifest {
        manifest
            .handler(&self.recorder)
            .kafka("session.timeout.ms", &SESSION.as_millis().to_string())
            .kafka("heartbeat.interval.ms", "1000")
    }

    async fn committed(&self) -> Result<Option<i64>, Box<dyn Error>> {
        let offsets = groups::committed(&self.bootstrap, &self.group, &self.topic).await?;
        Ok(offsets.get(&(self.topic.clone(), 0)).copied())
    }

    /// The offsets that were handled with success.
    fn handled(&self) -> BTreeSet<i64> {
        let deliveries = self.recorder.deliveries();
        let handled = deliveries
            .iter()
            .filter(|delivery| delivery.verdict.is_success());
        handled.map(|delivery| delivery.position.offset).collect()
    }

    /// The group has no member, and has none long before a session ends.
    async fn check_left_at_once(&self) -> Outcome {
        groups::wait_for_members(&self.bootstrap, &self.group, 0, SESSION / 4).await?;
        Ok(())
    }

    /// A second consumer handles all the rest, and all together keeps the rules.
    async fn finish(self, manifest: &Manifest, watch: CommitWatch, stopped: Instant) -> Outcome {
        self.gate.open();
        let consumer = Consumer::start(manifest)?;
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, total, SOON).await?;
        assert!(consumer.stop(SOON).await?.success());
        Evidence::new(&self.produced, self.recorder.deliveries())
            .commits(watch.stop().await)
            .disruptions([Disruption::between(stopped, Instant::now())])
            .check(&[
                Rule::NothingLost,
                Rule::CommitsWithinSettled,
                Rule::CommitsNeverGoBack,
                Rule::DuplicatesExplained,
            ])?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_handled_finishes_what_is_in_flight_and_leaves_what_is_queued() -> Outcome {
    let scene = Scene::new(100).await?;
    let manifest = scene.fast(4);
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_in_flight(4, SOON).await?;
    let stopped = Instant::now();
    consumer.terminate()?;
    consumer
        .wait_for_line("a signal stops the process", SOON)
        .await?;
    // Members that drain are still members, and the pages are up.
    assert_eq!(consumer.health("/health").await?.status, 200);
    assert_eq!(consumer.health("/livez").await?.status, 200);
    assert_eq!(
        consumer
            .metrics()
            .await?
            .value("kafka_consumer_active_messages", &[]),
        Some(4.0)
    );
    let members = groups::describe(&scene.bootstrap, &scene.group)
        .await?
        .members;
    assert_eq!(members.len(), 1);
    scene.gate.open();

    assert_eq!(
        consumer.wait(SOON).await?.code(),
        Some(0),
        "{}",
        consumer.tail()
    );
    assert_eq!(scene.handled(), (0..4).collect());
    assert_eq!(scene.recorder.count(), 4);
    assert_eq!(scene.committed().await?, Some(4));
    scene.check_left_at_once().await?;
    scene.finish(&manifest, watch, stopped).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_read_handles_what_is_queued_too() -> Outcome {
    let scene = Scene::new(100).await?;
    let manifest = scene.fast(4).set("/commit", "Read");
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_in_flight(4, SOON).await?;
    let labels = [("consumer", consumer_name(&scene.group))];
    let labels = labels
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    consumer
        .wait_for_metric("penstock_queued_messages", &labels, 6.0, SOON)
        .await?;
    consumer.terminate()?;
    consumer
        .wait_for_line("a signal stops the process", SOON)
        .await?;
    scene.gate.open();

    assert_eq!(
        consumer.wait(SOON).await?.code(),
        Some(0),
        "{}",
        consumer.tail()
    );
    // Whatever was read is committed, so it had to be handled: no more, no less.
    let committed = scene.committed().await?.ok_or("nothing committed")?;
    assert!(committed > 4, "{committed}");
    assert_eq!(scene.handled(), (0..committed).collect());
    scene.check_left_at_once().await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_finishes_and_commits_the_one_in_flight() -> Outcome {
    let scene = Scene::new(20).await?;
    let manifest = scene.in_order();
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_in_flight(1, SOON).await?;
    let stopped = Instant::now();
    consumer.terminate()?;
    consumer
        .wait_for_line("a signal stops the process", SOON)
        .await?;
    scene.gate.open();

    assert_eq!(
        consumer.wait(SOON).await?.code(),
        Some(0),
        "{}",
        consumer.tail()
    );
    assert_eq!(scene.handled(), BTreeSet::from([0]));
    assert_eq!(scene.recorder.count(), 1);
    assert_eq!(scene.committed().await?, Some(1));
    scene.check_left_at_once().await?;
    scene.finish(&manifest, watch, stopped).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_slower_than_the_stop_timeout_is_given_up_and_its_message_comes_again() -> Outcome
{
    let scene = Scene::new(20).await?;
    let manifest = scene.fast(2).set("/stopTimeout", "2s");
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let first = scene.gate.clone();
    scene
        .recorder
        .behave(move |delivery| match delivery.position.offset {
            // One handler ends in time, one does not.
            0 => Reply::ok().once(&first),
            _ => Reply::ok().after(Duration::from_millis(500)),
        });
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_in_flight(2, SOON).await?;
    let stopped = Instant::now();
    consumer.terminate()?;
    let status = consumer.wait(SOON).await?;
    let took = stopped.elapsed();

    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let expected =
        "code=StopTimeout error=handlers were still busy after the stopTimeout of 2s: 1.";
    assert_eq!(consumer.count(expected), 1, "{}", consumer.tail());
    // Nothing was committed: the first message is the one that did not end.
    assert!(matches!(scene.committed().await?, None | Some(0)));
    scene.check_left_at_once().await?;
    scene.finish(&manifest, watch, stopped).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_changes_nothing() -> Outcome {
    let scene = Scene::new(20).await?;
    let consumer = Consumer::start(&scene.in_order())?;
    scene.recorder.wait_for_in_flight(1, SOON).await?;
    consumer.terminate()?;
    consumer
        .wait_for_line("a signal stops the process", SOON)
        .await?;
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        consumer.signal(signal)?;
    }
    for signal in ["SIGTERM", "SIGINT", "SIGUSR2"] {
        let line = format!(r#"a second signal: the stop continues signal="{signal}""#);
        consumer.wait_for_line(&line, SOON).await?;
    }
    assert_eq!(consumer.health("/health").await?.status, 200);
    assert_eq!(scene.recorder.in_flight(), 1);
    scene.gate.open();
    assert_eq!(
        consumer.wait(SOON).await?.code(),
        Some(0),
        "{}",
        consumer.tail()
    );
    assert_eq!(scene.committed().await?, Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_and_sigusr2_stop_it_as_sigterm_does() -> Outcome {
    for (signal, line) in [
        (Signal::INT, r#"a signal stops the process signal="SIGINT""#),
        (
            Signal::USR2,
            r#"a signal stops the process signal="SIGUSR2""#,
        ),
    ] {
        let scene = Scene::new(10).await?;
        let consumer = Consumer::start(&scene.in_order())?;
        scene.recorder.wait_for_in_flight(1, SOON).await?;
        consumer.signal(signal)?;
        consumer.wait_for_line(line, SOON).await?;
        scene.gate.open();
        assert_eq!(
            consumer.wait(SOON).await?.code(),
            Some(0),
            "{}",
            consumer.tail()
        );
        assert_eq!(scene.committed().await?, Some(1));
        scene.check_left_at_once().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_wait_for_another_attempt() -> Outcome {
    let scene = Scene::new(5).await?;
    scene.recorder.behave(|_| Reply::status(503));
    let manifest = scene
        .in_order()
        .set("/delivery/maxAttempts", 100)
        .set("/delivery/backoff/initial", "1m")
        .set("/delivery/backoff/max", "1m");
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_for_line("the next attempt follows", SOON)
        .await?;
    let status = consumer.stop(Duration::from_secs(10)).await?;
    assert_eq!(status.code(), Some(0), "{}", consumer.tail());
    assert_eq!(scene.recorder.count(), 1);
    assert!(matches!(scene.committed().await?, None | Some(0)));
    scene.check_left_at_once().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_it_starts_ends_it_too() -> Outcome {
    let scene = Scene::new(1).await?;
    scene.recorder.down().await;
    let consumer = Consumer::start(&scene.in_order())?;
    consumer.wait_until_it_can_stop(SOON).await?;
    let status = consumer.stop(Duration::from_secs(10)).await?;
    assert_eq!(status.code(), Some(0), "{}", consumer.tail());
    assert_eq!(scene.recorder.count(), 0);
    Ok(())
}

fn consumer_name(group: &str) -> String {
    let (_, name) = group.split_once('.').unwrap_or_default();
    format!("kafka_consumer.{name}")
}
