//! Consumers at work on the cluster, and what is asked of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use penstock_tests::consumer::Launch;
use penstock_tests::groups::{self, CommitWatch};
use penstock_tests::kafka::Cluster;
use penstock_tests::lane::{Lane, Mode, Protocol};
use penstock_tests::load::Load;
use penstock_tests::once::{self, Output};
use penstock_tests::oracle::{Disruption, Evidence, Rule};
use penstock_tests::produce::Produced;
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Manifest, topics};

use crate::{Outcome, SOON};

const PARTITIONS: i32 = 3;

const REPLICAS: i32 = 3;

/// Handlers of a consumer, where there may be several.
const HANDLERS: usize = 4;

/// Messages of a batch, where there are batches.
const BATCH: usize = 8;

/// Messages that are sent at once, up to ten times a second.
const LOAD: u64 = 8;

/// Longest time without progress before a transactional consumer is started again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Messages that are handled between two troubles.
const PROGRESS: usize = 40;

/// What is committed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Messages that were handled.
    Handled,
    /// The same, with the records that their handlers gave, in one transaction.
    Transactional,
}

/// Every mode with both, and every protocol that a handler in another process has.
const RUNS: [(Mode, Protocol, Commit); 6] = [
    (Mode::InOrder, Protocol::Http, Commit::Handled),
    (Mode::KeyOrdered, Protocol::Grpc, Commit::Handled),
    (Mode::Fast, Protocol::BatchHttp, Commit::Handled),
    (Mode::InOrder, Protocol::Grpc, Commit::Transactional),
    (Mode::KeyOrdered, Protocol::Http, Commit::Transactional),
    (Mode::Fast, Protocol::Grpc, Commit::Transactional),
];

/// A consumer at work on a topic to which messages keep coming.
pub struct Run {
    name: String,
    mode: Mode,
    commit: Commit,
    bootstrap: String,
    /// The topic that it reads.
    pub topic: String,
    out: String,
    manifest: Manifest,
    recorder: Recorder,
    consumer: Consumer,
    load: Option<Load>,
    watch: CommitWatch,
    restarts: usize,
}

impl Run {
    /// Starts one of each kind and waits until all are at work.
    pub async fn start_all(cluster: &Cluster) -> Result<Vec<Self>, Box<dyn Error>> {
        let runs = RUNS.map(|(mode, protocol, commit)| {
            Self::start(cluster.bootstrap(), Lane { mode, protocol }, commit)
        });
        let mut runs = try_join_all(runs).await?;
        Self::all_go_on(&mut runs).await?;
        Ok(runs)
    }

    async fn start(bootstrap: &str, lane: Lane, commit: Commit) -> Result<Self, Box<dyn Error>> {
        let topic =
            topics::create_replicated(bootstrap, "replicas", PARTITIONS, REPLICAS, &[]).await?;
        let out = topics::create_replicated(bootstrap, "replicas-out", 1, REPLICAS, &[]).await?;
        let group = topics::unique("test.replicas");
        let recorder = lane.recorder()?;
        let to = out.clone();
        recorder.behave(move |delivery| {
            let reply = match commit {
                Commit::Handled => Reply::ok(),
                Commit::Transactional => once::reply(&to, delivery),
            };
            reply.after(Duration::from_millis(delivery.position.scatter() % 7))
        });
        let manifest = lane
            .manifest(bootstrap, &group, &topic, HANDLERS, BATCH)
            .handler(&recorder)
            .set("/commit", format!("{commit:?}"))
            .kafka("reconnect.backoff.max.ms", "500");
        let manifest = match commit {
            Commit::Handled => manifest,
            Commit::Transactional => manifest.kafka("auto.commit.interval.ms", "50"),
        };
        Ok(Self {
            name: format!("{lane:?}, {commit:?}"),
            mode: lane.mode,
            commit,
            load: Some(Load::start(bootstrap, &topic, LOAD)),
            watch: CommitWatch::start(bootstrap, &group, &topic).await?,
            consumer: start(&manifest)?,
            bootstrap: bootstrap.to_owned(),
            topic,
            out,
            manifest,
            recorder,
            restarts: 0,
        })
    }

    /// Waits until each has handled more messages.
    pub async fn all_go_on(runs: &mut [Self]) -> Outcome {
        let waits = runs.iter_mut().map(Self::goes_on);
        try_join_all(waits).await.map(drop)
    }

    async fn goes_on(&mut self) -> Outcome {
        let wanted = self.recorder.handled() + PROGRESS;
        let mut seen = self.recorder.handled();
        let deadline = Instant::now() + SOON;
        while seen < wanted {
            self.revive().await?;
            let more = self.recorder.wait_for_handled(wanted, PATIENCE).await;
            let handled = self.recorder.handled();
            match more {
                Ok(()) => {}
                Err(error) if Instant::now() > deadline => return Err(self.stuck(error)),
                Err(_) if handled == seen => self.start_again().await?,
                Err(_) => {}
            }
            seen = handled;
        }
        self.revive().await
    }

    fn stuck(&self, error: impl Display) -> Box<dyn Error> {
        format!("{}: {error}\n{}", self.name, self.consumer.tail()).into()
    }

    /// A transactional producer may be fenced, which ends the process; no other may end.
    async fn revive(&mut self) -> Outcome {
        match self.consumer.status() {
            None => Ok(()),
            Some(status) if self.commit == Commit::Handled => Err(self.stuck(status)),
            Some(_) => self.start_again().await,
        }
    }

    /// Starts a transactional consumer again that has ended, or does nothing for long:
    /// librdkafka (2.12) may wait for a group's coordinator until a connection to any
    /// broker changes (rd_kafka_coord_req_fsm), and the runtime ends by that after 90 s.
    /// Others are left alone.
    async fn start_again(&mut self) -> Outcome {
        if self.commit == Commit::Handled {
            return Ok(());
        }
        println!("{} is started again:\n{}", self.name, self.consumer.tail());
        if self.consumer.status().is_none() {
            self.consumer.kill()?;
            self.consumer.wait(SOON).await?;
        }
        self.consumer = start(&self.manifest)?;
        self.restarts += 1;
        Ok(())
    }

    /// Waits until all is committed.
    async fn commits_all(&mut self, total: i64) -> Outcome {
        let deadline = Instant::now() + SOON;
        let mut seen = groups::Offsets::new();
        loop {
            self.revive().await?;
            let (group, topic) = (self.manifest.group(), &self.topic);
            let all =
                groups::wait_for_committed(&self.bootstrap, group, topic, total, PATIENCE).await;
            let committed = groups::committed(&self.bootstrap, group, topic).await?;
            match all {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(self.stuck(error)),
                Err(_) if committed == seen => self.start_again().await?,
                Err(_) => {}
            }
            seen = committed;
        }
    }

    /// Ends the load, lets the consumer handle all, stops it and judges the run.
    pub async fn finish_all(runs: Vec<Self>, kills: &[Disruption]) -> Outcome {
        try_join_all(runs.into_iter().map(|run| run.finish(kills)))
            .await
            .map(drop)
    }

    async fn finish(mut self, kills: &[Disruption]) -> Outcome {
        self.goes_on().await?;
        let name = self.name.clone();
        let load = self.load.take().ok_or("it was finished before")?;
        let produced = load.stop().await?;
        let total = i64::try_from(produced.len())?;
        self.commits_all(total).await?;
        let status = self.consumer.stop(SOON).await?;
        if !status.success() {
            return Err(format!("{name}: {status}\n{}", self.consumer.tail()).into());
        }
        println!(
            "{name}: {} messages, {} deliveries, {} starts anew",
            produced.len(),
            self.recorder.count(),
            self.restarts
        );
        let judged = match self.commit {
            Commit::Handled => {
                let rules = [
                    Rule::NothingLost,
                    Rule::CommitsWithinSettled,
                    Rule::CommitsNeverGoBack,
                    Rule::DuplicatesExplained,
                    Rule::NeverTwiceAtOnce,
                    Rule::AttemptsWithin(1),
                ];
                let rules: Vec<_> = rules.into_iter().chain(self.mode.order()).collect();
                Evidence::new(&produced, self.recorder.deliveries())
                    .commits(self.watch.stop().await)
                    .disruptions(kills.iter().copied())
                    .check(&rules)
                    .map_err(Into::into)
            }
            Commit::Transactional => {
                let (bootstrap, out) = (&self.bootstrap, &self.out);
                judge_records(self.mode, bootstrap, out, &produced).await
            }
        };
        judged.map_err(|error: Box<dyn Error>| format!("{name}: {error}").into())
    }
}

fn start(manifest: &Manifest) -> Result<Consumer, Box<dyn Error>> {
    Ok(Launch::new(manifest).instance("replica-0").start()?)
}

/// Each message has one record, and those of a partition or key are in order.
async fn judge_records(mode: Mode, bootstrap: &str, topic: &str, produced: &[Produced]) -> Outcome {
    topics::wait_for_transactions(bootstrap, topic, SOON).await?;
    let found = once::outputs(bootstrap, topic).await?;
    once::each_once(
        produced,
        found.iter().map(|one| (one.partition, one.offset)),
    )?;
    let mut last: BTreeMap<(i64, &str), i64> = BTreeMap::new();
    for Output {
        partition,
        offset,
        key,
    } in &found
    {
        let lane = match mode {
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
