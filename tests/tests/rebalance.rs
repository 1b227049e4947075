//! Members of one group come and go, under each way of assigning partitions: what
//! moves between them is neither lost nor doubled, and no process ends by it.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Kafka;
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Delivery, Gate, Recorder, Reply, Verdict};
use penstock_tests::{Consumer, Launch, Manifest, Position, topics};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

const PARTITIONS: i32 = 6;

/// How often a member comes or goes in one run.
const CHANGES: usize = 14;

/// Most members at a time.
const MEMBERS: usize = 4;

/// Messages that must still be ahead before a change.
const BACKLOG: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_range() -> Outcome {
    all_modes("range").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_roundrobin() -> Outcome {
    all_modes("roundrobin").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_cooperative_sticky() -> Outcome {
    all_modes("cooperative-sticky").await
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    InOrder,
    KeyOrdered,
    Fast,
}

const MODES: [Mode; 3] = [Mode::InOrder, Mode::KeyOrdered, Mode::Fast];

impl Mode {
    fn manifest(self, bootstrap: &str, group: &str, topic: &str) -> Manifest {
        match self {
            Self::InOrder => Manifest::in_order(bootstrap, group, topic),
            Self::KeyOrdered => Manifest::key_ordered(bootstrap, group, topic, 4),
            Self::Fast => Manifest::fast(bootstrap, group, topic, 4),
        }
    }

    /// What it promises of the order.
    fn order(self) -> Option<Rule> {
        match self {
            Self::InOrder => Some(Rule::InOrder),
            Self::KeyOrdered => Some(Rule::KeyOrder),
            Self::Fast => None,
        }
    }
}

/// Runs all modes side by side.
async fn all_modes(assignor: &str) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let seed = match env::var("PENSTOCK_TEST_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => rand::random(),
    };
    println!("{assignor}: PENSTOCK_TEST_SEED={seed}");
    let mut seeds = StdRng::seed_from_u64(seed);
    let runs = MODES.map(|mode| {
        let random = StdRng::seed_from_u64(seeds.random());
        async move {
            let name = format!("{assignor}, {mode:?}");
            let run = Run::prepare(name.clone(), bootstrap, assignor, mode, random).await?;
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
    mode: Mode,
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
        mode: Mode,
        random: StdRng,
    ) -> Result<Self, Box<dyn Error>> {
        let topic = topics::create(bootstrap, "members", PARTITIONS).await?;
        let group = topics::unique("test.members");
        let recorder = Recorder::start()?;
        recorder
            .behave(|delivery| Reply::ok().after(Duration::from_millis(scatter(delivery) % 31)));
        let manifest = mode
            .manifest(bootstrap, &group, &topic)
            .handler(&recorder)
            .kafka("partition.assignment.strategy", assignor)
            .kafka("session.timeout.ms", "4000")
            .kafka("heartbeat.interval.ms", "200");
        Ok(Self {
            name,
            random,
            bootstrap: bootstrap.to_owned(),
            topic,
            mode,
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
            member
                .wait_for_line("waiting for the handler at", SOON)
                .await?;
            self.members.push(member);
            return Ok(());
        }
        let member = self.members.remove(self.random.random_range(0..members));
        if self.random.random_bool(0.25) {
            member.kill()?;
            member.wait(SOON).await?;
            self.disruptions.push(Disruption::at(Instant::now()));
            return Ok(());
        }
        end_well(member).await
    }

    async fn wait_for_progress(&self) -> Outcome {
        let before = self.recorder.count();
        self.recorder.wait_for(before + 20, SOON).await?;
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
        rules.extend(self.mode.order());
        Evidence::new(&self.produced, deliveries)
            .commits(samples)
            .disruptions(self.disruptions)
            .check(&rules)?;
        Ok(())
    }
}

async fn end_well(member: Consumer) -> Outcome {
    let status = member.stop(SOON).await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("a member ended with {status}:\n{}", member.tail()).into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_between_two_generations_commits_all_that_it_handled() -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "between", PARTITIONS).await?;
    let group = topics::unique("test.between");
    let produced = Produce::to(&topic)
        .count(6000)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    let recorder = Recorder::start()?;
    recorder.behave(|_| Reply::ok().after(Duration::from_millis(5)));
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .handler(&recorder)
        .kafka("partition.assignment.strategy", "cooperative-sticky")
        .kafka("session.timeout.ms", "30000")
        .kafka("heartbeat.interval.ms", "200");
    let other = Consumer::start(&manifest)?;
    groups::wait_for_members(bootstrap, &group, 1, SOON).await?;
    let stopping = Launch::new(&manifest.clone().kafka("debug", "protocol"))
        .log("info,penstock_runtime=debug,librdkafka=debug")
        .start()?;
    stopping.wait_for_line("assigned", SOON).await?;
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    let handled = recorder.handled();
    recorder.wait_for_handled(handled + 20, SOON).await?;

    // A third joins, and with it all must join again. One can't, so the next
    // generation does not begin; and on its connection the commit waits for that.
    other.pause()?;
    let joins = || stopping.count("Sent JoinGroupRequest");
    let before = joins();
    let third = Consumer::start(&manifest)?;
    let joined = async || joins() > before;
    stopping
        .wait_until("it to join again", SOON, joined)
        .await?;
    stopping.terminate()?;
    stopping.wait_for_line("the last commit of", SOON).await?;
    other.resume()?;
    let status = stopping.wait(SOON).await?;
    assert!(status.success(), "{}", stopping.tail());
    groups::wait_for_committed(bootstrap, &group, &topic, 6000, SOON).await?;
    end_well(other).await?;
    end_well(third).await?;
    Evidence::new(&produced, recorder.deliveries())
        .commits(watch.stop().await)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            // Without a disruption: each message was handled exactly once.
            Rule::DuplicatesExplained,
            Rule::NeverTwiceAtOnce,
        ])?;
    Ok(())
}

/// A number that looks random and differs for each message.
fn scatter(delivery: &Delivery) -> u64 {
    let Position {
        partition, offset, ..
    } = delivery.position;
    let place = offset.unsigned_abs() * 64 + u64::from(partition.unsigned_abs());
    place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) >> 40
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_frozen_past_its_session_comes_back_as_a_member() -> Outcome {
    for assignor in ["range", "cooperative-sticky"] {
        for mode in MODES {
            frozen_member(assignor, mode)
                .await
                .map_err(|error| format!("{assignor}, {mode:?}: {error}"))?;
        }
    }
    Ok(())
}

async fn frozen_member(assignor: &str, mode: Mode) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "frozen", 2).await?;
    let group = topics::unique("test.frozen");
    let produced = Produce::to(&topic)
        .count(400)
        .partition(|seq| (seq % 2) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    // Each member has a handler of its own, so that it is known who does what.
    let (first, second) = (Recorder::start()?, Recorder::start()?);
    let gate = Gate::closed();
    let held = gate.clone();
    first.behave(move |_| Reply::ok().once(&held));
    second.behave(|_| Reply::ok().after(Duration::from_millis(5)));
    let manifest = |recorder: &Recorder| {
        mode.manifest(bootstrap, &group, &topic)
            .handler(recorder)
            .short_session()
            .set("/handler/timeout", "1m")
            .kafka("partition.assignment.strategy", assignor)
    };
    let one = Consumer::start(&manifest(&first))?;
    let at_once = if mode == Mode::InOrder { 1 } else { 4 };
    first.wait_for_in_flight(at_once, SOON).await?;

    let frozen = Instant::now();
    one.pause()?;
    let two = Consumer::start(&manifest(&second))?;
    groups::wait_for_committed(bootstrap, &group, &topic, 400, SOON).await?;
    // The verdicts of the frozen one arrive after all was handled by the other.
    gate.open();
    one.resume()?;
    let back = Produce::to(&topic)
        .count(400)
        .first_seq(400)
        .partition(|seq| (seq % 2) as i32);
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    let thawed = Instant::now();
    let before = first.handled();
    let more = back.send(bootstrap).await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 800, SOON).await?;
    assert!(
        first.handled() > before,
        "the one that was frozen does nothing"
    );
    end_well(one).await?;
    end_well(two).await?;

    let late = first.deliveries();
    let late = late.iter().filter(|delivery| delivery.start < frozen);
    assert!(late.clone().count() >= at_once);
    assert!(
        late.clone()
            .all(|delivery| delivery.verdict != Verdict::Open)
    );
    let produced = [produced, more].concat();
    let deliveries = [first.deliveries(), second.deliveries()].concat();
    let mut rules = vec![
        Rule::NothingLost,
        Rule::CommitsWithinSettled,
        Rule::CommitsNeverGoBack,
        Rule::DuplicatesExplained,
    ];
    let from_thaw = deliveries.iter().filter(|delivery| delivery.start > thawed);
    let after: Vec<_> = from_thaw.cloned().collect();
    Evidence::new(&produced, deliveries)
        .commits(watch.stop().await)
        .disruptions([Disruption::between(frozen, thawed)])
        .check(&rules)?;
    // Once it is back all is as ever.
    if let Some(order) = mode.order() {
        rules = vec![order, Rule::DuplicatesExplained, Rule::NeverTwiceAtOnce];
        Evidence::new(&produced, after).check(&rules)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_held_at_a_revocation_does_not_come_again_at_the_next_assignment() -> Outcome
{
    for assignor in ["range", "cooperative-sticky"] {
        held_by_the_client(assignor)
            .await
            .map_err(|error| format!("{assignor}: {error}"))?;
    }
    Ok(())
}

/// One member has all partitions, with messages of each in its client. Another
/// takes some, handles all of theirs, and leaves.
async fn held_by_the_client(assignor: &str) -> Outcome {
    let bootstrap = Kafka::shared().await?.bootstrap();
    let topic = topics::create(bootstrap, "held", PARTITIONS).await?;
    let group = topics::unique("test.held");
    let produced = Produce::to(&topic)
        .count(1200)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    let watch = CommitWatch::start(bootstrap, &group, &topic).await?;
    let recorder = Recorder::start()?;
    let gate = Gate::closed();
    let held = gate.clone();
    recorder.behave(move |_| Reply::ok().once(&held));
    let manifest = Manifest::fast(bootstrap, &group, &topic, 4)
        .handler(&recorder)
        .kafka("partition.assignment.strategy", assignor)
        .kafka("heartbeat.interval.ms", "200");
    let one = Consumer::start(&manifest)?;
    recorder.wait_for_in_flight(4, SOON).await?;
    let two = Consumer::start(&manifest)?;
    let joining = async || {
        let group = groups::describe(bootstrap, &group).await;
        group.is_ok_and(|group| group.members.len() == 2)
    };
    two.wait_until("the other to join", SOON, joining).await?;
    gate.open();
    groups::wait_for_members(bootstrap, &group, 2, SOON).await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1200, SOON).await?;
    end_well(two).await?;
    groups::wait_for_members(bootstrap, &group, 1, SOON).await?;
    let more = Produce::to(&topic)
        .count(60)
        .first_seq(1200)
        .partition(|seq| (seq % 6) as i32)
        .send(bootstrap)
        .await?;
    groups::wait_for_committed(bootstrap, &group, &topic, 1260, SOON).await?;
    end_well(one).await?;
    Evidence::new(&[produced, more].concat(), recorder.deliveries())
        .commits(watch.stop().await)
        .check(&[
            Rule::NothingLost,
            Rule::CommitsWithinSettled,
            Rule::CommitsNeverGoBack,
            Rule::DuplicatesExplained,
        ])?;
    Ok(())
}
