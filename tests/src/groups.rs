//! Consumer groups seen from outside: members and committed offsets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::Position;
use crate::sync::lock;
use crate::topics::{REQUEST_LIMIT, TopicError, client, failed, partitions};
use crate::wait;
use crate::wire::{Broker, WireError};

/// Pause between two samples of committed offsets.
const SAMPLE_PAUSE: Duration = Duration::from_millis(10);

/// Committed offsets of a group: topic and partition, and the offset of the next
/// message to read. Partitions without a commit are absent.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// The offsets that `group` has committed in `topic`.
///
/// # Errors
/// [`TopicError`] when the broker does not answer.
pub async fn committed(bootstrap: &str, group: &str, topic: &str) -> Result<Offsets, TopicError> {
    let asker = Asker::new(bootstrap, group);
    let topic = topic.to_owned();
    spawn_blocking(move || {
        let (consumer, wanted) = asker.connect(&topic)?;
        asker.ask(&consumer, wanted)
    })
    .await?
}

/// Commits offset 0 in each partition of `topic` for a `group` without members.
///
/// # Errors
/// [`TopicError`] when the broker does not answer, or the group has members.
pub async fn commit_beginning(bootstrap: &str, group: &str, topic: &str) -> Result<(), TopicError> {
    let asker = Asker::new(bootstrap, group);
    let topic = topic.to_owned();
    spawn_blocking(move || {
        let (consumer, mut offsets) = asker.connect(&topic)?;
        let what = || failed(format!("committing for {}", asker.group), &asker.bootstrap);
        offsets.set_all_offsets(Offset::Offset(0)).map_err(what())?;
        consumer.commit(&offsets, CommitMode::Sync).map_err(what())
    })
    .await?
}

/// What `group` has committed in one partition: the offset, and the metadata with it.
///
/// # Errors
/// [`TopicError`] when the broker does not answer.
pub async fn committed_with_metadata(
    bootstrap: &str,
    group: &str,
    topic: &str,
    partition: i32,
) -> Result<Option<(i64, String)>, TopicError> {
    let asker = Asker::new(bootstrap, group);
    let topic = topic.to_owned();
    spawn_blocking(move || {
        let what = || failed(format!("metadata of {}", asker.group), &asker.bootstrap);
        let (consumer, _) = asker.connect(&topic)?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&topic, partition);
        let answer = consumer
            .committed_offsets(wanted, REQUEST_LIMIT)
            .map_err(what())?;
        let element = answer.find_partition(&topic, partition);
        Ok(element.and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }))
    })
    .await?
}

/// Commits an offset and metadata in one partition for a `group` without members.
///
/// # Errors
/// [`TopicError`] when the broker does not answer, or the group has members.
pub async fn commit_with_metadata(
    bootstrap: &str,
    group: &str,
    position: Position,
    metadata: &str,
) -> Result<(), TopicError> {
    let asker = Asker::new(bootstrap, group);
    let metadata = metadata.to_owned();
    spawn_blocking(move || {
        let what = || failed(format!("committing for {}", asker.group), &asker.bootstrap);
        let (topic, partition) = (&position.topic, position.partition);
        let (consumer, _) = asker.connect(topic)?;
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(topic, partition, Offset::Offset(position.offset))
            .map_err(what())?;
        if let Some(mut element) = offsets.find_partition(topic, partition) {
            element.set_metadata(&metadata);
        }
        consumer.commit(&offsets, CommitMode::Sync).map_err(what())
    })
    .await?
}

/// Waits until `group` has committed at least `total` messages of `topic`, counted
/// over all its partitions from offset 0.
///
/// # Errors
/// [`TopicError::TimedOut`] with the offsets last seen.
pub async fn wait_for_committed(
    bootstrap: &str,
    group: &str,
    topic: &str,
    total: i64,
    limit: Duration,
) -> Result<(), TopicError> {
    let asker = Asker::new(bootstrap, group);
    let (asker, consumer, wanted) = {
        let topic = topic.to_owned();
        spawn_blocking(move || {
            let (consumer, wanted) = asker.connect(&topic)?;
            Ok::<_, TopicError>((Arc::new(asker), Arc::new(consumer), wanted))
        })
        .await??
    };
    let what = format!("{total} messages of {topic} committed by {group}");
    wait::value(what, limit, async || {
        let (asker, consumer) = (Arc::clone(&asker), Arc::clone(&consumer));
        let wanted = wanted.clone();
        let offsets = spawn_blocking(move || asker.ask(&consumer, wanted))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        match offsets.values().sum::<i64>() >= total {
            true => Ok(()),
            false => Err(format!("{offsets:?}")),
        }
    })
    .await?;
    Ok(())
}

/// One look at the committed offsets.
#[derive(Clone, Debug)]
pub struct CommitSample {
    /// When the question was sent: a commit made before is in the answer.
    pub asked: Instant,
    /// When the answer was there: what is in it was committed before.
    pub answered: Instant,
    /// The answer.
    pub offsets: Offsets,
}

/// Samples committed offsets in the background, about every 10 ms, until it is
/// stopped or dropped. Samples without an answer (a broker that is down) are left out.
#[derive(Debug)]
pub struct CommitWatch {
    samples: Arc<Mutex<Vec<CommitSample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CommitWatch {
    /// Begins to watch; the first sample is there when this returns.
    ///
    /// # Errors
    /// [`TopicError`] when the broker does not answer.
    pub async fn start(bootstrap: &str, group: &str, topic: &str) -> Result<Self, TopicError> {
        let asker = Asker::new(bootstrap, group);
        let topic = topic.to_owned();
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&samples), Arc::clone(&stop));
        spawn_blocking(move || {
            let (consumer, wanted) = asker.connect(&topic)?;
            lock(&kept).push(asker.sample(&consumer, wanted.clone())?);
            Ok(thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok(sample) = asker.sample(&consumer, wanted.clone()) {
                        lock(&kept).push(sample);
                    }
                    thread::sleep(SAMPLE_PAUSE);
                }
                if let Ok(sample) = asker.sample(&consumer, wanted) {
                    lock(&kept).push(sample);
                }
            }))
        })
        .await?
        .map(|thread| Self {
            samples,
            stop,
            thread: Some(thread),
        })
    }

    /// The samples so far.
    pub fn samples(&self) -> Vec<CommitSample> {
        lock(&self.samples).clone()
    }

    /// Takes a last sample and returns all.
    pub async fn stop(mut self) -> Vec<CommitSample> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can't panic; were it to, the samples until then still count.
            let _ = spawn_blocking(move || thread.join()).await;
        }
        self.samples()
    }
}

impl Drop for CommitWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Id that the broker gave it.
    pub id: String,
    /// Client id that it gave.
    pub client_id: String,
}

/// State and members of a group, of either group protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `PreparingRebalance`, `CompletingRebalance`, `Empty`, `Dead`; with
    /// KIP-848 also `Assigning` and `Reconciling`; or nothing for a group that the
    /// broker does not know.
    pub state: String,
    /// Members.
    pub members: Vec<Member>,
}

/// What the broker knows of `group`.
///
/// # Errors
/// [`TopicError`] when the broker does not answer.
pub async fn describe(bootstrap: &str, group: &str) -> Result<Group, TopicError> {
    let asker = Asker::new(bootstrap, group);
    spawn_blocking(move || {
        let what = failed(format!("describing {}", asker.group), &asker.bootstrap);
        let consumer: BaseConsumer = client(&asker.bootstrap).create().map_err(what)?;
        asker.group(&consumer)
    })
    .await?
}

/// The times of a session of KIP-848, which the broker keeps for each group.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// After how long a silent member is gone.
    pub session: Duration,
    /// How often a member speaks.
    pub heartbeat: Duration,
}

/// Sets the session's times of a group of KIP-848.
///
/// # Errors
/// [`TopicError`] when the broker refuses.
pub async fn limit_session(
    bootstrap: &str,
    group: &str,
    limits: SessionLimits,
) -> Result<(), TopicError> {
    let (broker, group) = (Broker::at(bootstrap), group.to_owned());
    spawn_blocking(move || {
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let (session, heartbeat) = (milliseconds(limits.session), milliseconds(limits.heartbeat));
        let properties = [
            ("consumer.session.timeout.ms", session.as_str()),
            ("consumer.heartbeat.interval.ms", heartbeat.as_str()),
        ];
        Ok(broker.configure_group(&group, &properties)?)
    })
    .await?
}

/// Waits until `group` is stable with exactly `members` members; with 0, until none
/// is left.
///
/// # Errors
/// [`TopicError::TimedOut`] with the group last seen.
pub async fn wait_for_members(
    bootstrap: &str,
    group: &str,
    members: usize,
    limit: Duration,
) -> Result<(), TopicError> {
    let asker = Arc::new(Asker::new(bootstrap, group));
    let consumer: BaseConsumer = client(bootstrap)
        .create()
        .map_err(failed("a client", bootstrap))?;
    let consumer = Arc::new(consumer);
    let what = format!("{members} members in {group}");
    wait::value(what, limit, async || {
        let (asker, consumer) = (Arc::clone(&asker), Arc::clone(&consumer));
        let seen = spawn_blocking(move || asker.group(&consumer))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let settled = members == 0 || seen.state == "Stable";
        match settled && seen.members.len() == members {
            true => Ok(()),
            false => Err(format!("{seen:?}")),
        }
    })
    .await?;
    Ok(())
}

/// Asks about one group without being a member of it.
#[derive(Debug)]
struct Asker {
    bootstrap: String,
    group: String,
}

impl Asker {
    fn new(bootstrap: &str, group: &str) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            group: group.into(),
        }
    }

    /// A client, and the partitions of `topic` to ask about.
    fn connect(&self, topic: &str) -> Result<(BaseConsumer, TopicPartitionList), TopicError> {
        let what = || failed(format!("offsets of {}", self.group), &self.bootstrap);
        let consumer: BaseConsumer = client(&self.bootstrap)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .create()
            .map_err(what())?;
        let mut wanted = TopicPartitionList::new();
        for partition in partitions(&consumer, topic).map_err(what())? {
            wanted.add_partition(topic, partition);
        }
        Ok((consumer, wanted))
    }

    /// Asks until there is an answer: the coordinator of a group moves, and is not
    /// there at once when the broker has just started.
    fn ask(
        &self,
        consumer: &BaseConsumer,
        wanted: TopicPartitionList,
    ) -> Result<Offsets, TopicError> {
        let deadline = Instant::now() + REQUEST_LIMIT;
        loop {
            match self.ask_once(consumer, wanted.clone()) {
                Err(error) if Instant::now() >= deadline => {
                    let what = format!("offsets of {}", self.group);
                    return Err(failed(what, &self.bootstrap)(error));
                }
                Err(_) => thread::sleep(SAMPLE_PAUSE),
                Ok(offsets) => return Ok(offsets),
            }
        }
    }

    fn ask_once(
        &self,
        consumer: &BaseConsumer,
        wanted: TopicPartitionList,
    ) -> Result<Offsets, KafkaError> {
        let mut offsets = Offsets::new();
        let answer = consumer.committed_offsets(wanted, REQUEST_LIMIT)?;
        for element in answer.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert((element.topic().into(), element.partition()), offset);
            }
        }
        Ok(offsets)
    }

    fn sample(
        &self,
        consumer: &BaseConsumer,
        wanted: TopicPartitionList,
    ) -> Result<CommitSample, TopicError> {
        let asked = Instant::now();
        let offsets = self.ask(consumer, wanted)?;
        Ok(CommitSample {
            asked,
            answered: Instant::now(),
            offsets,
        })
    }

    fn group(&self, consumer: &BaseConsumer) -> Result<Group, TopicError> {
        let what = failed(format!("describing {}", self.group), &self.bootstrap);
        let classic = self.classic_group(consumer).map_err(what)?;
        match classic.members.is_empty() {
            true => Ok(self.consumer_group()?.unwrap_or(classic)),
            false => Ok(classic),
        }
    }

    /// The group if it is one of KIP-848.
    fn consumer_group(&self) -> Result<Option<Group>, WireError> {
        let (_, coordinator) = Broker::at(&self.bootstrap).coordinator(&self.group)?;
        let group = Broker::at(&coordinator).consumer_group(&self.group)?;
        Ok(group.map(|group| Group {
            state: group.state,
            members: group
                .members
                .into_iter()
                .map(|(id, client_id)| Member { id, client_id })
                .collect(),
        }))
    }

    fn classic_group(&self, consumer: &BaseConsumer) -> Result<Group, KafkaError> {
        let list = consumer.fetch_group_list(Some(&self.group), REQUEST_LIMIT)?;
        let found = list
            .groups()
            .iter()
            .find(|group| group.name() == self.group);
        Ok(found.map_or_else(Group::default, |group| Group {
            state: group.state().into(),
            members: group
                .members()
                .iter()
                .map(|member| Member {
                    id: member.id().into(),
                    client_id: member.client_id().into(),
                })
                .collect(),
        }))
    }
}
