//! What is handled beyond the committed offset, and attempts, outlive stops, crashes
//! and rebalances: only what was not handled comes again.

#![forbid(unsafe_code)]
// One range is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::{Duration, Instant};

use penstock_runtime::gaps::{Gaps, METADATA_LIMIT};
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Gate, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, Manifest, Position, topics, wait};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// Messages of each partition.
const MESSAGES: i64 = 3000;

/// Offsets of messages that are not handled at first.
const SLOW: [i64; 3] = [17, 170, 1700];

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    produced: Vec<Produced>,
    recorder: Recorder,
}

impl Scene {
    async fn new(partitions: i32) -> Result<Self, Box<dyn Error>> {
        Self::on(Kafka::shared().await?, partitions).await
    }

    async fn on(kafka: &Kafka, partitions: i32) -> Result<Self, Box<dyn Error>> {
        let bootstrap = kafka.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "gaps", partitions).await?;
        let mut scene = Self {
            topic,
            group: topics::unique("test.gaps"),
            produced: Vec::new(),
            recorder: Recorder::start()?,
            bootstrap,
        };
        scene.produce(MESSAGES, partitions).await?;
        Ok(scene)
    }

    /// Produces `count` messages into each partition.
    async fn produce(&mut self, count: i64, partitions: i32) -> Outcome {
        let first = self.produced.len() as u64;
        let all = u64::try_from(count)? * u64::try_from(partitions)?;
        let more = Produce::to(&self.topic)
            .count(all)
            .first_seq(first)
            // No message waits for another, in any mode.
            .key(|_| None)
            .partition(move |seq| (seq % partitions as u64) as i32)
            .send(&self.bootstrap)
            .await?;
        self.produced.extend(more);
        Ok(())
    }

    /// Many handlers; a failed message waits a minute for its next attempt.
    fn fast(&self) -> Manifest {
        Manifest::fast(&self.bootstrap, &self.group, &self.topic, 8)
            .handler(&self.recorder)
            .set("/delivery/maxAttempts", 5)
            .set("/delivery/backoff/initial", "1m")
            .set("/delivery/backoff/max", "1m")
            .static_member()
    }

    /// The slow ones fail at their first attempt.
    fn refuse_slow_ones(&self) {
        self.recorder.behave(|delivery| {
            match is_slow(&delivery.position) && delivery.attempt == 1 {
                true => Reply::status(503),
                false => Reply::ok(),
            }
        });
    }

    async fn wait_for_committed(&self, consumer: &Consumer) -> Outcome {
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, total, SOON)
            .await
            .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
        Ok(())
    }

    /// What is committed for partition 0: the offset and what is known beyond.
    async fn gaps(&self) -> Result<Option<(i64, Option<Gaps>)>, Box<dyn Error>> {
        let (bootstrap, group, topic) = (&self.bootstrap, &self.group, &self.topic);
        let committed = groups::committed_with_metadata(bootstrap, group, topic, 0).await?;
        Ok(match committed {
            Some((offset, text)) => {
                let gaps = Gaps::decode(text.as_bytes(), offset)?;
                Some((offset, gaps.filter(|gaps| !gaps.is_empty())))
            }
            None => None,
        })
    }

    /// Waits until it is committed that all below `horizon` is known of.
    async fn wait_for_horizon(&self, horizon: i64) -> Outcome {
        let what = format!("a horizon of {horizon}");
        wait::value(what, SOON, async || match self.gaps().await {
            Ok(Some((_, Some(gaps)))) if gaps.horizon() == horizon => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await?;
        Ok(())
    }

    /// How often each offset of partition 0 was delivered, if not once.
    fn repeated(&self) -> BTreeMap<i64, usize> {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for delivery in self.recorder.deliveries() {
            if delivery.position.partition == 0 {
                *counts.entry(delivery.position.offset).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count != 1);
        counts
    }

    /// Attempts at one message, as the handler was told.
    fn attempts(&self, offset: i64) -> Vec<u32> {
        let deliveries = self.recorder.deliveries();
        let of_message = |one: &&Delivery| one.position.offset == offset;
        deliveries
            .iter()
            .filter(of_message)
            .map(|one| one.attempt)
            .collect()
    }

    fn evidence(&self) -> Evidence {
        Evidence::new(&self.produced, self.recorder.deliveries())
    }
}

fn is_slow(position: &Position) -> bool {
    SLOW.contains(&position.offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_only_the_stuck_one_comes_again_and_what_was_after_the_last_commit() -> Outcome
{
    let mut scene = Scene::new(1).await?;
    let manifest = scene.fast().kafka("auto.commit.interval.ms", "1500");
    let gate = Gate::closed();
    let held = gate.clone();
    scene
        .recorder
        .behave(move |delivery| match delivery.position.offset == SLOW[0] {
            true => Reply::ok().once(&held),
            false => Reply::ok(),
        });
    let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
    let consumer = Consumer::start(&manifest)?;
    scene.wait_for_horizon(MESSAGES).await?;
    scene.produce(500, 1).await?;
    scene
        .recorder
        .wait_for_handled(scene.produced.len() - 1, SOON)
        .await?;
    consumer.kill()?;
    consumer.wait(SOON).await?;
    let killed = Instant::now();
    let (offset, gaps) = scene.gaps().await?.ok_or("nothing is committed")?;
    let horizon = gaps.ok_or("nothing is known beyond")?.horizon();
    assert_eq!(offset, SLOW[0]);
    assert!(horizon >= MESSAGES, "{horizon}");

    gate.open();
    let consumer = Consumer::start(&manifest)?;
    scene.wait_for_committed(&consumer).await?;
    assert!(consumer.stop(SOON).await?.success());
    let end = i64::try_from(scene.produced.len())?;
    let again = (horizon..end).chain([SLOW[0]]).map(|offset| (offset, 2));
    assert_eq!(scene.repeated(), again.collect());
    scene
        .evidence()
        .commits(watch.stop().await)
        .disruptions([Disruption::at(killed)])
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
        ])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stop_exactly_what_was_not_handled_comes_again() -> Outcome {
    let scene = Scene::new(1).await?;
    // So long that only the commit at the stop can have told.
    let manifest = scene.fast().kafka("auto.commit.interval.ms", "3600000");
    scene.refuse_slow_ones();
    let consumer = Consumer::start(&manifest)?;
    scene
        .recorder
        .wait_for_handled(scene.produced.len() - SLOW.len(), SOON)
        .await?;
    let stopped = Instant::now();
    assert!(consumer.stop(SOON).await?.success(), "{}", consumer.tail());
    let (offset, gaps) = scene.gaps().await?.ok_or("nothing is committed")?;
    let gaps = gaps.ok_or("nothing is known beyond")?;
    assert_eq!((offset, gaps.horizon()), (SLOW[0], MESSAGES));
    assert_eq!(gaps.attempts(), SLOW.map(|offset| (offset, 1)));

    let consumer = Consumer::start(&manifest)?;
    scene
        .recorder
        .wait_for_handled(scene.produced.len(), SOON)
        .await?;
    let labels = [("kafka_topic", scene.topic.as_str())];
    let skipped = (MESSAGES - SLOW[0]) as usize - SLOW.len();
    consumer
        .wait_for_metric(
            "penstock_already_handled_total",
            &labels,
            skipped as f64,
            SOON,
        )
        .await?;
    assert!(consumer.stop(SOON).await?.success());
    assert_eq!(scene.gaps().await?, Some((MESSAGES, None)));
    assert_eq!(scene.repeated(), SLOW.map(|offset| (offset, 2)).into());
    for offset in SLOW {
        assert_eq!(scene.attempts(offset), [1, 2]);
    }
    let stop = Disruption::between(stopped, Instant::now()).keeping_attempts();
    let rules = [
        Rule::NothingLost,
        Rule::DuplicatesExplained,
        Rule::AttemptsWithin(2),
    ];
    scene.evidence().disruptions([stop]).check(&rules)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rebalance_exactly_what_was_not_handled_comes_again() -> Outcome {
    for assignor in ["range", "cooperative-sticky"] {
        let scene = Scene::new(2).await?;
        let manifest = Manifest::fast(&scene.bootstrap, &scene.group, &scene.topic, 8)
            .handler(&scene.recorder)
            .set("/delivery/maxAttempts", 5)
            .set("/delivery/backoff/initial", "1m")
            .set("/delivery/backoff/max", "1m")
            .kafka("partition.assignment.strategy", assignor)
            .kafka("auto.commit.interval.ms", "3600000")
            .kafka("heartbeat.interval.ms", "250");
        scene.refuse_slow_ones();
        let watch = CommitWatch::start(&scene.bootstrap, &scene.group, &scene.topic).await?;
        let first = Consumer::start(&manifest)?;
        let good = scene.produced.len() - 2 * SLOW.len();
        scene.recorder.wait_for_handled(good, SOON).await?;
        let began = Instant::now();
        let second = Consumer::start(&manifest)?;
        // Under the cooperative protocol only one of the two partitions moves.
        let moved = match assignor {
            "range" => 2,
            _ => 1,
        };
        scene
            .recorder
            .wait_for_handled(good + moved * SLOW.len(), SOON)
            .await?;
        let rebalance = Disruption::between(began, Instant::now()).keeping_attempts();
        assert!(first.stop(SOON).await?.success(), "{}", first.tail());
        scene
            .recorder
            .wait_for_handled(scene.produced.len(), SOON)
            .await?;
        let stop = Disruption::between(began, Instant::now()).keeping_attempts();
        assert!(second.stop(SOON).await?.success(), "{}", second.tail());

        let deliveries = scene.recorder.deliveries();
        assert_eq!(deliveries.len(), good + 4 * SLOW.len(), "{assignor}");
        for delivery in deliveries.iter().filter(|one| one.attempt > 1) {
            assert!(is_slow(&delivery.position), "{assignor}: {delivery:?}");
        }
        let total = i64::try_from(scene.produced.len())?;
        let committed = groups::committed(&scene.bootstrap, &scene.group, &scene.topic).await?;
        assert_eq!(committed.values().sum::<i64>(), total, "{assignor}");
        scene
            .evidence()
            .commits(watch.stop().await)
            .disruptions([rebalance, stop])
            .check(&[
                Rule::NothingLost,
                Rule::CommitsWithinSettled,
                Rule::CommitsNeverGoBack,
                Rule::DuplicatesExplained,
                Rule::AttemptsWithin(2),
            ])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_can_not_be_used_is_told_once_and_costs_only_repetition() -> Outcome {
    let known = Gaps::new(5, MESSAGES, [5..6], []).encode(METADATA_LIMIT);
    let other = Gaps::new(4, MESSAGES, [4..6], []).encode(METADATA_LIMIT);
    let damaged = known.replace("penstock/1:B", "penstock/1:C");
    let newer = known.replace("penstock/1", "penstock/4");
    for (metadata, reason) in [
        ("owner=billing", "the metadata was not written by Penstock"),
        (&damaged, "the metadata is damaged: its checksum is wrong"),
        (
            &newer,
            "the version of the metadata is not known to this release",
        ),
        (
            &other,
            "the metadata belongs to offset 4, and 5 is committed",
        ),
    ] {
        let scene = Scene::new(1).await?;
        let five = Position::new(&scene.topic, 0, 5);
        groups::commit_with_metadata(&scene.bootstrap, &scene.group, five, metadata).await?;
        let consumer = Consumer::start(&scene.fast())?;
        scene.wait_for_committed(&consumer).await?;
        assert!(consumer.stop(SOON).await?.success());
        let told = format!(
            "topic=\"{}\" partition=0 offset=5 error={reason}",
            scene.topic
        );
        assert_eq!(consumer.count(&told), 1, "{}", consumer.tail());
        let delivered: BTreeSet<_> = scene
            .recorder
            .deliveries()
            .iter()
            .map(|one| one.position.offset)
            .collect();
        assert_eq!(delivered, (5..MESSAGES).collect(), "{metadata}");
        assert_eq!(scene.gaps().await?, Some((MESSAGES, None)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_take_less_metadata_are_given_less() -> Outcome {
    const LIMIT: usize = 100;
    let kafka = Kafka::builder().property("offset.metadata.max.bytes", LIMIT.to_string());
    let kafka = kafka.start().await?;
    let scene = Scene::on(&kafka, 1).await?;
    // Messages that wait take no handler, so there may be many.
    let manifest = scene.fast().without("commit").set("/mode", "KeyOrdered");
    let failing = |delivery: &Delivery| delivery.position.offset % 7 == 3;
    scene.recorder.behave(
        move |delivery| match failing(delivery) && delivery.attempt == 1 {
            true => Reply::status(503),
            false => Reply::ok(),
        },
    );
    let consumer = Consumer::start(&manifest)?;
    consumer
        .wait_for_line("the brokers refuse commit metadata of this length", SOON)
        .await?;
    let what = "all that fails at first to have failed";
    let all = scene.produced.len();
    consumer
        .wait_until(what, SOON, async || scene.recorder.count() == all)
        .await?;
    let stopped = Instant::now();
    assert!(consumer.stop(SOON).await?.success(), "{}", consumer.tail());
    let (offset, gaps) = scene.gaps().await?.ok_or("nothing is committed")?;
    let gaps = gaps.ok_or("nothing is known beyond")?;
    assert_eq!(offset, 3);
    assert!(gaps.encode(usize::MAX).len() <= LIMIT, "{gaps:?}");
    assert!((4..MESSAGES).contains(&gaps.horizon()), "{gaps:?}");

    scene.recorder.behave(|_| Reply::ok());
    let consumer = Consumer::start(&manifest)?;
    scene.recorder.wait_for_handled(all, SOON).await?;
    assert!(consumer.stop(SOON).await?.success());
    for (offset, count) in scene.repeated() {
        let known = gaps.is_complete(offset) || offset < 3;
        assert!(!known, "{offset} came {count} times");
    }
    let stop = Disruption::between(stopped, Instant::now());
    let rules = [Rule::NothingLost, Rule::DuplicatesExplained];
    scene.evidence().disruptions([stop]).check(&rules)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_reaches_its_limit_across_stops() -> Outcome {
    const POISON: i64 = 5;
    for mode in ["InOrder", "KeyOrdered", "Fast"] {
        let scene = Scene::new(1).await?;
        let dead = topics::create(&scene.bootstrap, "gaps-dead", 1).await?;
        let manifest = match mode {
            "InOrder" => scene
                .fast()
                .without("maxConcurrency")
                .without("commit")
                .set("/mode", mode),
            "KeyOrdered" => scene.fast().without("commit").set("/mode", mode),
            _ => scene.fast(),
        };
        let manifest = manifest
            .set("/delivery/onFailure", "DeadLetter")
            .set("/delivery/deadLetterTopic", dead.as_str());
        scene
            .recorder
            .behave(|delivery| match delivery.position.offset == POISON {
                true => Reply::status(503),
                false => Reply::ok(),
            });
        let mut stops = Vec::new();
        for attempt in 1..5 {
            let consumer = Consumer::start(&manifest)?;
            consumer
                .wait_for_line("the next attempt follows", SOON)
                .await?;
            assert_eq!(scene.attempts(POISON).last(), Some(&attempt));
            let stopping = Instant::now();
            assert!(consumer.stop(SOON).await?.success(), "{}", consumer.tail());
            stops.push(Disruption::between(stopping, Instant::now()).keeping_attempts());
        }
        let consumer = Consumer::start(&manifest)?;
        scene.wait_for_committed(&consumer).await?;
        assert!(consumer.stop(SOON).await?.success());

        assert_eq!(scene.attempts(POISON), [1, 2, 3, 4, 5], "{mode}");
        let letters = topics::read_all(&scene.bootstrap, &dead).await?;
        assert_eq!(letters.len(), 1);
        let attempts = ("penstock.failure.attempts".to_owned(), Some(b"5".to_vec()));
        assert!(
            letters[0].headers.contains(&attempts),
            "{:?}",
            letters[0].headers
        );
        scene
            .evidence()
            .disruptions(stops)
            .settled_by(|one| one.verdict.is_success() || one.verdict == Verdict::Answered(503))
            .check(&[Rule::AttemptsWithin(5)])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ended_the_process_gets_all_its_attempts_again() -> Outcome {
    let scene = Scene::new(1).await?;
    let manifest = scene
        .fast()
        .set("/delivery/maxAttempts", 2)
        .set("/delivery/backoff/initial", "500ms");
    scene
        .recorder
        .behave(|delivery| match delivery.position.offset == SLOW[0] {
            true => Reply::status(503),
            false => Reply::ok(),
        });
    for _ in 0..2 {
        let consumer = Consumer::start(&manifest)?;
        assert_eq!(
            consumer.wait(SOON).await?.code(),
            Some(1),
            "{}",
            consumer.tail()
        );
    }
    assert_eq!(scene.attempts(SLOW[0]), [1, 2, 1, 2]);
    Ok(())
}
