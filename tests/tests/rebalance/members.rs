//! Members that come, go, and are killed.

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Lane, Mode, Protocol};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics, variable, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::{BATCH, HANDLERS, Outcome, PARTITIONS, SOON, end_well};

/// How often a member comes or goes in one run.
const CHANGES: usize = 14;

/// Most members at a time.
const MEMBERS: usize = 4;

/// Time in which the handler notices that a member was killed. Nobody has its partitions
/// before the session is over, which takes longer.
const NOTICE: Duration = Duration::from_secs(1);

/// Messages that must still be ahead before a change.
const BACKLOG: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_range() -> Outcome {
    let protocols = [Protocol::Http, Protocol::BatchHttp, Protocol::Embedded];
    all("range", &protocols).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_roundrobin() -> Outcome {
    all("roundrobin", &[Protocol::Http, Protocol::Grpc]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_cooperative_sticky() -> Outcome {
    use Protocol::{BatchHttp, Embedded, Grpc, Http};
    all("cooperative-sticky", &[Http, BatchHttp, Grpc, Embedded]).await
}

/// Runs all modes with these protocols side by side.
async fn all(assignor: &str, protocols: &[Protocol]) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let seed = variable::seed()?;
    println!("{assignor}: PENSTOCK_TEST_SEED={seed}");
    let mut seeds = StdRng::seed_from_u64(seed);
    let runs = Lane::all(protocols).into_iter().map(|lane| {
        let random = StdRng::seed_from_u64(seeds.random());
        async move {
            let name = format!("{assignor}, {:?}, {:?}", lane.mode, lane.protocol);
            let run = Run::prepare(name.clone(), bootstrap, assignor, lane, random).await?;
            run.run()
                .await
                .map_err(|error| format!("{name}, seed {seed}: {error}").into())
        }
    });
    try_join_all(runs).await.map(drop)
}

/// A group at work.
struct Run {
    name: String,
    random: StdRng,
    bootstrap: String,
    topic: String,
    lane: Lane,
    manifest: Manifest,
    recorder: Recorder,
    produced: Vec<Produced>,
    members: Vec<Consumer>,
    disruptions: Vec<Disruption>,
}

impl Run {
    async fn prepare(
        name: String,
        bootstrap: &str,
        assignor: &str,
        lane: Lane,
        random: StdRng,
    ) -> Result<Self, Box<dyn Error>> {
        let topic = topics::create(bootstrap, "members", PARTITIONS).await?;
        let group = topics::unique("test.members");
        let recorder = lane.recorder()?;
        // What is handled together takes longer, or all would be handled by the next change.
        let longest = match lane.has_batches() && lane.mode != Mode::InOrder {
            true => 121,
            false => 31,
        };
        recorder.behave(move |delivery| {
            Reply::ok().after(Duration::from_millis(delivery.position.scatter() % longest))
        });
        let manifest = lane
            .manifest(bootstrap, &group, &topic, HANDLERS, BATCH)
            .handler(&recorder)
            .env("PENSTOCK_TEST_LONGEST", longest)
            .kafka("partition.assignment.strategy", assignor)
            .kafka("session.timeout.ms", "4000")
            .kafka("heartbeat.interval.ms", "200");
        Ok(Self {
            name,
            random,
            bootstrap: bootstrap.to_owned(),
            topic,
            lane,
            manifest,
            recorder,
            produced: Vec::new(),
            members: Vec::new(),
            disruptions: Vec::new(),
        })
    }

    async fn run(mut self) -> Outcome {
        self.refill().await?;
        let group = self.manifest.group().to_owned();
        let watch = CommitWatch::start(&self.bootstrap, &group, &self.topic).await?;
        let start = Instant::now();
        for change in 1..=CHANGES {
            self.refill().await?;
            self.change().await?;
            // Every other change meets a group that has not settled.
            if self.random.random_bool(0.5) {
                let members = self.members.len();
                groups::wait_for_members(&self.bootstrap, &group, members, SOON).await?;
                // All may be handled by now; progress needs something left.
                self.refill().await?;
                self.wait_for_progress().await?;
            } else {
                sleep(Duration::from_millis(self.random.random_range(0..600))).await;
            }
            println!(
                "{}: {change} changes in {:.0?}, {} members, {} handled",
                self.name,
                start.elapsed(),
                self.members.len(),
                self.recorder.handled()
            );
        }
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &group, &self.topic, total, SOON).await?;
        while let Some(member) = self.members.pop() {
            end_well(member).await?;
        }
        self.judge(watch.stop().await)
    }

    async fn refill(&mut self) -> Outcome {
        if self.produced.len() - self.recorder.handled() < BACKLOG {
            let more = Produce::to(&self.topic)
                .count(BACKLOG as u64)
                .first_seq(self.produced.len() as u64)
                .partition(|seq| (seq % 6) as i32)
                .send(&self.bootstrap)
                .await?;
            self.produced.extend(more);
        }
        Ok(())
    }

    /// A member comes, goes, or is killed.
    async fn change(&mut self) -> Outcome {
        let members = self.members.len();
        let comes = members < 2 || (members < MEMBERS && self.random.random_bool(0.5));
        if comes {
            let member = Consumer::start(&self.manifest)?;
            // From here on a signal is a request; before, it is the end.
            member.wait_until_it_can_stop(SOON).await?;
            self.members.push(member);
            return Ok(());
        }
        let member = self.members.remove(self.random.random_range(0..members));
        if self.random.random_bool(0.25) {
            let killed = Instant::now();
            member.kill()?;
            member.wait(SOON).await?;
            let noticed = Instant::now() + NOTICE;
            self.disruptions.push(Disruption::between(killed, noticed));
            return Ok(());
        }
        end_well(member).await
    }

    async fn wait_for_progress(&self) -> Outcome {
        let before = self.recorder.count();
        // All may be handled by now, though there was a backlog a moment ago.
        wait::value("20 deliveries", SOON, async || {
            let (count, handled) = (self.recorder.count(), self.recorder.handled());
            match count >= before + 20 || handled >= self.produced.len() {
                true => Ok(()),
                false => Err(format!("{}, {handled} handled", count - before)),
            }
        })
        .await?;
        for member in &self.members {
            if let Some(status) = member.status() {
                return Err(format!("a member ended with {status}:\n{}", member.tail()).into());
            }
        }
        Ok(())
    }

    fn judge(self, samples: Vec<groups::CommitSample>) -> Outcome {
        let deliveries = self.recorder.deliveries();
        println!(
            "{}: {} messages, {} deliveries, {} disruptions",
            self.name,
            self.produced.len(),
            deliveries.len(),
            self.disruptions.len()
        );
        let mut rules = vec![
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            // Only kills explain any: whoever stops leaves nothing that comes twice.
            Rule::DuplicatesExplained,
            Rule::NeverTwiceAtOnce,
            Rule::AttemptsWithin(1),
        ];
        rules.extend(self.lane.mode.order());
        Evidence::new(&self.produced, deliveries)
            .commits(samples)
            .disruptions(self.disruptions)
            .check(&rules)?;
        Ok(())
    }
}
