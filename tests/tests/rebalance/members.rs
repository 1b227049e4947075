//! Members that come, go, and are killed.

use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::{Assignor, Combination, recipe};
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

/// Longest time for a group to settle under KIP-848. librdkafka before 2.15 may stop for minutes
/// while a group reconciles, which a busy machine makes likelier.
const RECONCILED: Duration = Duration::from_secs(240);

/// Messages that must still be ahead before a change.
const BACKLOG: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_range() -> Outcome {
    all(Assignor::Range).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_roundrobin() -> Outcome {
    all(Assignor::RoundRobin).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_cooperative_sticky() -> Outcome {
    all(Assignor::CooperativeSticky).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_the_consumer_protocol() -> Outcome {
    all(Assignor::Consumer).await
}

/// Runs the combinations with this assignor side by side.
async fn all(assignor: Assignor) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let seed = variable::seed()?;
    let recipe = recipe(seed);
    let mut combinations = Combination::chosen(seed, BATCH, |_| true)?;
    combinations.retain(|one| one.assignor == assignor);
    println!("{assignor:?}: {recipe}, {} groups", combinations.len());
    let mut seeds = StdRng::seed_from_u64(seed);
    let runs = combinations.into_iter().map(|combination| {
        let random = StdRng::seed_from_u64(seeds.random());
        async move {
            let run = match Run::prepare(bootstrap, combination, random).await {
                Ok(run) => run.run().await,
                Err(error) => Err(error),
            };
            run.map_err(|error| format!("{combination}: {error}"))
        }
    });
    let failures: Vec<_> = join_all(runs)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("{recipe}\n{}", failures.join("\n")).into()),
    }
}

/// A group at work.
struct Run {
    random: StdRng,
    bootstrap: String,
    topic: String,
    combination: Combination,
    manifest: Manifest,
    recorder: Recorder,
    produced: Vec<Produced>,
    members: Vec<Consumer>,
    disruptions: Vec<Disruption>,
}

impl Run {
    async fn prepare(
        bootstrap: &str,
        combination: Combination,
        random: StdRng,
    ) -> Result<Self, Box<dyn Error>> {
        let topic = topics::create(bootstrap, "members", PARTITIONS).await?;
        let group = topics::unique("test.members");
        let recorder = combination.lane.recorder()?;
        // What is handled together takes longer, or all would be handled by the next change.
        let longest = match combination.has_batches() && !combination.is_in_order() {
            true => 121,
            false => 31,
        };
        recorder.behave(move |delivery| {
            let delay = Duration::from_millis(delivery.position.scatter() % longest);
            combination
                .behaviour
                .reply(delivery, Reply::ok().after(delay))
        });
        let manifest = combination
            .manifest(bootstrap, &group, &topic, HANDLERS)
            .handler(&recorder)
            .env("PENSTOCK_TEST_LONGEST", longest)
            .kafka("session.timeout.ms", "4000")
            .kafka("heartbeat.interval.ms", "200");
        Ok(Self {
            random,
            bootstrap: bootstrap.to_owned(),
            topic,
            combination,
            manifest: combination.assignor.apply(manifest),
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
                groups::wait_for_members(&self.bootstrap, &group, members, self.limit())
                    .await
                    .map_err(|error| format!("{error}\n{}", self.tails()))?;
                // All may be handled by now; progress needs something left.
                self.refill().await?;
                self.wait_for_progress().await?;
            } else {
                sleep(Duration::from_millis(self.random.random_range(0..600))).await;
            }
            println!(
                "{}: {change} changes in {:.0?}, {} members, {} handled",
                self.combination,
                start.elapsed(),
                self.members.len(),
                self.recorder.handled()
            );
        }
        let total = i64::try_from(self.produced.len())?;
        groups::wait_for_committed(&self.bootstrap, &group, &self.topic, total, self.limit())
            .await?;
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

    /// The longest time for the group to settle, and to go on.
    fn limit(&self) -> Duration {
        match self.combination.assignor {
            Assignor::Consumer => RECONCILED,
            Assignor::Range | Assignor::RoundRobin | Assignor::CooperativeSticky => SOON,
        }
    }

    /// The last lines of each member.
    fn tails(&self) -> String {
        let tails = self.members.iter().map(|member| member.tail());
        tails.collect::<Vec<_>>().join("\nand another:\n")
    }

    async fn wait_for_progress(&self) -> Outcome {
        let before = self.recorder.count();
        // All may be handled by now, though there was a backlog a moment ago.
        wait::value("20 deliveries", self.limit(), async || {
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
            self.combination,
            self.produced.len(),
            deliveries.len(),
            self.disruptions.len()
        );
        let rules = [
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            // Only kills explain any: whoever stops leaves nothing that comes twice.
            Rule::DuplicatesExplained,
            Rule::NeverTwiceAtOnce,
        ];
        let evidence = Evidence::new(&self.produced, deliveries)
            .commits(samples)
            .disruptions(self.disruptions);
        Ok(self.combination.check(evidence, &rules)?)
    }
}
