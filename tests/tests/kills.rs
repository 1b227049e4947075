//! kill -9 at random instants: nothing is lost, nothing is committed that was not
//! handled, and what comes twice is explained by a kill.
//!
//! Each lane is a consumer with a topic and a group of its own; all lanes run side
//! by side. PENSTOCK_TEST_LANES says which, see `lane::Combination`. The random numbers follow from a seed, which is printed; the variable
//! PENSTOCK_TEST_SEED sets it. PENSTOCK_TEST_KILLS sets the kills of each lane.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use penstock_tests::groups::{self, CommitWatch, SessionLimits};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Assignor, Behaviour, Combination, Protocol, recipe};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Recorder, Reply, Verdict};
use penstock_tests::topics::Stored;
use penstock_tests::{Consumer, Manifest, Position, topics, variable, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::time::sleep;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 3;

/// Kills of each lane: the lanes make more than 200.
const KILLS: usize = 10;

/// Messages that must still be ahead when a consumer starts.
const BACKLOG: usize = 600;

/// Messages of a batch, where there are batches.
const BATCH: usize = 20;

/// One in so many messages is one that the handler refuses, where a lane has such.
const POISON: u64 = 23;

/// How the group sees a process that comes after one that was killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Membership {
    /// As the same member: it goes on at once.
    Static,
    /// As a new one: the old one must be missed first.
    Dynamic,
}

/// A way to consume, and what else varies from lane to lane.
#[derive(Clone, Copy)]
struct Lane {
    combination: Combination,
    membership: Membership,
    /// Over a Unix socket, where there is a connection.
    is_unix: bool,
    /// With messages that the handler refuses.
    has_poison: bool,
}

impl Lane {
    fn all(seed: u64) -> Result<Vec<Self>, String> {
        let combinations = Combination::chosen(seed, BATCH, |_| true)?;
        let lanes = combinations.into_iter().enumerate();
        let lanes = lanes.map(|(number, combination)| Self {
            combination,
            // With KIP-848 the broker does not let in a static member while one of that
            // name has a session, and librdkafka ends the client by that.
            membership: match number % 2 == 0 && combination.assignor != Assignor::Consumer {
                true => Membership::Static,
                false => Membership::Dynamic,
            },
            is_unix: number % 3 != 0,
            has_poison: number % 4 == 1 && combination.lane.protocol != Protocol::Embedded,
        });
        Ok(lanes.collect())
    }

    fn is_dynamic(self) -> bool {
        self.membership == Membership::Dynamic
    }

    fn recorder(self, dir: &Path) -> io::Result<Recorder> {
        let socket = dir.join("handler.sock");
        let recorder = match (self.combination.lane.protocol, self.is_unix) {
            (Protocol::Embedded, _) => Recorder::start_embedded(dir.join("journal"))?,
            (Protocol::Grpc, true) => Recorder::start_grpc_unix(socket)?,
            (Protocol::Http | Protocol::BatchHttp, true) => Recorder::start_unix(socket)?,
            (_, false) => self.combination.lane.recorder()?,
        };
        if self.combination.is_in_order() {
            recorder.handle_one_by_one();
        }
        Ok(recorder)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = if self.is_unix { "Unix" } else { "TCP" };
        let poison = if self.has_poison {
            ", dead letters"
        } else {
            ""
        };
        let (combination, membership) = (self.combination, self.membership);
        write!(f, "{combination}, {membership:?}, {socket}{poison}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_a_message_or_commits_one_that_was_not_handled() -> Outcome {
    let kafka = Kafka::shared().await?;
    let seed = variable::seed()?;
    let kills = match variable::number("PENSTOCK_TEST_KILLS")? {
        Some(kills) => usize::try_from(kills)?,
        None => KILLS,
    };
    let lanes = Lane::all(seed)?;
    let (recipe, count) = (recipe(seed), lanes.len());
    println!("{recipe}, {kills} kills in each of {count} lanes");
    let mut seeds = StdRng::seed_from_u64(seed);
    let lanes = lanes.into_iter().map(|lane| {
        let random = StdRng::seed_from_u64(seeds.random());
        async move {
            let outcome = match Run::prepare(lane, kafka.bootstrap(), random).await {
                Ok(run) => run.run(kills).await,
                Err(error) => Err(error),
            };
            outcome.map_err(|error| format!("{lane}: {error}"))
        }
    });
    let outcomes = join_all(lanes).await;
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{recipe}\n{}", failures.join("\n"));
    Ok(())
}

/// One lane at work.
struct Run {
    lane: Lane,
    random: StdRng,
    bootstrap: String,
    topic: String,
    dead: String,
    manifest: Manifest,
    recorder: Recorder,
    produced: Vec<Produced>,
    kills: Vec<Disruption>,
    _dir: TempDir,
}

impl Run {
    async fn prepare(
        lane: Lane,
        bootstrap: &str,
        mut random: StdRng,
    ) -> Result<Self, Box<dyn Error>> {
        let topic = topics::create(bootstrap, "kills", PARTITIONS).await?;
        let dead = topics::create(bootstrap, "kills-dead", 1).await?;
        let group = topics::unique("test.kills");
        let dir = TempDir::with_prefix("penstock-kills-")?;
        let recorder = lane.recorder(dir.path())?;
        // Kills are to come before all is handled, and batches are handled fast.
        let combination = lane.combination;
        let longest = match (combination.is_in_order(), combination.has_batches()) {
            (true, _) => 4,
            (false, false) => 20,
            (false, true) => 160,
        };
        let (has_poison, salt) = (lane.has_poison, random.random::<u64>());
        recorder.behave(move |delivery| {
            let delay = Duration::from_millis(scatter(delivery, salt) % longest);
            match has_poison && is_poison(delivery) {
                true => Reply::status(422).after(delay),
                false => combination
                    .behaviour
                    .reply(delivery, Reply::ok().after(delay)),
            }
        });

        let manifest = combination.manifest(bootstrap, &group, &topic, 8);
        let manifest = match lane.membership {
            Membership::Static => manifest.static_member(),
            Membership::Dynamic => manifest.short_session(),
        };
        let manifest = combination.assignor.apply(manifest);
        if lane.is_dynamic() {
            let limits = SessionLimits {
                session: Duration::from_millis(1000),
                heartbeat: Duration::from_millis(250),
            };
            combination
                .assignor
                .limit_session(bootstrap, &group, limits)
                .await?;
        }
        let manifest = match lane.has_poison {
            true => manifest
                .set("/delivery/onFailure", "DeadLetter")
                .set("/delivery/deadLetterTopic", dead.as_str()),
            false => manifest,
        };
        Ok(Self {
            lane,
            random,
            bootstrap: bootstrap.to_owned(),
            topic,
            dead,
            manifest: manifest
                .handler(&recorder)
                .env("PENSTOCK_TEST_LONGEST", longest),
            recorder,
            produced: Vec::new(),
            kills: Vec::new(),
            _dir: dir,
        })
    }

    async fn run(mut self, kills: usize) -> Outcome {
        self.refill().await?;
        let watch = CommitWatch::start(&self.bootstrap, self.manifest.group(), &self.topic).await?;
        let start = Instant::now();
        for kill in 1..=kills {
            self.refill().await?;
            self.start_and_kill().await?;
            if kill % 12 == 0 {
                println!(
                    "{}: {kill} kills in {:.0?}, {} messages handled in {} deliveries",
                    self.lane,
                    start.elapsed(),
                    self.recorder.handled(),
                    self.recorder.count(),
                );
            }
        }
        self.finish().await?;
        self.judge(watch.stop().await).await
    }

    /// Produces until enough lies ahead.
    async fn refill(&mut self) -> Result<(), Box<dyn Error>> {
        let ahead = self.produced.len() - self.settled();
        if ahead < BACKLOG {
            let first = self.produced.len() as u64;
            let more = Produce::to(&self.topic)
                .count(2 * BACKLOG as u64)
                .first_seq(first)
                .send(&self.bootstrap)
                .await?;
            self.produced.extend(more);
        }
        Ok(())
    }

    /// Messages that need no more work, as far as the handler knows.
    fn settled(&self) -> usize {
        match self.lane.has_poison {
            false => self.recorder.handled(),
            true => {
                let deliveries = self.recorder.deliveries();
                let answered = deliveries.iter().filter(|delivery| is_settled(delivery));
                answered
                    .map(|delivery| &delivery.position)
                    .collect::<BTreeSet<_>>()
                    .len()
            }
        }
    }

    /// Starts a consumer and kills it: mostly soon after it has begun to work, and
    /// sometimes while it starts.
    async fn start_and_kill(&mut self) -> Result<(), Box<dyn Error>> {
        let consumer = Consumer::start(&self.manifest)?;
        let before = self.recorder.count();
        if self.random.random_bool(0.1) {
            sleep(Duration::from_millis(self.random.random_range(0..400))).await;
        } else {
            consumer
                .wait_until("a delivery", SOON, async || self.recorder.count() > before)
                .await?;
            // The others commit by the clock, so they need longer to get on.
            let longest = match self.lane.combination.is_in_order() {
                true => 500_000,
                false => 1_500_000,
            };
            let micros = self.random.random_range(0..longest);
            sleep(Duration::from_micros(micros)).await;
        }
        if let Some(status) = consumer.status() {
            return Err(format!("it ended by itself with {status}:\n{}", consumer.tail()).into());
        }
        let killed = Instant::now();
        consumer.kill()?;
        consumer.wait(SOON).await?;
        // Until it notices, the handler goes on with what it was given.
        let idle = async || self.recorder.in_flight() == 0;
        wait::until("the handler to be idle", SOON, idle).await?;
        let disruption = Disruption::between(killed, Instant::now());
        self.kills.push(disruption);
        if self.lane.has_poison {
            self.check_dead_letters().await?;
        }
        Ok(())
    }

    /// Lets a last consumer do what is left, and stop as it should.
    async fn finish(&self) -> Result<(), Box<dyn Error>> {
        let consumer = Consumer::start(&self.manifest)?;
        // All may be committed. From here on a signal is a request; before, it is the end.
        consumer.wait_until_it_can_stop(SOON).await?;
        let total = i64::try_from(self.produced.len())?;
        let group = self.manifest.group();
        groups::wait_for_committed(&self.bootstrap, group, &self.topic, total, SOON)
            .await
            .map_err(|error| format!("{error}; its last lines:\n{}", consumer.tail()))?;
        let status = consumer.stop(SOON).await?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{status} at the end:\n{}", consumer.tail()).into()),
        }
    }

    async fn judge(self, samples: Vec<groups::CommitSample>) -> Outcome {
        let deliveries = self.recorder.deliveries();
        let rules = [
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
            Behaviour::backed_off(),
        ];
        let is_good = |one: &&Produced| !(self.lane.has_poison && one.seq.is_multiple_of(POISON));
        let good: Vec<_> = self.produced.iter().filter(is_good).cloned().collect();

        println!(
            "{}: {} messages, {} deliveries, {} commit samples",
            self.lane,
            self.produced.len(),
            deliveries.len(),
            samples.len()
        );
        if self.lane.has_poison {
            self.check_dead_letters().await?;
        }
        let is_good = |delivery: &&Delivery| !(self.lane.has_poison && is_poison(delivery));
        let good_deliveries = deliveries.iter().filter(is_good).cloned().collect();
        Evidence::new(&good, good_deliveries).check(&[Rule::NothingLost])?;
        let evidence = Evidence::new(&self.produced, deliveries)
            .commits(samples)
            .disruptions(self.kills.iter().copied())
            .settled_by(is_settled);
        Ok(self.lane.combination.check(evidence, &rules)?)
    }

    /// Each poisoned message before the committed offsets is in the dead-letter
    /// topic. Meant for when no consumer runs.
    async fn check_dead_letters(&self) -> Outcome {
        let group = self.manifest.group();
        let committed = groups::committed(&self.bootstrap, group, &self.topic).await?;
        let mut stored = BTreeSet::new();
        for letter in topics::read_all(&self.bootstrap, &self.dead).await? {
            stored.insert(origin(&letter)?);
        }
        let is_passed = |position: &Position| {
            let partition = (position.topic.clone(), position.partition);
            committed
                .get(&partition)
                .is_some_and(|next| *next > position.offset)
        };
        for one in self
            .produced
            .iter()
            .filter(|one| one.seq.is_multiple_of(POISON))
        {
            if is_passed(&one.position) && !stored.contains(&one.position) {
                return Err(format!("{} was passed and is no dead letter", one.position).into());
            }
        }
        let is_poison = |position: &Position| {
            let mut all = self.produced.iter();
            all.any(|one| one.position == *position && one.seq.is_multiple_of(POISON))
        };
        match stored.iter().find(|position| !is_poison(position)) {
            Some(position) => Err(format!("{position} is a dead letter and no poison").into()),
            None => Ok(()),
        }
    }
}

/// Where a dead letter comes from, by its headers.
fn origin(letter: &Stored) -> Result<Position, Box<dyn Error>> {
    let header = |name: &str| {
        let header = letter.headers.iter().find(|(found, _)| found == name);
        let value = header.and_then(|(_, value)| value.as_deref());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    Ok(Position::new(
        header("penstock.failure.topic"),
        header("penstock.failure.partition").parse()?,
        header("penstock.failure.offset").parse()?,
    ))
}

fn is_poison(delivery: &Delivery) -> bool {
    delivery.json()["seq"]
        .as_u64()
        .is_some_and(|seq| seq.is_multiple_of(POISON))
}

/// Success, and refusal too: a dead letter follows it.
fn is_settled(delivery: &Delivery) -> bool {
    delivery.verdict.is_success() || delivery.verdict == Verdict::Answered(422)
}

/// A number that looks random and differs for each delivery.
fn scatter(delivery: &Delivery, salt: u64) -> u64 {
    let place = delivery.position.offset.unsigned_abs() ^ salt;
    place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) >> 40
}
