//! What handlers give to produce is there exactly once for who reads committed messages,
//! in every mode and by every protocol, while members are killed, frozen and stopped and
//! the broker restarts.
//!
//! Each lane is a group of two members with topics of its own; all lanes run side by
//! side. The random numbers follow from a seed, which is printed; the variable
//! PENSTOCK_TEST_SEED sets it. PENSTOCK_TEST_DISRUPTIONS sets how often a lane is disturbed.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use futures_util::future::join_all;
use penstock_tests::consumer::Launch;
use penstock_tests::groups::{self, SessionLimits};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Assignor, Lane, Mode, Protocol};
use penstock_tests::once::{self, Output};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics, variable, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 4;
const MEMBERS: usize = 2;

/// Messages between two disturbances.
const MESSAGES: u64 = 400;

/// Brokers that are tried, as they may lose ends of transactions when they restart.
const ATTEMPTS: usize = 10;

/// Disturbances of each lane.
const DISRUPTIONS: usize = 6;

/// One in so many messages is one that the handler refuses: a dead letter.
const POISON: i64 = 17;

/// Handlers of a member, where there may be several.
const HANDLERS: usize = 8;

/// The signal that asks to stop.
const SIGTERM: i32 = 15;

/// Messages of a batch, where there are batches.
const BATCH: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_there_once_and_in_order_through_kills_pauses_and_stops() -> Outcome {
    let kafka = Kafka::shared().await?;
    let seed = variable::seed()?;
    let disruptions = match variable::number("PENSTOCK_TEST_DISRUPTIONS")? {
        Some(count) => usize::try_from(count)?,
        None => DISRUPTIONS,
    };
    println!("PENSTOCK_TEST_SEED={seed}, {disruptions} disturbances of each lane");
    let mut seeds = StdRng::seed_from_u64(seed);
    use Protocol::{BatchHttp, Embedded, Grpc, Http};
    let protocols = [Http, BatchHttp, Grpc, Embedded];
    let lanes = Lane::all(&protocols).into_iter().zip(assignors());
    let lanes = lanes.map(|(lane, assignor)| {
        let random = StdRng::seed_from_u64(seeds.random());
        async move {
            let bootstrap = kafka.bootstrap();
            let outcome = match Run::prepare(lane, assignor, bootstrap, random).await {
                Ok(run) => run.run(disruptions).await,
                Err(error) => Err(error),
            };
            outcome.map_err(|error| format!("{lane:?}, {assignor:?}: {error}"))
        }
    });
    let outcomes = join_all(lanes).await;
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "seed {seed}\n{}", failures.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_there_once_and_in_order_through_restarts_of_the_broker() -> Outcome {
    let seed = variable::seed()?;
    println!("PENSTOCK_TEST_SEED={seed}");
    for attempt in 1..=ATTEMPTS {
        let kafka = Kafka::start().await?;
        let outcome = go_through_restarts(&kafka, StdRng::seed_from_u64(seed)).await;
        // Nobody keeps exactly once then, and the group may wait for ever.
        let Some(loss) = kafka.lost_end_of_transaction() else {
            return outcome.map_err(|error| format!("seed {seed}, {error}").into());
        };
        println!("attempt {attempt}: the broker lost the end of a transaction: {loss}");
    }
    Err(format!("the broker lost ends of transactions {ATTEMPTS} times").into())
}

/// Returns early once the broker has lost the end of a transaction.
async fn go_through_restarts(kafka: &Kafka, mut seeds: StdRng) -> Outcome {
    let mut runs = Vec::new();
    for (lane, assignor) in Lane::all(&[Protocol::Grpc]).into_iter().zip(assignors()) {
        let random = StdRng::seed_from_u64(seeds.random());
        let mut run = Run::prepare(lane, assignor, kafka.bootstrap(), random).await?;
        run.start_all()?;
        runs.push(run);
    }
    for crashes in [false, true] {
        for run in &mut runs {
            let before = run.recorder.count();
            run.produce().await?;
            run.wait_for_more(before).await?;
        }
        match crashes {
            true => kafka.kill()?,
            false => kafka.stop().await?,
        }
        kafka.start_again().await?;
        if kafka.lost_end_of_transaction().is_some() {
            return Ok(());
        }
        for run in &mut runs {
            run.revive()?;
        }
    }
    for run in runs {
        let lane = run.lane;
        let outcome = run.end().await;
        outcome.map_err(|error| format!("{lane:?}: {error}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_can_not_be_produced_ends_the_consumer_and_names_its_message() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "once", 1).await?;
    let recorder = Recorder::start()?;
    recorder.behave(|_| Reply::produce("no-such-topic", "k", &json!(1)));
    let group = topics::unique("test.once");
    let manifest = Manifest::in_order(bootstrap, &group, &topic)
        .set("/commit", "Transactional")
        .handler(&recorder);
    Produce::to(&topic).count(1).send(bootstrap).await?;
    let consumer = Consumer::start(&manifest)?;
    let status = consumer.wait(SOON).await?;
    assert!(!status.success());
    let said = consumer.tail().to_string();
    let expected = format!(
        "topic {topic} partition 0 offset 0: a record from its handler can't be produced to topic 'no-such-topic'"
    );
    assert!(said.contains(&expected), "{said}");
    let committed = groups::committed(bootstrap, &group, &topic).await?;
    assert!(
        committed.values().all(|offset| *offset <= 0),
        "{committed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn records_without_transactions_are_a_failure_and_not_lost_in_silence() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "once", 1).await?;
    let recorder = Recorder::start_grpc()?;
    let out = topic.clone();
    recorder.behave(move |_| Reply::produce(&out, "k", &json!(1)));
    let manifest = Manifest::in_order(bootstrap, &topics::unique("test.once"), &topic);
    Produce::to(&topic).count(1).send(bootstrap).await?;
    let consumer = Consumer::start(&manifest.handler(&recorder))?;
    let status = consumer.wait(SOON).await?;
    assert!(!status.success());
    let said = consumer.tail().to_string();
    assert!(said.contains("which needs commit: Transactional"), "{said}");
    Ok(())
}

/// The assignors of lanes that follow each other: not always the same with a mode.
fn assignors() -> impl Iterator<Item = Assignor> {
    let rounds = (0..).map(|first| Assignor::ALL.into_iter().cycle().skip(first).take(4));
    rounds.flatten()
}

/// A lane at work.
struct Run {
    lane: Lane,
    random: StdRng,
    bootstrap: String,
    topic: String,
    out: String,
    dead: String,
    manifest: Manifest,
    recorder: Recorder,
    produced: Vec<Produced>,
    members: Vec<Consumer>,
    restarts: usize,
    _dir: TempDir,
}

impl Run {
    async fn prepare(
        lane: Lane,
        assignor: Assignor,
        bootstrap: &str,
        random: StdRng,
    ) -> Result<Self, Box<dyn Error>> {
        let topic = topics::create(bootstrap, "once", PARTITIONS).await?;
        let out = topics::create(bootstrap, "once-out", 1).await?;
        let dead = topics::create(bootstrap, "once-dead", 1).await?;
        let group = topics::unique("test.once");
        let dir = TempDir::with_prefix("penstock-once-")?;
        let socket = dir.path().join("handler.sock");
        let recorder = match lane.protocol {
            Protocol::Http | Protocol::BatchHttp => Recorder::start_unix(socket)?,
            Protocol::Grpc => Recorder::start_grpc_unix(socket)?,
            Protocol::Embedded => Recorder::start_embedded(dir.path().join("journal"))?,
        };
        let to = out.clone();
        recorder.behave(move |delivery| {
            let offset = delivery.position.offset;
            if offset % POISON == POISON - 1 {
                return Reply::status(422);
            }
            let wait = Duration::from_millis((offset % 7) as u64);
            once::reply(&to, delivery).after(wait)
        });
        let limits = SessionLimits {
            session: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(250),
        };
        assignor.limit_session(bootstrap, &group, limits).await?;
        let manifest = lane
            .manifest(bootstrap, &group, &topic, HANDLERS, BATCH)
            .set("/commit", "Transactional")
            .set("/delivery/onFailure", "DeadLetter")
            .set("/delivery/deadLetterTopic", dead.as_str())
            .short_session()
            .kafka("auto.commit.interval.ms", "50")
            .handler(&recorder)
            .env("PENSTOCK_TEST_PRODUCE", &out)
            .env("PENSTOCK_TEST_POISON", POISON)
            .env("PENSTOCK_TEST_LONGEST", 7);
        Ok(Self {
            lane,
            random,
            bootstrap: bootstrap.to_owned(),
            topic,
            out,
            dead,
            manifest: assignor.apply(manifest),
            recorder,
            produced: Vec::new(),
            members: Vec::new(),
            restarts: 0,
            _dir: dir,
        })
    }

    async fn run(mut self, disruptions: usize) -> Outcome {
        self.start_all()?;
        for _ in 0..disruptions {
            let before = self.recorder.count();
            self.produce().await?;
            self.disturb(before).await?;
        }
        self.end().await
    }

    /// Some more messages without a disturbance; then all is looked at.
    async fn end(mut self) -> Outcome {
        self.produce().await?;
        self.finish().await?;
        self.judge().await
    }

    fn start_all(&mut self) -> Outcome {
        for number in 0..MEMBERS {
            let member = self.start(number)?;
            self.members.push(member);
        }
        Ok(())
    }

    fn start(&self, number: usize) -> Result<Consumer, Box<dyn Error>> {
        let launch = Launch::new(&self.manifest).instance(&format!("member-{number}"));
        Ok(launch.start()?)
    }

    async fn produce(&mut self) -> Outcome {
        let first = self.produced.len() as u64;
        let more = Produce::to(&self.topic).count(MESSAGES).first_seq(first);
        self.produced.extend(more.send(&self.bootstrap).await?);
        Ok(())
    }

    async fn wait_for_more(&self, before: usize) -> Outcome {
        let what = format!("a delivery beyond the first {before}");
        let more = wait::until(&what, SOON, async || self.recorder.count() > before).await;
        more.map_err(|error| format!("{error}\n{}", self.tails()).into())
    }

    /// What the members said last.
    fn tails(&self) -> String {
        let tails = self.members.iter().map(|member| member.tail().to_string());
        tails.collect::<Vec<_>>().join("\n--\n")
    }

    /// Kills, freezes or stops a member once messages beyond those `before` are handled.
    async fn disturb(&mut self, before: usize) -> Outcome {
        self.wait_for_more(before).await?;
        sleep(Duration::from_millis(self.random.random_range(0..400))).await;
        let number = self.random.random_range(0..MEMBERS);
        let member = &self.members[number];
        match self.random.random_range(0..3) {
            0 => {
                member.kill()?;
                member.wait(SOON).await?;
            }
            1 => {
                // Past the session's time: the group goes on without it.
                member.pause()?;
                sleep(Duration::from_millis(self.random.random_range(1200..2500))).await;
                member.resume()?;
            }
            _ => {
                let status = member.stop(SOON).await?;
                // One that had only been started may not have heard of signals yet.
                let had_begun = status.signal() != Some(SIGTERM);
                if had_begun && !status.success() {
                    return Err(format!("{status} at a stop:\n{}", member.tail()).into());
                }
            }
        }
        self.revive()
    }

    /// Starts again whoever has ended: by a kill, a stop, or because it was fenced.
    fn revive(&mut self) -> Outcome {
        for number in 0..MEMBERS {
            if self.members[number].status().is_some() {
                self.restarts += 1;
                self.members[number] = self.start(number)?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Outcome {
        let total = i64::try_from(self.produced.len())?;
        let group = self.manifest.group().to_owned();
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            // One that was frozen may find only now that it is fenced.
            self.revive()?;
            let step = Duration::from_secs(1);
            let committed =
                groups::wait_for_committed(&self.bootstrap, &group, &self.topic, total, step).await;
            match committed {
                Ok(_) => break,
                Err(error) if tokio::time::Instant::now() > deadline => {
                    return Err(format!("{error}\n{}", self.tails()).into());
                }
                Err(_) => {}
            }
        }
        // One may have found only now that it was fenced, and ended by itself.
        for member in self.members.iter().filter(|it| it.status().is_none()) {
            let status = member.stop(SOON).await?;
            if !status.success() {
                return Err(format!("{status} at the end:\n{}", member.tail()).into());
            }
        }
        Ok(())
    }

    async fn judge(&self) -> Outcome {
        let is_poison = |one: &&Produced| one.position.offset % POISON == POISON - 1;
        let (poison, good): (Vec<_>, Vec<_>) = self.produced.iter().partition(is_poison);
        for topic in [&self.out, &self.dead] {
            topics::wait_for_transactions(&self.bootstrap, topic, SOON).await?;
        }
        let found = once::outputs(&self.bootstrap, &self.out).await?;
        once::each_once(good, found.iter().map(|one| (one.partition, one.offset)))?;
        let letters = once::origins(&self.bootstrap, &self.dead).await?;
        let dead = letters.len();
        once::each_once(poison, letters)?;
        println!(
            "{:?}: {} messages, {} deliveries, {} records and {} dead letters, {} starts anew",
            self.lane,
            self.produced.len(),
            self.recorder.count(),
            found.len(),
            dead,
            self.restarts,
        );
        self.in_order(&found)
    }

    fn in_order(&self, found: &[Output]) -> Outcome {
        let mut last: BTreeMap<(i64, &str), i64> = BTreeMap::new();
        for Output {
            partition,
            offset,
            key,
        } in found
        {
            let lane = match self.lane.mode {
                Mode::InOrder => (*partition, ""),
                Mode::KeyOrdered => (*partition, key.as_str()),
                Mode::Fast => return Ok(()),
            };
            if let Some(before) = last.insert(lane, *offset)
                && before >= *offset
            {
                return Err(format!("{partition}@{offset} is behind {partition}@{before}").into());
            }
        }
        Ok(())
    }
}
