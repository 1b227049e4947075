//! Looks up the start offsets of assigned partitions; `positions` decides.
//!
//! The client receives an offset to begin at. librdkafka has a defect (2.12): if it looks up
//! the beginning or the end of a partition, and the partition is revoked before the answer, the
//! answer starts another look-up. That one may end when the partition is assigned again, and
//! sends its reading back to the beginning, or forward to the end past messages that nobody
//! handled. With an offset, it looks up nothing. If the look-up fails, the client receives
//! none, uses the committed offset, and reports a partition without an offset as
//! [`Fetched::OutOfRange`](crate::kafka::Fetched), which `recovery` then looks up until it is
//! found.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commit::strategy::Strategy;
use crate::group::partition::StartCommit;
use crate::group::positions::{self, Policy};
use crate::kafka::{Client, Committed, Edge, LookUpError, StartOffset, TopicPartition};
use crate::offsets::gaps::Gaps;

/// The maximum time for one request. Without an answer the client uses the committed offset,
/// unless it must wait for an open transaction.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The maximum time of look-ups with `commit: Transactional`. Brokers abort a process's open
/// transaction within 20 s; a transaction that covers these offsets for longer has lost its
/// end.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// The first generation of a group.
const FIRST_GENERATION: i32 = 1;

/// The wait before the next request.
const REPEAT_WAIT: Duration = Duration::from_millis(100);

/// The state of partitions beyond their committed offsets, from earlier owners.
pub(crate) type Inherited = HashMap<TopicPartition, Gaps>;

/// The start offsets, and the messages that are not delivered again.
pub(crate) struct Beginning {
    pub(crate) starts: Vec<StartOffset>,
    pub(crate) inherited: Inherited,
    /// Partitions whose start must be committed before anything else.
    pub(crate) uncommitted: BTreeSet<TopicPartition>,
    /// Partitions without an offset that begin where every group begins.
    pub(crate) without_need: BTreeSet<TopicPartition>,
    /// The reason that the consumer must end.
    pub(crate) refused: Option<String>,
}

impl Beginning {
    /// Returns a beginning that the client determines.
    fn unknown(partitions: &[TopicPartition]) -> Self {
        let starts = partitions.iter().map(|partition| StartOffset {
            partition: partition.clone(),
            offset: None,
            leader_epoch: None,
        });
        Self {
            starts: starts.collect(),
            inherited: Inherited::new(),
            uncommitted: BTreeSet::new(),
            without_need: BTreeSet::new(),
            refused: None,
        }
    }

    /// Returns the state of the commit of a partition's start.
    pub(crate) fn commit_of(&self, partition: &TopicPartition) -> StartCommit {
        if self.uncommitted.contains(partition) {
            StartCommit::Due
        } else if self.without_need.contains(partition) {
            StartCommit::Needless
        } else {
            StartCommit::Made
        }
    }
}

/// Partitions that are about to be assigned.
pub(crate) struct Joining {
    pub(crate) partitions: Vec<TopicPartition>,
    found: oneshot::Receiver<Beginning>,
    overdue: oneshot::Receiver<String>,
}

impl Joining {
    /// Starts the look-up; `wake` is notified of its end. After `stop` it no longer waits.
    pub(crate) fn start<C: Client>(
        client: &Arc<C>,
        partitions: Vec<TopicPartition>,
        policy: Policy,
        strategy: Strategy,
        stop: CancellationToken,
        wake: Arc<Notify>,
    ) -> Self {
        let client = Arc::clone(client);
        let named = partitions.clone();
        let (sender, found) = oneshot::channel();
        let (overdue, is_overdue) = oneshot::channel();
        tokio::spawn(async move {
            let began = Instant::now();
            let mut overdue = Some(overdue);
            let beginning = loop {
                let error = match look_up(&client, &named, policy, strategy.redelivers()).await {
                    Ok(beginning) => break beginning,
                    Err(error) => error,
                };
                tracing::warn!(
                    %error,
                    "the start offsets could not be looked up{}",
                    hint(&error, strategy)
                );
                if began.elapsed() > OPEN_LIMIT
                    && let Some(overdue) = overdue.take()
                {
                    // Fails only if the pump has ended.
                    let _ = overdue.send(give_up(&named, &error));
                    wake.notify_one();
                }
                // The client would begin at the offset without the state beyond it.
                if strategy != Strategy::Transaction || stop.is_cancelled() {
                    break Beginning::unknown(&named);
                }
                tokio::time::sleep(REPEAT_WAIT).await;
            };
            // Before the pump is notified: closing needs the only reference.
            drop(client);
            // Fails only if the pump has ended.
            let _ = sender.send(beginning);
            wake.notify_one();
        });
        Self {
            partitions,
            found,
            overdue: is_overdue,
        }
    }

    /// Returns, once, the reason that the consumer must end: the look-up has failed for too
    /// long.
    pub(crate) fn overdue(&mut self) -> Option<String> {
        self.overdue.try_recv().ok()
    }

    /// Returns the beginning, once known.
    pub(crate) fn beginning(&mut self) -> Option<Beginning> {
        match self.found.try_recv() {
            Ok(beginning) => Some(beginning),
            Err(TryRecvError::Empty) => None,
            // The task panicked: the client uses the committed offsets.
            Err(TryRecvError::Closed) => Some(Beginning::unknown(&self.partitions)),
        }
    }

    /// Waits until the beginning is known.
    pub(crate) async fn finish(self) -> Beginning {
        let beginning = self.found.await;
        beginning.unwrap_or_else(|_| Beginning::unknown(&self.partitions))
    }
}

/// librdkafka asks again while a transaction covers the offsets, and then reports only a
/// timeout.
fn hint(error: &LookUpError, strategy: Strategy) -> &'static str {
    match error.code {
        RDKafkaErrorCode::OperationTimedOut if strategy == Strategy::Transaction => {
            "; either the group's coordinator does not answer, or a transaction that covers these offsets has not ended"
        }
        _ => "",
    }
}

fn give_up(partitions: &[TopicPartition], error: &LookUpError) -> String {
    let names: Vec<_> = partitions.iter().map(TopicPartition::to_string).collect();
    format!(
        "the start offsets of {} could not be looked up for {} s: {error}. If the brokers are healthy, they have lost the end of a transaction that covers these offsets: see 'A transaction does not end' in the troubleshooting guide",
        names.join(", "),
        OPEN_LIMIT.as_secs()
    )
}

/// Looks up the start offsets. Partitions may be of several topics.
pub(crate) async fn look_up<C: Client>(
    client: &Arc<C>,
    partitions: &[TopicPartition],
    policy: Policy,
    inherits: bool,
) -> Result<Beginning, LookUpError> {
    let committed = client.committed(partitions.to_vec(), REQUEST_LIMIT).await?;
    let inherited = inherited(&committed, inherits);
    let used = match policy.reset {
        // All partitions begin there anyway.
        Some(Edge::Start) => BTreeSet::new(),
        _ => topics_with_offsets(client, &committed).await?,
    };
    let mut beginning = Beginning {
        starts: Vec::with_capacity(committed.len()),
        inherited,
        uncommitted: BTreeSet::new(),
        without_need: BTreeSet::new(),
        refused: None,
    };
    let mut wanted = Vec::new();
    for found in committed {
        if found.offset.is_none() {
            let is_new = used.contains(&found.partition.topic);
            match positions::begin(policy, is_new) {
                Some(edge) => wanted.push((found.partition.clone(), edge)),
                None => beginning.refused = Some(without_offset(&found.partition)),
            }
        }
        beginning.starts.push(StartOffset {
            partition: found.partition,
            offset: found.offset,
            leader_epoch: found.leader_epoch,
        });
    }
    if !wanted.is_empty() && beginning.refused.is_none() {
        // If every group begins at the log start, the start needs no commit.
        let is_pinned = policy.reset != Some(Edge::Start);
        begin_at_edges(client, &mut beginning, wanted, is_pinned).await?;
    }
    Ok(beginning)
}

/// Returns the topics on which the group has offsets, among those of partitions without
/// one. Partitions of other topics are not new, see `positions`.
async fn topics_with_offsets<C: Client>(
    client: &Arc<C>,
    committed: &[Committed],
) -> Result<BTreeSet<String>, LookUpError> {
    let mut used = BTreeSet::new();
    if client.generation() == Some(FIRST_GENERATION) {
        return Ok(used);
    }
    let mut topics: BTreeMap<&str, bool> = BTreeMap::new();
    for found in committed {
        let misses = topics.entry(&found.partition.topic).or_default();
        *misses |= found.offset.is_none();
    }
    for (topic, _) in topics.into_iter().filter(|(_, misses)| *misses) {
        let of_topic = |it: &&Committed| it.partition.topic == topic;
        let mut known = committed.iter().filter(of_topic);
        if known.any(|it| it.offset.is_some()) || has_offsets(client, topic).await? {
            used.insert(topic.to_owned());
        }
    }
    Ok(used)
}

/// Returns `true` if the group has committed an offset of any partition of a topic.
async fn has_offsets<C: Client>(client: &Arc<C>, topic: &str) -> Result<bool, LookUpError> {
    let count = client
        .partition_count(topic.to_owned(), REQUEST_LIMIT)
        .await?;
    let all = (0..count).map(|partition| TopicPartition {
        topic: topic.to_owned(),
        partition,
    });
    let committed = client.committed(all.collect(), REQUEST_LIMIT).await?;
    Ok(committed.iter().any(|it| it.offset.is_some()))
}

/// Explains why a consumer ends with `offsetReset: Fail`.
fn without_offset(partition: &TopicPartition) -> String {
    format!(
        "the group has no offset of {partition}, and offsetReset is Fail. Set the group's offsets, or choose Earliest or Latest"
    )
}

/// Reads the metadata of committed offsets: the ids of the topics, and with `all` the state of
/// messages.
fn inherited(committed: &[Committed], all: bool) -> Inherited {
    let mut inherited = Inherited::new();
    for found in committed {
        let Some(offset) = found.offset else {
            continue;
        };
        let partition = &found.partition;
        match Gaps::decode(&found.metadata, offset) {
            Ok(Some(gaps)) if all => {
                inherited.insert(partition.clone(), gaps);
            }
            Ok(Some(gaps)) if gaps.topic_id().is_some() => {
                let none = Gaps::new(offset, offset, [], []);
                let none = none.with_topic_id(gaps.topic_id());
                inherited.insert(partition.clone(), none);
            }
            Ok(_) => {}
            Err(error) if !all => {
                tracing::debug!(
                    topic = partition.topic,
                    partition = partition.partition,
                    %error,
                    "the commit metadata is ignored"
                );
            }
            Err(error) => tracing::warn!(
                topic = partition.topic,
                partition = partition.partition,
                offset,
                %error,
                "the commit metadata is ignored; messages that were handled beyond the committed offset may come again"
            ),
        }
    }
    inherited
}

/// Sets the start of partitions to edges of their logs.
async fn begin_at_edges<C: Client>(
    client: &Arc<C>,
    beginning: &mut Beginning,
    wanted: Vec<(TopicPartition, Edge)>,
    is_pinned: bool,
) -> Result<(), LookUpError> {
    for (partition, found) in client.edges(wanted, REQUEST_LIMIT).await? {
        let offset = found.map_err(|code| LookUpError {
            code,
            text: format!("{partition}: {code}"),
        })?;
        let mut starts = beginning.starts.iter_mut();
        if let Some(start) = starts.find(|start| start.partition == partition) {
            start.offset = Some(offset);
            let begun = if is_pinned {
                &mut beginning.uncommitted
            } else {
                &mut beginning.without_need
            };
            begun.insert(partition);
        }
    }
    Ok(())
}
