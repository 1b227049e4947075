//! Looks up the offsets at which partitions continue whose position the brokers refuse.
//!
//! A client stops reading such a partition. This module looks up the log's bounds, repeatedly
//! until they are found, and `positions` decides; the pump restarts the partition. It also
//! compares the ids of the topics: a topic that was created again may have grown beyond the
//! position, and then nothing is refused.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use crate::group::assignment::Assignment;
use crate::group::partition::{Partition, REFUSED_BY};
use crate::group::positions::{self, Bounds, Incarnation, Lost, Policy, Resumption};
use crate::group::start::{self, Beginning};
use crate::kafka::{Client, Edge, FoundEdges, LookUpError, OutOfRange, TopicId, TopicPartition};

/// The maximum time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The wait after a look-up that failed, doubled up to the maximum.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The time between two attachments of restarted partitions until a message or report comes.
const ATTACH_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum time for that: a partition without messages may report nothing.
const RESTART_LIMIT: Duration = Duration::from_secs(10);

/// The maximum wait at a stop for pending answers.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// The time between two comparisons of the topics' ids.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);

/// Partitions that wait for the decision at which offset they continue.
pub(crate) struct Recovery {
    policy: Policy,
    wake: Arc<Notify>,
    stopped: BTreeMap<TopicPartition, Stopped>,
    look_up: Option<oneshot::Receiver<Vec<Answer>>>,
    wait: Duration,
    retry_at: Instant,
    comparison: Option<Comparison>,
    compare_at: Instant,
    /// Partitions that were restarted and have reported nothing since.
    restarted: Vec<Arc<Partition>>,
    restarted_at: Instant,
    attach_at: Instant,
}

type Ids = Vec<(String, TopicId)>;

/// A look-up of the ids of topics.
struct Comparison {
    /// The partitions that need it. Those that are revoked meanwhile must still commit.
    partitions: Vec<Arc<Partition>>,
    ids: oneshot::Receiver<Ids>,
}

struct Stopped {
    partition: Arc<Partition>,
    refused: OutOfRange,
}

/// The input of the look-up of one partition. It does not hold the partition, which would keep
/// the client from closing.
struct Question {
    partition: TopicPartition,
    position: Option<i64>,
    refused: OutOfRange,
    topic_id: Option<TopicId>,
    /// Is `true` if the position belongs to the topic with that id.
    is_identified: bool,
}

/// The result of the look-up of one partition.
struct Answer {
    partition: TopicPartition,
    found: Result<Found, LookUpError>,
}

/// The decision for a partition.
pub(crate) enum Found {
    /// The partition continues from a position.
    Resumed(Resumption, Incarnation),
    /// The partition had no position, and begins.
    Begun(Beginning),
    /// The consumer must end.
    Refused(Lost),
}

impl Recovery {
    pub(crate) fn new(policy: Policy, wake: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self {
            policy,
            wake,
            stopped: BTreeMap::new(),
            look_up: None,
            wait: FIRST_WAIT,
            retry_at: now,
            comparison: None,
            compare_at: now,
            restarted: Vec::new(),
            restarted_at: now,
            attach_at: now,
        }
    }

    /// Notes a partition that is no longer read.
    pub(crate) fn note(&mut self, partition: Arc<Partition>, refused: OutOfRange) {
        let name = partition.name();
        self.stopped.insert(name, Stopped { partition, refused });
        self.wake.notify_one();
    }

    /// Requests a later restart of partitions at their positions: the client could not do it
    /// now.
    pub(crate) fn retry(&mut self, partitions: impl Iterator<Item = Arc<Partition>>) {
        self.retry_at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(MAX_WAIT);
        let refused = OutOfRange {
            // It is before all positions, so none is lost.
            position: Some(-1),
            departs_at: None,
        };
        for partition in partitions {
            self.note(partition, refused);
        }
    }

    /// Requests an early comparison of the topics' ids: partitions were assigned.
    pub(crate) fn compare_soon(&mut self) {
        self.compare_at = Instant::now();
    }

    /// Notes partitions that are being restarted.
    pub(crate) fn note_restart<'a>(
        &mut self,
        partitions: impl Iterator<Item = &'a Arc<Partition>>,
    ) {
        self.restarted = partitions.cloned().collect();
        self.restarted_at = Instant::now();
        self.attach_at = Instant::now();
    }

    /// Notes that a message or report of a partition has come.
    pub(crate) fn note_arrival(&mut self, partition: &Arc<Partition>) {
        if !self.restarted.is_empty() {
            self.restarted.retain(|it| !Arc::ptr_eq(it, partition));
        }
    }

    /// Returns the partitions whose messages must be sent to the fetcher again. librdkafka
    /// (2.12) forgets where to send them some time after a restart.
    pub(crate) fn unattached(&mut self, assignment: &Assignment) -> &[Arc<Partition>] {
        if self.restarted_at.elapsed() > RESTART_LIMIT {
            self.restarted.clear();
        }
        if self.restarted.is_empty() || Instant::now() < self.attach_at {
            return &[];
        }
        self.attach_at = Instant::now() + ATTACH_INTERVAL;
        self.restarted.retain(|it| assignment.has(it));
        &self.restarted
    }

    /// Returns the time until there is something to do.
    pub(crate) fn wait(&self) -> Option<Duration> {
        (!self.restarted.is_empty()).then_some(ATTACH_INTERVAL)
    }

    /// Returns the partitions with a decision.
    pub(crate) fn advance<C: Client>(
        &mut self,
        client: &Arc<C>,
        assignment: &Assignment,
    ) -> Vec<(Arc<Partition>, Found)> {
        self.take_ids(assignment);
        self.compare(client, assignment);
        self.stopped
            .retain(|_, it| it.partition.is_active() && assignment.has(&it.partition));
        let found = self.take_answers();
        let is_due = self.look_up.is_none() && Instant::now() >= self.retry_at;
        if is_due && !self.stopped.is_empty() {
            self.ask(client);
        }
        found
    }

    /// Waits for pending answers, which hold references to the client.
    pub(crate) async fn finish(self) {
        // The answers are not needed any more.
        let answers = async {
            if let Some(look_up) = self.look_up {
                let _ = look_up.await;
            }
            if let Some(comparison) = self.comparison {
                let _ = comparison.ids.await;
            }
        };
        let ended = tokio::time::timeout(FINISH_LIMIT, answers).await;
        if ended.is_err() {
            tracing::warn!(
                limit = ?FINISH_LIMIT,
                "the brokers did not answer a look-up of positions; the stop continues without it"
            );
        }
    }

    fn take_answers(&mut self) -> Vec<(Arc<Partition>, Found)> {
        let Some(look_up) = &mut self.look_up else {
            return Vec::new();
        };
        let answers = match look_up.try_recv() {
            Err(TryRecvError::Empty) => return Vec::new(),
            answers => answers.unwrap_or_default(),
        };
        self.look_up = None;
        let mut known = Vec::new();
        let mut has_failed = answers.is_empty();
        for Answer { partition, found } in answers {
            match found {
                Ok(found) => {
                    if let Some(stopped) = self.stopped.remove(&partition) {
                        known.push((stopped.partition, found));
                    }
                }
                Err(error) => {
                    has_failed = true;
                    tracing::warn!(
                        topic = partition.topic,
                        partition = partition.partition,
                        %error,
                        "the position could not be looked up, and the look-up is repeated"
                    );
                }
            }
        }
        if has_failed {
            self.retry_at = Instant::now() + self.wait;
            self.wait = (self.wait * 2).min(MAX_WAIT);
        } else {
            self.wait = FIRST_WAIT;
        }
        known
    }

    fn ask<C: Client>(&mut self, client: &Arc<C>) {
        let questions: Vec<_> = self
            .stopped
            .iter()
            .map(|(name, stopped)| Question {
                partition: name.clone(),
                position: stopped.partition.read_position(),
                refused: stopped.refused,
                topic_id: stopped.partition.topic_id(),
                is_identified: stopped.partition.is_identified(),
            })
            .collect();
        let (client, policy, wake) = (Arc::clone(client), self.policy, Arc::clone(&self.wake));
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let answers = look_up(&client, questions, policy).await;
            // Before the pump is notified: closing needs the only reference.
            drop(client);
            // Fails only if the pump has ended.
            let _ = sender.send(answers);
            wake.notify_one();
        });
        self.look_up = Some(answer);
    }

    /// Takes the ids of the topics, once known, and compares them with the ids at the
    /// assignment. During a rebalance and at a stop too: the last commits name the topic.
    pub(crate) fn take_ids(&mut self, assignment: &Assignment) {
        let Some(comparison) = &mut self.comparison else {
            return;
        };
        let ids = match comparison.ids.try_recv() {
            Err(TryRecvError::Empty) => return,
            ids => ids.unwrap_or_default(),
        };
        let partitions = std::mem::take(&mut comparison.partitions);
        self.comparison = None;
        self.note_recreated(&ids, &partitions, assignment);
        // The second answer confirms the first.
        let is_new = |it: &Arc<Partition>| !it.is_identified() && it.topic_id().is_some();
        if partitions.iter().any(is_new) {
            self.compare_at = Instant::now() + REFUSED_BY;
        }
    }

    /// Asks for the ids of the topics, if that is due.
    fn compare<C: Client>(&mut self, client: &Arc<C>, assignment: &Assignment) {
        let is_due = self.comparison.is_none() && Instant::now() >= self.compare_at;
        if !is_due || assignment.len() == 0 {
            return;
        }
        self.compare_at = Instant::now() + COMPARE_INTERVAL;
        let topics: BTreeSet<_> = assignment.iter().map(|it| it.topic.clone()).collect();
        let (client, wake) = (Arc::clone(client), Arc::clone(&self.wake));
        let (sender, answer) = oneshot::channel();
        tokio::spawn(async move {
            let ids = topic_ids(&client, topics).await;
            drop(client);
            // Fails only if the pump has ended.
            let _ = sender.send(ids);
            wake.notify_one();
        });
        self.comparison = Some(Comparison {
            partitions: assignment.iter().cloned().collect(),
            ids: answer,
        });
    }

    fn note_recreated(
        &mut self,
        ids: &Ids,
        partitions: &[Arc<Partition>],
        assignment: &Assignment,
    ) {
        for partition in partitions {
            let id = ids.iter().find(|(topic, _)| *topic == partition.topic);
            if let Some((_, id)) = id
                && partition.identify(*id) != *id
                && assignment.has(partition)
                && !self.stopped.contains_key(&partition.name())
            {
                let refused = OutOfRange {
                    position: None,
                    departs_at: None,
                };
                self.note(Arc::clone(partition), refused);
            }
        }
    }
}

async fn topic_ids<C: Client>(client: &Arc<C>, topics: BTreeSet<String>) -> Ids {
    let found = client.topic_ids(topics.into_iter().collect(), REQUEST_LIMIT);
    found.await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the topic ids could not be fetched");
        Ids::new()
    })
}

async fn look_up<C: Client>(
    client: &Arc<C>,
    questions: Vec<Question>,
    policy: Policy,
) -> Vec<Answer> {
    let (known, unknown): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|it| it.position.is_some());
    let mut answers = Vec::with_capacity(known.len() + unknown.len());
    for question in unknown {
        let partition = question.partition;
        let found = start::look_up(client, std::slice::from_ref(&partition), policy, false).await;
        answers.push(Answer {
            partition,
            found: found.map(Found::Begun),
        });
    }
    if known.is_empty() {
        return answers;
    }
    let topics = known.iter().map(|it| it.partition.topic.clone());
    let ids: HashMap<_, _> = topic_ids(client, topics.collect())
        .await
        .into_iter()
        .collect();
    let starts = edges(client, &known, Edge::Start).await;
    let ends = edges(client, &known, Edge::End).await;
    answers.extend(known.into_iter().map(|question| {
        let bounds = bounds(&question.partition, &starts, &ends);
        let incarnation = match (question.topic_id, ids.get(&question.partition.topic)) {
            (Some(before), Some(now)) if before != *now => Incarnation::Other,
            (Some(_), Some(_)) if question.is_identified => Incarnation::Same,
            _ => Incarnation::Unknown,
        };
        let position = question.position.unwrap_or_default();
        let found = bounds.map(|bounds| {
            let lost = policy.lost;
            match positions::resume(position, question.refused, bounds, incarnation, lost) {
                Ok(resumption) => Found::Resumed(resumption, incarnation),
                Err(lost) => Found::Refused(lost),
            }
        });
        Answer {
            partition: question.partition,
            found,
        }
    }));
    answers
}

async fn edges<C: Client>(
    client: &Arc<C>,
    questions: &[Question],
    edge: Edge,
) -> Result<FoundEdges, LookUpError> {
    let wanted = questions.iter().map(|it| (it.partition.clone(), edge));
    client.edges(wanted.collect(), REQUEST_LIMIT).await
}

fn bounds(
    partition: &TopicPartition,
    starts: &Result<FoundEdges, LookUpError>,
    ends: &Result<FoundEdges, LookUpError>,
) -> Result<Bounds, LookUpError> {
    let edge = |found: &Result<FoundEdges, LookUpError>| {
        let found = found.as_ref().map_err(LookUpError::clone)?;
        let edge = found.iter().find(|(name, _)| name == partition);
        let edge = edge.map_or(Err(rdkafka::error::RDKafkaErrorCode::NoOffset), |it| it.1);
        edge.map_err(|code| LookUpError {
            code,
            text: code.to_string(),
        })
    };
    Ok(Bounds {
        start: edge(starts)?,
        end: edge(ends)?,
    })
}
