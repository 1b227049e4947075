//! The engine's client on librdkafka.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::native::{self, MessageQueue};
use super::seam::{
    Client, CommitEntry, Committed, Edge, Event, FoundEdges, LookUpError, PollError, Polled,
    StartOffset, TopicId, TopicPartition,
};
use super::{Consumer, metadata};
use crate::group::partition::Partition;

/// The maximum time for leaving the group: librdkafka waits for the coordinator's
/// answer, which a cluster that is down never gives.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

impl Client for Consumer {
    type Fetcher = MessageQueue;
    type Membership = ConsumerGroupMetadata;

    fn fetcher(self: &Arc<Self>, on_nonempty: impl Fn() + Send + Sync + 'static) -> MessageQueue {
        MessageQueue::new(Arc::clone(self), on_nonempty)
    }

    fn take_announcement(&self) -> bool {
        self.context().take_announcement()
    }

    fn poll(&self, limit: Duration) -> Polled {
        let before = self.context().calls();
        let error = match rdkafka::consumer::BaseConsumer::poll(self, limit) {
            Some(Ok(message)) => Some(PollError::StrayMessage(format!("{message:?}"))),
            Some(Err(error)) => error.rdkafka_error_code().map(PollError::Client),
            None => None,
        };
        Polled {
            more: self.context().calls() != before,
            error,
        }
    }

    fn next_event(&self) -> Option<Event> {
        self.context().next_event()
    }

    fn answer_by_itself(&self) {
        self.context().close();
    }

    fn assign(&self, partitions: &[StartOffset]) -> Result<(), String> {
        let list = start_list(partitions).map_err(describe)?;
        let assigned = match self.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.incremental_assign(&list),
            _ => rdkafka::consumer::Consumer::assign(self, &list),
        };
        assigned.map_err(describe)
    }

    fn unassign(&self, partitions: &[TopicPartition]) -> Result<(), String> {
        let unassigned = match self.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.incremental_unassign(&list(partitions)),
            _ => rdkafka::consumer::Consumer::unassign(self),
        };
        unassigned.map_err(describe)
    }

    fn is_assignment_lost(&self) -> bool {
        self.assignment_lost()
    }

    fn seek(&self, to: &StartOffset) -> Result<(), String> {
        native::seek(self, to).map_err(|code| code.to_string())
    }

    /// librdkafka's seek fails in a partition that it stopped reading: only an assignment
    /// starts one. Should a rebalance be announced at this moment, this may be taken for
    /// its answer; the pump's own answer follows, and partitions without an owner are not
    /// handed out.
    fn restart(&self, to: &[StartOffset], others: &[StartOffset]) -> Result<(), String> {
        let started = match self.rebalance_protocol() {
            RebalanceProtocol::Cooperative => {
                let stopped: Vec<_> = to.iter().map(|it| it.partition.clone()).collect();
                if let Err(error) = self.incremental_unassign(&list(&stopped)) {
                    // Perhaps an earlier try has done so, and failed behind it.
                    tracing::debug!(%error, "the partitions could not be unassigned");
                }
                self.incremental_assign(&start_list(to).map_err(describe)?)
            }
            _ => {
                let all: Vec<_> = to.iter().chain(others).cloned().collect();
                let list = start_list(&all).map_err(describe)?;
                rdkafka::consumer::Consumer::assign(self, &list)
            }
        };
        started.map_err(describe)
    }

    fn pause(&self, partition: &TopicPartition) -> Result<(), String> {
        let list = list(std::slice::from_ref(partition));
        rdkafka::consumer::Consumer::pause(self, &list).map_err(describe)
    }

    fn resume(&self, partition: &TopicPartition) -> Result<(), String> {
        let list = list(std::slice::from_ref(partition));
        rdkafka::consumer::Consumer::resume(self, &list).map_err(describe)
    }

    fn store(&self, entry: CommitEntry<'_>) -> Result<(), String> {
        let list = commit_list([entry]).map_err(describe)?;
        self.store_offsets(&list).map_err(describe)
    }

    fn commit(&self, entry: CommitEntry<'_>) -> Result<(), RDKafkaErrorCode> {
        let list = commit_list([entry]).map_err(code)?;
        native::commit(self, &list)
    }

    fn high_watermark(&self, partition: &Partition) -> Option<i64> {
        native::watermarks(self, &partition.topic_c, partition.number).1
    }

    fn low_watermark(&self, partition: &Partition) -> Option<i64> {
        native::watermarks(self, &partition.topic_c, partition.number).0
    }

    fn generation(&self) -> Option<i32> {
        native::generation(self)
    }

    /// Brokers take a transaction's offsets from a client that names no member, without a
    /// look at the generation (KIP-447 allows for older clients): a zombie would not be
    /// fenced.
    fn membership(&self) -> Option<ConsumerGroupMetadata> {
        let member = native::member_id(self)?;
        let group = self.group_metadata()?;
        (native::member_id(self)? == member).then_some(group)
    }

    async fn committed(
        self: &Arc<Self>,
        partitions: Vec<TopicPartition>,
        limit: Duration,
    ) -> Result<Vec<Committed>, LookUpError> {
        self.ask(move |client| {
            let found = client.committed_offsets(list(&partitions), limit)?;
            let elements = found.elements();
            let committed = elements.iter().enumerate().map(|(index, element)| {
                element.error()?;
                Ok(Committed {
                    partition: named(element.topic(), element.partition()),
                    offset: match element.offset() {
                        Offset::Offset(offset) => Some(offset),
                        _ => None,
                    },
                    leader_epoch: native::leader_epoch(&found, index),
                    metadata: metadata(&found, index).to_vec(),
                })
            });
            committed.collect()
        })
        .await
    }

    async fn edges(
        self: &Arc<Self>,
        wanted: Vec<(TopicPartition, Edge)>,
        limit: Duration,
    ) -> Result<FoundEdges, LookUpError> {
        self.ask(move |client| {
            let mut list = TopicPartitionList::with_capacity(wanted.len());
            for (partition, edge) in &wanted {
                // Requested by time: both ends have special timestamps.
                let offset = match edge {
                    Edge::Start => Offset::Beginning,
                    Edge::End => Offset::End,
                };
                list.add_partition_offset(&partition.topic, partition.partition, offset)?;
            }
            let found = client.offsets_for_times(list, limit)?;
            let elements = found.elements();
            let edges = elements.iter().map(|element| {
                let edge = match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(offset)) => Ok(offset),
                    (Ok(()), _) => Err(RDKafkaErrorCode::NoOffset),
                    (Err(error), _) => Err(code(error)),
                };
                (named(element.topic(), element.partition()), edge)
            });
            Ok(edges.collect())
        })
        .await
    }

    async fn partition_count(
        self: &Arc<Self>,
        topic: String,
        limit: Duration,
    ) -> Result<i32, LookUpError> {
        self.ask(move |client| {
            let metadata = client.fetch_metadata(Some(&topic), limit)?;
            let found = metadata.topics().iter().find(|it| it.name() == topic);
            let count = found.map_or(0, |found| found.partitions().len());
            Ok(i32::try_from(count).unwrap_or(i32::MAX))
        })
        .await
    }

    async fn topic_ids(
        self: &Arc<Self>,
        topics: Vec<String>,
        limit: Duration,
    ) -> Result<Vec<(String, TopicId)>, LookUpError> {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        self.ask(move |client| {
            let found = native::topic_ids(client, &topics, limit);
            found.map_err(KafkaError::AdminOp)
        })
        .await
    }

    /// librdkafka blocks meanwhile, so it gets a dedicated thread.
    async fn leave(self: Arc<Self>) {
        let (closed, closing) = oneshot::channel();
        // Not one of Tokio's threads: it waits for those at the end of the process,
        // and without a broker this one may not end.
        thread::spawn(move || {
            match Arc::into_inner(self) {
                Some(client) => drop(client),
                None => {
                    tracing::error!(
                        "the Kafka client is still in use and can't leave its group; the brokers evict it after session.timeout.ms"
                    )
                }
            }
            // Fails only when nobody waits any more.
            let _ = closed.send(());
        });
        if tokio::time::timeout(LEAVE_LIMIT, closing).await.is_err() {
            tracing::warn!(
                limit = ?LEAVE_LIMIT,
                "the consumer could not leave its group: the brokers do not answer; they evict it after session.timeout.ms"
            );
        }
    }
}

/// Asks in a thread that may block. The client is let go before the answer is given:
/// closing needs the only reference.
trait Ask {
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, LookUpError>;
}

impl Ask for Arc<Consumer> {
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, LookUpError> {
        let client = Arc::clone(self);
        let (sender, answer) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let found = question(&client);
            drop(client);
            // Fails only when nobody waits any more.
            let _ = sender.send(found);
        });
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(LookUpError {
                code: code(error.clone()),
                text: error.to_string(),
            }),
            Err(_) => Err(LookUpError {
                code: RDKafkaErrorCode::Unknown,
                text: "the look-up was cut short".into(),
            }),
        }
    }
}

/// The offsets in librdkafka's form.
pub(crate) fn commit_list<'a>(
    entries: impl IntoIterator<Item = CommitEntry<'a>>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for entry in entries {
        let (topic, number) = (entry.topic, entry.partition);
        list.add_partition_offset(topic, number, Offset::Offset(entry.offset))?;
        if let Some(mut element) = list.find_partition(topic, number)
            && !entry.metadata.is_empty()
        {
            element.set_metadata(entry.metadata);
        }
        let index = list.count() - 1;
        native::set_leader_epoch(&mut list, index, entry.leader_epoch);
    }
    Ok(list)
}

fn start_list(partitions: &[StartOffset]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (index, start) in partitions.iter().enumerate() {
        let TopicPartition { topic, partition } = &start.partition;
        let offset = start.offset.map_or(Offset::Invalid, Offset::Offset);
        list.add_partition_offset(topic, *partition, offset)?;
        native::set_leader_epoch(&mut list, index, start.leader_epoch);
    }
    Ok(list)
}

/// The partitions in librdkafka's form, without offsets.
fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for TopicPartition { topic, partition } in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

fn code(error: KafkaError) -> RDKafkaErrorCode {
    error
        .rdkafka_error_code()
        .unwrap_or(RDKafkaErrorCode::Unknown)
}

fn describe(error: KafkaError) -> String {
    error.to_string()
}
