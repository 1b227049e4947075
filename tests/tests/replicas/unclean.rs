//! A log that goes back: a leader is elected that lacks messages which were handled.

use std::collections::BTreeSet;
use std::error::Error;

use penstock_tests::kafka::{Cluster, Placed};
use penstock_tests::lane::Mode;
use penstock_tests::produce::{Produce, Produced};
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::wire::Election;
use penstock_tests::{Consumer, groups, topics};

use crate::{Outcome, SOON, cluster};

/// Messages that both replicas have.
const KEPT: u64 = 100;

/// Messages that only the lost leader had.
const LOST: u64 = 50;

/// Messages that came after: fewer than were lost, so that the log is still shorter than
/// it was.
const AFTER: u64 = 30;

/// What is asked here is that nothing hangs and nothing ends: what comes after is handled,
/// at the offsets at which other messages were handled before. How the messages of before
/// are told from those of after is not asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_goes_back_is_followed() -> Outcome {
    let cluster = cluster().await?;
    let mut readers = Vec::new();
    for mode in [Mode::InOrder, Mode::KeyOrdered, Mode::Fast] {
        readers.push(Reader::start(&cluster, mode).await?);
    }
    // The second replica is away while more is written, and the first when it is back.
    cluster.node(2).kill()?;
    for reader in &readers {
        let alone = |one: &Placed| one.in_sync.iter().eq([&1]);
        let topic = &reader.topic;
        cluster.wait_for(topic, "one replica", alone).await?;
        reader.produce(KEPT, LOST).await?;
        let (bootstrap, group) = (cluster.bootstrap(), &reader.group);
        let total = i64::try_from(KEPT + LOST)?;
        groups::wait_for_committed(bootstrap, group, topic, total, SOON).await?;
    }
    cluster.node(1).kill()?;
    cluster.node(2).start_again().await?;
    for reader in &readers {
        cluster.elect(&reader.topic, Election::Unclean).await?;
        let second = |one: &Placed| one.leader == Some(2);
        let topic = &reader.topic;
        cluster
            .wait_for(topic, "the second to lead", second)
            .await?;
        let after = reader.produce(KEPT + LOST, AFTER).await?;
        let first = after[0].position.offset;
        assert_eq!(first, i64::try_from(KEPT)?, "the log went back");
    }
    for reader in readers {
        reader.finish().await?;
    }
    Ok(())
}

/// A consumer of a topic with one partition, whose log may go back.
struct Reader {
    mode: Mode,
    bootstrap: String,
    topic: String,
    group: String,
    recorder: Recorder,
    consumer: Consumer,
}

impl Reader {
    /// Starts it and lets it handle the messages that are kept.
    async fn start(cluster: &Cluster, mode: Mode) -> Result<Self, Box<dyn Error>> {
        let bootstrap = cluster.bootstrap();
        let properties = [
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
        ];
        let topic = topics::create_replicated(bootstrap, "unclean", 1, 2, &properties).await?;
        cluster.place(&topic, &[1, 2]).await?;
        let group = topics::unique("test.unclean");
        let recorder = Recorder::start()?;
        recorder.behave(|_| Reply::ok());
        let manifest = mode
            .manifest(bootstrap, &group, &topic, 4)
            .handler(&recorder)
            .kafka("reconnect.backoff.max.ms", "500");
        let reader = Self {
            mode,
            bootstrap: bootstrap.to_owned(),
            consumer: Consumer::start(&manifest)?,
            topic,
            group,
            recorder,
        };
        reader.produce(0, KEPT).await?;
        let kept = usize::try_from(KEPT)?;
        reader.recorder.wait_for_handled(kept, SOON).await?;
        Ok(reader)
    }

    async fn produce(&self, first: u64, count: u64) -> Result<Vec<Produced>, Box<dyn Error>> {
        let messages = Produce::to(&self.topic).first_seq(first).count(count);
        Ok(messages.send(&self.bootstrap).await?)
    }

    /// Waits until all that came after is handled, and stops it.
    async fn finish(self) -> Outcome {
        let after = || {
            self.recorder.with(|all| {
                let handled = all.iter().filter(|one| one.verdict.is_success());
                let seqs = handled.filter_map(|one| one.json()["seq"].as_u64());
                let after = seqs.filter(|seq| *seq >= KEPT + LOST);
                after.collect::<BTreeSet<_>>().len() as u64
            })
        };
        let all = async || after() == AFTER;
        let what = "all that came after";
        self.consumer.wait_until(what, SOON, all).await?;
        assert_eq!(self.consumer.health("/livez").await?.status, 200);
        println!("{:?}: {} deliveries", self.mode, self.recorder.count());
        let status = self.consumer.stop(SOON).await?;
        assert!(status.success(), "{}", self.consumer.tail());
        Ok(())
    }
}
