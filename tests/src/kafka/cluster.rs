//! Three brokers, each of which is a controller too, and what can be done to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::spawn_blocking;

use super::config::{Listeners, Node};
use super::{Builder, Kafka, KafkaError, PORT_ATTEMPTS};
use crate::sync::lock;
use crate::topics::{REQUEST_LIMIT, TopicError, client, failed};
use crate::wait;
use crate::wire::{Broker, Election, WireError};

/// The number of brokers. One may be missing without harm.
const BROKERS: usize = 3;

/// The maximum time for replicas to be in sync, or for a leader to move.
const LIMIT: Duration = Duration::from_secs(60);

/// The topics that Kafka keeps for itself and that consumers depend on.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// A partition as a broker's metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its number.
    pub partition: i32,
    /// The broker that leads it; nothing while there is none.
    pub leader: Option<i32>,
    /// The brokers that shall have it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub in_sync: BTreeSet<i32>,
}

/// A cluster of three brokers, with ids from 1 to 3. Internal topics have three replicas,
/// of which two must be in sync.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Kafka>,
    bootstrap: String,
}

impl Cluster {
    /// Starts three brokers and waits until they answer.
    ///
    /// # Errors
    /// [`KafkaError`] says which step failed.
    pub async fn start() -> Result<Self, KafkaError> {
        let mut attempt = 1;
        loop {
            match Self::start_once().await {
                Err(KafkaError::Ended { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("Address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once() -> Result<Self, KafkaError> {
        let mut listeners = Vec::new();
        for _ in 0..BROKERS {
            let chosen = Listeners::choose("127.0.0.1".into(), false, false);
            listeners.push(chosen.map_err(KafkaError::io("a free port"))?);
        }
        let nodes = Node::cluster(&listeners).into_iter().zip(listeners);
        let formatted = nodes.map(|place| {
            let builder = Builder {
                place: Some(place),
                ..Builder::default()
            };
            builder.java_option("-Xmx256m").format()
        });
        let nodes = try_join_all(formatted).await?;
        for node in &nodes {
            node.start_process()?;
        }
        try_join_all(nodes.iter().map(Kafka::wait_until_ready)).await?;
        let addresses = nodes.iter().map(|node| node.bootstrap().to_owned());
        Ok(Self {
            bootstrap: addresses.collect::<Vec<_>>().join(","),
            nodes,
        })
    }

    /// The addresses of all brokers, for clients.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The ids of all brokers.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        (1..).take(self.nodes.len())
    }

    /// The broker with this id, to stop, to kill and to start again.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, id: i32) -> &Kafka {
        let index = usize::try_from(id - 1).unwrap_or(usize::MAX);
        &self.nodes[index]
    }

    /// Starts brokers that are down, and waits until the internal topics are whole.
    ///
    /// # Errors
    /// [`KafkaError`] when one does not start.
    pub async fn restore(&self) -> Result<(), ClusterError> {
        for node in &self.nodes {
            if !node.is_running() {
                node.start_process()?;
            }
        }
        try_join_all(self.nodes.iter().map(Kafka::wait_until_ready)).await?;
        for topic in INTERNAL {
            if !self.placed(topic).await?.is_empty() {
                self.wait_for_replicas(topic).await?;
            }
        }
        Ok(())
    }

    /// Returns the partitions of `topic`; none where there is no such topic.
    ///
    /// # Errors
    /// [`TopicError`] when no broker answers.
    pub async fn placed(&self, topic: &str) -> Result<Vec<Placed>, TopicError> {
        let (bootstrap, topic) = (self.running_bootstrap(), topic.to_owned());
        spawn_blocking(move || placed(&bootstrap, &topic)).await?
    }

    /// Returns the broker that leads a partition of `topic`.
    ///
    /// # Errors
    /// [`TopicError`] when it has no leader for long.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32, TopicError> {
        let what = format!("a leader of {topic}/{partition}");
        let leader = wait::value(what, LIMIT, async || {
            let all = self
                .placed(topic)
                .await
                .map_err(|error| error.to_string())?;
            let one = all.iter().find(|placed| placed.partition == partition);
            let leader = one.and_then(|placed| placed.leader);
            leader.ok_or_else(|| format!("{one:?}"))
        });
        Ok(leader.await?)
    }

    /// Returns the broker that coordinates `group`.
    ///
    /// # Errors
    /// [`TopicError`] when there is none for long.
    pub async fn coordinator(&self, group: &str) -> Result<i32, TopicError> {
        let broker = Broker::at(&self.running_bootstrap());
        let (id, _) = ask("a coordinator", group, move |group| {
            broker.coordinator(group)
        })
        .await?;
        Ok(id)
    }

    /// Places all partitions of `topic` on these brokers and has the first of them lead.
    ///
    /// # Errors
    /// [`TopicError`] when the controller refuses, or it takes too long.
    pub async fn place(&self, topic: &str, replicas: &[i32]) -> Result<(), TopicError> {
        let partitions = self.partitions(topic).await?;
        let broker = Broker::at(&self.running_bootstrap());
        let wanted = replicas.to_vec();
        ask("replicas to be moved", topic, move |topic| {
            broker.reassign(topic, &partitions, &wanted)
        })
        .await?;
        self.wait_for(topic, "its replicas", |placed| {
            placed.replicas == replicas && placed.in_sync.len() == replicas.len()
        })
        .await?;
        self.elect(topic, Election::Preferred).await?;
        self.wait_for(topic, "its leaders", |placed| {
            placed.leader == replicas.first().copied()
        })
        .await
    }

    /// Elects leaders of all partitions of `topic`.
    ///
    /// # Errors
    /// [`TopicError`] when the controller refuses for long.
    pub async fn elect(&self, topic: &str, election: Election) -> Result<(), TopicError> {
        let partitions = self.partitions(topic).await?;
        let broker = Broker::at(&self.running_bootstrap());
        ask("leaders to be elected", topic, move |topic| {
            broker.elect(topic, &partitions, election)
        })
        .await
    }

    /// Waits until all replicas of `topic` are in sync.
    ///
    /// # Errors
    /// [`TopicError::TimedOut`] with the partitions last seen.
    pub async fn wait_for_replicas(&self, topic: &str) -> Result<(), TopicError> {
        self.wait_for(topic, "replicas in sync", |placed| {
            placed.leader.is_some() && placed.in_sync.len() == placed.replicas.len()
        })
        .await
    }

    /// Waits until `condition` holds for each partition of `topic`.
    ///
    /// # Errors
    /// [`TopicError::TimedOut`] with the partitions last seen.
    pub async fn wait_for(
        &self,
        topic: &str,
        what: &str,
        condition: impl Fn(&Placed) -> bool,
    ) -> Result<(), TopicError> {
        wait::value(format!("{what} of {topic}"), LIMIT, async || {
            let all = self
                .placed(topic)
                .await
                .map_err(|error| error.to_string())?;
            match !all.is_empty() && all.iter().all(&condition) {
                true => Ok(()),
                false => Err(format!("{all:?}")),
            }
        })
        .await?;
        Ok(())
    }

    /// What a broker wrote when it lost the end of a transaction, if one did.
    pub fn lost_end_of_transaction(&self) -> Option<String> {
        self.nodes.iter().find_map(Kafka::lost_end_of_transaction)
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<i32>, TopicError> {
        let placed = self.placed(topic).await?;
        Ok(placed.iter().map(|one| one.partition).collect())
    }

    /// The addresses of the brokers that run.
    fn running_bootstrap(&self) -> String {
        let running = self.nodes.iter().filter(|node| node.is_running());
        let addresses: Vec<_> = running.map(Kafka::bootstrap).collect();
        addresses.join(",")
    }
}

impl Kafka {
    /// Returns `true` while its process runs.
    fn is_running(&self) -> bool {
        let process = self.own.as_ref().map(|own| lock(&own.process));
        process.is_some_and(|process| {
            process
                .as_ref()
                .is_some_and(|process| process.status().is_none())
        })
    }
}

/// A broker did not start, or did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It did not start.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A request failed.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// Asks until there is an answer: a controller is elected anew when one is lost.
async fn ask<T: Send + 'static>(
    what: &str,
    about: &str,
    request: impl Fn(&str) -> Result<T, WireError> + Send + Sync + 'static,
) -> Result<T, TopicError> {
    let request = Arc::new(request);
    let answer = wait::value(format!("{what} for {about}"), LIMIT, async || {
        let (request, about) = (Arc::clone(&request), about.to_owned());
        let asked = spawn_blocking(move || request(&about)).await;
        let answered = asked.map_err(|error| error.to_string())?;
        answered.map_err(|error| error.to_string())
    });
    Ok(answer.await?)
}

fn placed(bootstrap: &str, topic: &str) -> Result<Vec<Placed>, TopicError> {
    let what = || failed(format!("the partitions of {topic}"), bootstrap);
    let consumer: BaseConsumer = client(bootstrap).create().map_err(what())?;
    let metadata = consumer
        .fetch_metadata(Some(topic), REQUEST_LIMIT)
        .map_err(what())?;
    let partitions = metadata
        .topics()
        .iter()
        .filter(|found| found.error().is_none())
        .flat_map(|found| found.partitions());
    let placed = partitions.map(|partition| Placed {
        partition: partition.id(),
        leader: Some(partition.leader()).filter(|leader| *leader >= 0),
        replicas: partition.replicas().to_vec(),
        in_sync: partition.isr().iter().copied().collect(),
    });
    Ok(placed.collect())
}
