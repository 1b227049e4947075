//! Short scripts, played on the simulated client and on the real one, which must observe
//! the same.
//!
//! The engine sees Kafka through one seam, so one script drives either client. What it
//! observes is kept by member and partition: between those, real threads decide the order.

mod member;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::names::TopicName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::scenario::{GROUP, Protocol, TOPIC};
use crate::kafka::simulated::{
    GroupProtocol, Kafka, KafkaSettings, MemberSettings, Produce, TopicKind,
};
use crate::kafka::{Client, CommitEntry, StartOffset, Target, TopicPartition, connect};
use member::Member;

/// The longest time for one step.
const LIMIT: Duration = Duration::from_secs(45);

/// The longest wait before members are served again.
const SERVE_INTERVAL: Duration = Duration::from_millis(20);

/// The session's time-out, and the time for a rebalance.
const SESSION: Duration = Duration::from_secs(6);

/// One step of a script. Members are named by numbers from 0, in the order of their joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another member joins the group.
    Join,
    /// The member answers no rebalance from now on, but polls.
    FallSilent(usize),
    /// The member commits an offset of a partition.
    Commit(usize, i32, i64),
    /// The member pauses a partition.
    Pause(usize, i32),
    /// The member resumes a partition.
    Resume(usize, i32),
    /// The member seeks to an offset of a partition.
    Seek(usize, i32, i64),
    /// Messages are written to a partition, so many.
    Produce(i32, u32),
    /// A transaction of so many messages is aborted in a partition.
    Abort(i32, u32),
    /// Messages before an offset are deleted.
    DeleteBefore(i32, i64),
    /// The topic has so many partitions from now on.
    AddPartitions(i32),
    /// Members are served until one has so many partitions.
    UntilAssigned(usize, usize),
    /// Members are served until one was told of a revocation.
    UntilRevoked(usize),
    /// Members are served until one has read the message at an offset, or behind it.
    UntilRead(usize, i32, i64),
    /// Members are served until one has read the end of a partition, which is this offset.
    UntilEnd(usize, i32, i64),
    /// Members are served until a partition of one is refused.
    UntilRefused(usize, i32),
    /// Members are served until so many commits of one were answered.
    UntilAnswered(usize, usize),
}

/// What a script is played on.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// The protocol of the group.
    pub protocol: Protocol,
    /// Partitions of the topic at the beginning.
    pub partitions: i32,
    /// What happens.
    pub steps: &'static [Step],
}

/// What each member observed: of its group, of each of its partitions, and of its commits.
pub type Observed = BTreeMap<String, Vec<String>>;

/// A step that did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    step: Step,
    reason: String,
    observed: Observed,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {:#?}", self.step, self.reason, self.observed)
    }
}

impl std::error::Error for Stuck {}

/// Whoever writes to the topic, and changes it.
pub trait Brokers {
    /// Does what a step says that is none of a member's.
    ///
    /// # Errors
    /// Why it can't be done.
    fn change(&self, step: Step) -> impl Future<Output = Result<(), String>>;
}

/// Plays a script on the simulated client.
///
/// # Errors
/// The first step that did not come about.
///
/// # Panics
/// If no runtime can be built.
pub fn play_simulated(script: Script, seed: u64) -> Result<Observed, Stuck> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async {
        let kafka = Kafka::new(seed, KafkaSettings::default());
        kafka.create_topic(TOPIC, script.partitions, TopicKind::default());
        let joining = kafka.clone();
        let join = move |wake| {
            let settings = MemberSettings {
                protocol: match script.protocol {
                    Protocol::Eager => GroupProtocol::Eager,
                    Protocol::Cooperative => GroupProtocol::Cooperative,
                    Protocol::Consumer => GroupProtocol::Consumer,
                },
                topics: vec![TOPIC.to_owned()],
                session_timeout: SESSION,
                max_poll_interval: SESSION,
                auto_store: false,
                ..MemberSettings::default()
            };
            std::future::ready(Ok(joining.member(GROUP, settings, wake)))
        };
        play(script, TOPIC, &Simulated(kafka), join).await
    })
}

/// Plays a script on the real client.
///
/// # Errors
/// The first step that did not come about.
pub async fn play_real(
    script: Script,
    bootstrap: &str,
    topic: &str,
    group: &str,
    brokers: &impl Brokers,
) -> Result<Observed, Stuck> {
    let session = SESSION.as_millis().to_string();
    let mut config = BTreeMap::from([
        ("bootstrap.servers", bootstrap),
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("isolation.level", "read_committed"),
        ("topic.metadata.refresh.interval.ms", "500"),
        ("max.poll.interval.ms", &session),
    ]);
    match script.protocol {
        Protocol::Consumer => drop(config.insert("group.protocol", "consumer")),
        Protocol::Eager | Protocol::Cooperative => {
            let assignor = match script.protocol {
                Protocol::Cooperative => "cooperative-sticky",
                _ => "range",
            };
            config.insert("partition.assignment.strategy", assignor);
            config.insert("session.timeout.ms", &session);
            config.insert("heartbeat.interval.ms", "500");
        }
    }
    let config = config.into_iter();
    let config: BTreeMap<_, _> = config
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let topics = TopicName::parse(topic).map(|name| vec![name]);
    let join = |wake| {
        let (config, topics) = (&config, topics.as_deref());
        async move {
            let target = Target {
                config,
                topics: topics.map_err(|error| error.to_string())?,
                dead_letters: None,
                oauth_token: None,
                reports_ends: true,
                stores: true,
            };
            connect(target, wake)
                .await
                .map_err(|error| error.to_string())
        }
    };
    play(script, topic, brokers, join).await
}

/// The simulated cluster, changed directly.
struct Simulated(Kafka);

impl Brokers for Simulated {
    async fn change(&self, step: Step) -> Result<(), String> {
        let kafka = &self.0;
        match step {
            Step::Produce(partition, count) => {
                for _ in 0..count {
                    kafka.produce(TOPIC, partition, Produce::default());
                }
            }
            Step::Abort(partition, count) => {
                kafka.produce_aborted(TOPIC, partition, count as usize);
            }
            Step::DeleteBefore(partition, offset) => {
                kafka.delete_records(TOPIC, partition, offset);
            }
            Step::AddPartitions(to) => kafka.add_partitions(TOPIC, to),
            other => return Err(format!("{other:?} is a member's")),
        }
        Ok(())
    }
}

async fn play<C: Client, J: Future<Output = Result<Arc<C>, String>>>(
    script: Script,
    topic: &str,
    brokers: &impl Brokers,
    join: impl Fn(Arc<Notify>) -> J,
) -> Result<Observed, Stuck> {
    let wake = Arc::new(Notify::new());
    let mut members: Vec<Member<C>> = Vec::new();
    let mut failed = None;
    for step in script.steps {
        let done = match *step {
            Step::Join => match join(Arc::clone(&wake)).await {
                Ok(client) => {
                    members.push(Member::new(client, topic, &wake));
                    Ok(())
                }
                Err(reason) => Err(reason),
            },
            Step::Produce(..)
            | Step::Abort(..)
            | Step::DeleteBefore(..)
            | Step::AddPartitions(_) => brokers.change(*step).await,
            step => match step.is_command() {
                true => command(&mut members, step),
                false => until(&mut members, step, &wake).await,
            },
        };
        if let Err(reason) = done {
            failed = Some((*step, reason));
            break;
        }
    }
    let mut observed = Observed::new();
    for (number, member) in members.iter().enumerate() {
        member.tell(number, &mut observed);
    }
    for member in members {
        member.leave().await;
    }
    match failed {
        Some((step, reason)) => Err(Stuck {
            step,
            reason,
            observed,
        }),
        None => Ok(observed),
    }
}

impl Step {
    /// Returns `true` if the step is done at once.
    fn is_command(self) -> bool {
        matches!(
            self,
            Self::FallSilent(_)
                | Self::Commit(..)
                | Self::Pause(..)
                | Self::Resume(..)
                | Self::Seek(..)
        )
    }

    fn member(self) -> usize {
        match self {
            Self::FallSilent(member)
            | Self::Commit(member, ..)
            | Self::Pause(member, _)
            | Self::Resume(member, _)
            | Self::Seek(member, ..)
            | Self::UntilAssigned(member, _)
            | Self::UntilRevoked(member)
            | Self::UntilRead(member, ..)
            | Self::UntilEnd(member, ..)
            | Self::UntilRefused(member, _)
            | Self::UntilAnswered(member, _) => member,
            Self::Join
            | Self::Produce(..)
            | Self::Abort(..)
            | Self::DeleteBefore(..)
            | Self::AddPartitions(_) => usize::MAX,
        }
    }
}

fn command<C: Client>(members: &mut [Member<C>], step: Step) -> Result<(), String> {
    let member = members.get_mut(step.member());
    let member = member.ok_or("there is no such member")?;
    let name = |partition| TopicPartition {
        topic: member.topic.clone(),
        partition,
    };
    match step {
        Step::FallSilent(_) => {
            member.is_silent = true;
            Ok(())
        }
        Step::Commit(_, partition, offset) => {
            let entry = CommitEntry {
                topic: &member.topic,
                partition,
                offset,
                leader_epoch: None,
                metadata: "",
            };
            let sent = member.client.commit(entry);
            sent.map_err(|code| code.to_string())
        }
        Step::Pause(_, partition) => member.client.pause(&name(partition)),
        Step::Resume(_, partition) => member.client.resume(&name(partition)),
        Step::Seek(_, partition, offset) => member.client.seek(&StartOffset {
            partition: name(partition),
            offset: Some(offset),
            leader_epoch: None,
        }),
        _ => Err("it is no command".into()),
    }
}

async fn until<C: Client>(
    members: &mut [Member<C>],
    step: Step,
    wake: &Notify,
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        for member in members.iter_mut() {
            member.serve().await?;
        }
        let member = members.get(step.member());
        if member.ok_or("there is no such member")?.has_come(step) {
            return Ok(());
        }
        if began.elapsed() > LIMIT {
            return Err(format!("not within {LIMIT:?}"));
        }
        // Over by time where nothing is announced.
        let _ = tokio::time::timeout(SERVE_INTERVAL, wake.notified()).await;
    }
}
