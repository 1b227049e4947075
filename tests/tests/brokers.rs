//! Brokers that restart, freeze, are not there, or lack what is asked for.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::groups;
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Launch, Manifest, topics};
use tokio::time::sleep;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// A consumer at work on a broker of the test's own.
struct Lane {
    name: &'static str,
    topic: String,
    manifest: Manifest,
    recorder: Recorder,
    produced: Vec<Produced>,
    consumer: Consumer,
}

impl Lane {
    async fn start(kafka: &Kafka, in_order: bool) -> Result<Self, Box<dyn Error>> {
        let bootstrap = kafka.bootstrap();
        let topic = topics::create(bootstrap, "brokers", 2).await?;
        let group = topics::unique("test.brokers");
        let produced = Produce::to(&topic).count(1000).send(bootstrap).await?;
        let recorder = Recorder::start()?;
        let (name, manifest, delay) = match in_order {
            true => ("in order", Manifest::in_order(bootstrap, &group, &topic), 3),
            false => ("fast", Manifest::fast(bootstrap, &group, &topic, 4), 15),
        };
        recorder.behave(move |_| Reply::ok().after(Duration::from_millis(delay)));
        let manifest = manifest
            .handler(&recorder)
            .kafka("reconnect.backoff.max.ms", "500");
        let consumer = Consumer::start(&manifest)?;
        let lane = Self {
            name,
            topic,
            manifest,
            recorder,
            produced,
            consumer,
        };
        lane.consumer
            .wait_until("some to be handled", SOON, async || {
                lane.recorder.handled() > 100
            })
            .await?;
        Ok(lane)
    }

    /// More messages, after the trouble: all are handled by the same process.
    async fn finish(mut self, kafka: &Kafka, trouble: Disruption) -> Outcome {
        let more = Produce::to(&self.topic).count(200).first_seq(1000);
        self.produced.extend(more.send(kafka.bootstrap()).await?);
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(
            kafka.bootstrap(),
            self.manifest.group(),
            &self.topic,
            total,
            SOON,
        )
        .await
        .map_err(|error| format!("{}: {error}\n{}", self.name, self.consumer.tail()))?;
        assert_eq!(self.consumer.status(), None, "{}", self.consumer.tail());
        assert_eq!(self.consumer.health("/livez").await?.status, 200);
        assert!(
            self.consumer.stop(SOON).await?.success(),
            "{}",
            self.consumer.tail()
        );
        let mut rules = vec![Rule::NothingLost, Rule::DuplicatesExplained];
        if self.name == "in order" {
            rules.push(Rule::InOrder);
        }
        Evidence::new(&self.produced, self.recorder.deliveries())
            .disruptions([trouble])
            .check(&rules)
            .map_err(|error| format!("{}: {error}", self.name))?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_is_waited_for() -> Outcome {
    let kafka = Kafka::start().await?;
    let lanes = [
        Lane::start(&kafka, true).await?,
        Lane::start(&kafka, false).await?,
    ];
    let from = Instant::now();
    kafka.stop().await?;
    kafka.start_again().await?;
    let trouble = Disruption::between(from, from + Duration::from_secs(60));
    for lane in lanes {
        lane.finish(&kafka, trouble).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_crashes_is_waited_for() -> Outcome {
    let kafka = Kafka::start().await?;
    let lanes = [
        Lane::start(&kafka, true).await?,
        Lane::start(&kafka, false).await?,
    ];
    let from = Instant::now();
    kafka.kill()?;
    sleep(Duration::from_secs(2)).await;
    kafka.start_again().await?;
    let trouble = Disruption::between(from, from + Duration::from_secs(60));
    for lane in lanes {
        lane.finish(&kafka, trouble).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_freezes_is_waited_for() -> Outcome {
    let kafka = Kafka::start().await?;
    let lanes = [
        Lane::start(&kafka, true).await?,
        Lane::start(&kafka, false).await?,
    ];
    let from = Instant::now();
    kafka.pause()?;
    sleep(Duration::from_secs(5)).await;
    kafka.resume()?;
    let trouble = Disruption::between(from, from + Duration::from_secs(60));
    for lane in lanes {
        lane.finish(&kafka, trouble).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_can_stop_while_the_broker_is_down() -> Outcome {
    let kafka = Kafka::start().await?;
    let lane = Lane::start(&kafka, false).await?;
    kafka.kill()?;
    let from = Instant::now();
    lane.consumer.terminate()?;
    lane.consumer.wait(SOON).await?;
    let took = from.elapsed();
    // It waits a while for an answer, which can't come: to the last commit, or to
    // leaving where there was nothing to commit.
    println!("stopped after {took:?}");
    assert!(took < Duration::from_secs(25), "{took:?}");
    let lines = [
        "messages that were handled since the previous commit may come again",
        "the consumer could not leave its group: the brokers do not answer",
    ];
    let told = lines.iter().any(|line| lane.consumer.count(line) > 0);
    assert!(told, "{}", lane.consumer.tail());
    // Nothing is lost by it.
    kafka.start_again().await?;
    let lane = Lane {
        consumer: Consumer::start(&lane.manifest)?,
        ..lane
    };
    let trouble = Disruption::between(from - Duration::from_secs(10), Instant::now());
    lane.finish(&kafka, trouble).await
}

/// A consumer that can't begin: how it ended, what it wrote, how long it took.
struct Refused {
    consumer: Consumer,
    recorder: Recorder,
    took: Duration,
}

async fn refused(
    prepare: impl FnOnce(Manifest) -> Manifest,
    bootstrap: &str,
    topic: &str,
) -> Result<Refused, Box<dyn Error>> {
    let recorder = Recorder::start()?;
    let manifest = Manifest::in_order(bootstrap, &topics::unique("test.refused"), topic);
    let start = Instant::now();
    let consumer = Launch::new(&prepare(manifest).handler(&recorder)).start()?;
    let status = consumer.wait(SOON).await?;
    assert_eq!(status.code(), Some(1), "{}", consumer.tail());
    assert_eq!(recorder.count(), 0);
    Ok(Refused {
        consumer,
        recorder,
        took: start.elapsed(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_can_not_be_reached_end_it_after_ten_seconds() -> Outcome {
    let one = refused(|manifest| manifest, "127.0.0.1:9", "any").await?;
    let expected = "failed getting metadata from 127.0.0.1:9, exiting.";
    // Once in the log, once as what the program ended with.
    assert_eq!(one.consumer.count(expected), 2, "{}", one.consumer.tail());
    let error = format!("code=BrokersUnreachable error={expected}");
    assert_eq!(one.consumer.count(&error), 1, "{}", one.consumer.tail());
    assert!(one.took >= Duration::from_secs(9), "{:?}", one.took);
    assert!(one.took < Duration::from_secs(20), "{:?}", one.took);
    assert_eq!(one.recorder.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_ends_it_before_it_consumes() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "exists", 1).await?;
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let both = |manifest: Manifest| manifest.set("/topics", vec![topic.as_str(), "misspeled"]);
    let one = refused(both, bootstrap, &topic).await?;
    let expected =
        "topic 'misspeled' does not exist. maybe it's misspelled or on a different kafka cluster?";
    assert_eq!(one.consumer.count(expected), 2, "{}", one.consumer.tail());
    assert!(one.took < Duration::from_secs(10), "{:?}", one.took);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offset_reset_fail_ends_it_where_the_group_has_no_offset() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "no-offset", 1).await?;
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let fail = |manifest: Manifest| manifest.set("/offsetReset", "Fail");
    let one = refused(fail, bootstrap, &topic).await?;
    assert!(
        one.consumer.count("code=OffsetMissing error=KafkaError: ") == 1,
        "{}",
        one.consumer.tail()
    );
    let terminating = "Unhandled error while trying to process a message, terminating the server";
    assert_eq!(
        one.consumer.count(terminating),
        1,
        "{}",
        one.consumer.tail()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offset_reset_latest_reads_only_what_comes() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "latest", 1).await?;
    Produce::to(&topic).count(5).send(bootstrap).await?;
    let recorder = Recorder::start()?;
    let manifest = Manifest::in_order(bootstrap, &topics::unique("test.latest"), &topic)
        .handler(&recorder)
        .without("offsetReset");
    let consumer = Consumer::start(&manifest)?;
    consumer.wait_until_ready(SOON).await?;
    // One after the other: until the end is looked up, what is produced is before it.
    let mut produced = 5;
    while recorder.count() == 0 && produced < 500 {
        Produce::to(&topic)
            .first_seq(produced)
            .send(bootstrap)
            .await?;
        produced += 1;
        sleep(Duration::from_millis(50)).await;
    }
    let first = recorder
        .deliveries()
        .first()
        .map(|delivery| delivery.position.offset);
    assert!(first.is_some_and(|offset| offset >= 5), "{first:?}");
    assert!(consumer.stop(SOON).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_is_reset() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "gone", 1).await?;
    Produce::to(&topic).count(20).send(bootstrap).await?;
    let recorder = Recorder::start()?;
    let group = topics::unique("test.gone");
    let manifest = Manifest::in_order(bootstrap, &group, &topic).handler(&recorder);
    let consumer = Consumer::start(&manifest)?;
    groups::wait_for_committed(bootstrap, &group, &topic, 20, SOON).await?;
    assert!(consumer.stop(SOON).await?.success());

    // The topic is made anew, so the committed offset lies behind its end.
    topics::delete(bootstrap, &topic).await?;
    penstock_tests::wait::until("the topic to be gone", SOON, async || {
        topics::read_all(bootstrap, &topic).await.is_err()
    })
    .await?;
    topics::create_named(bootstrap, &topic, 1).await?;
    let again = Produce::to(&topic).count(10).send(bootstrap).await?;
    let second = Recorder::start()?;
    let consumer = Consumer::start(&manifest.handler(&second))?;
    consumer
        .wait_until("all to be handled", SOON, async || second.handled() == 10)
        .await?;
    consumer
        .wait_for_metric(
            "penstock_committed_offset",
            &[("kafka_topic", &topic)],
            10.0,
            SOON,
        )
        .await?;
    assert!(consumer.stop(SOON).await?.success());
    Evidence::new(&again, second.deliveries()).check(&[
        Rule::NothingLost,
        Rule::InOrder,
        Rule::DuplicatesExplained,
    ])?;
    Ok(())
}
