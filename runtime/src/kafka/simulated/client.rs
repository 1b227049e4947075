//! The engine's client of the simulated cluster.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::fetcher::SimulatedFetcher;
use super::group::StoredOffset;
use super::log::Position;
use super::session::{JoinState, Op, Session};
use super::settings::{Fault, GroupProtocol, MemberSettings};
use crate::group::partition::Partition;
use crate::kafka::seam::{
    Client, CommitEntry, Committed, Edge, Event, FoundEdges, LookUpError, PollError, Polled,
    StartOffset, TopicId, TopicPartition,
};

/// How long leaving may take, as with the real client.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// A member of a group of the simulated cluster.
pub(crate) struct SimulatedClient {
    cluster: Arc<Mutex<Cluster>>,
    client: ClientId,
}

/// By what the group knows a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) group: String,
    pub(crate) member: String,
    /// The generation or, under KIP-848, the member's epoch.
    pub(crate) generation: i32,
}

/// A question to the brokers; `None` while they can't answer.
type Question<T> =
    Box<dyn Fn(&mut Cluster) -> Option<Result<T, LookUpError>> + Send + Sync + 'static>;

impl SimulatedClient {
    /// Creates a client that joins its group.
    pub(super) fn start(
        cluster: &Arc<Mutex<Cluster>>,
        group: &str,
        settings: MemberSettings,
        wake: Arc<Notify>,
    ) -> Arc<Self> {
        let mut locked = cluster.lock();
        let client = locked.number();
        let name = format!("client-{client}");
        let session = Session::new(group, name, settings, wake);
        locked.sessions.insert(client, session);
        locked.begin_session(client);
        drop(locked);
        Arc::new(Self {
            cluster: Arc::clone(cluster),
            client,
        })
    }

    /// Returns the number by which tenures name the client.
    pub(crate) fn id(&self) -> ClientId {
        self.client
    }

    /// Stops the process, as `SIGSTOP` does: it sends nothing, and takes no answer.
    pub(crate) fn freeze(&self) {
        self.with(|session| session.is_frozen = true);
        let mut cluster = self.cluster.lock();
        cluster.note(format_args!("client {} is frozen", self.client));
    }

    /// Lets the process run again. First it takes the answers that came meanwhile.
    pub(crate) fn thaw(&self) {
        let mut cluster = self.cluster.lock();
        cluster.note(format_args!("client {} is thawed", self.client));
        let Some(session) = cluster.sessions.get_mut(&self.client) else {
            return;
        };
        session.is_frozen = false;
        session.thawed.notify_waiters();
        let held = std::mem::take(&mut session.held);
        for action in held {
            action(&mut cluster);
        }
    }

    /// Ends the process without a word: the coordinator notices by the session.
    pub(crate) fn kill(&self) {
        self.with(|session| {
            session.is_dead = true;
            session.held.clear();
            session.pipeline.clear();
            session.look_ups.clear();
            session.on_nonempty = None;
            session.closed.notify_waiters();
        });
        let mut cluster = self.cluster.lock();
        cluster.note(format_args!("client {} is killed", self.client));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.cluster.lock().sessions.get_mut(&self.client).map(act)
    }

    /// Waits while the process is frozen.
    async fn thawed(&self) {
        loop {
            let thawed = self.with(|it| it.is_frozen.then(|| Arc::clone(&it.thawed)));
            let Some(Some(thawed)) = thawed else {
                return;
            };
            let notified = thawed.notified();
            if self.with(|it| it.is_frozen) == Some(true) {
                notified.await;
            }
        }
    }

    /// Asks the brokers until they answer, or the limit has passed.
    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        question: impl Fn(&mut Cluster) -> Option<Result<T, LookUpError>> + Send + Sync + 'static,
    ) -> Result<T, LookUpError> {
        let (sender, answer) = oneshot::channel();
        self.cluster
            .lock()
            .ask(self.client, Box::new(question), sender);
        self.wait_for(limit, answer).await
    }

    async fn wait_for<T>(
        &self,
        limit: Duration,
        answer: oneshot::Receiver<Result<T, LookUpError>>,
    ) -> Result<T, LookUpError> {
        let answered = tokio::time::timeout(limit, answer).await;
        self.thawed().await;
        match answered {
            Ok(Ok(answer)) => answer,
            // The process is gone.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => Err(look_up_error(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}

impl Client for SimulatedClient {
    type Fetcher = SimulatedFetcher;
    type Membership = Membership;

    fn fetcher(
        self: &Arc<Self>,
        on_nonempty: impl Fn() + Send + Sync + 'static,
    ) -> SimulatedFetcher {
        self.with(|session| session.on_nonempty = Some(Box::new(on_nonempty)));
        SimulatedFetcher {
            cluster: Arc::clone(&self.cluster),
            client: self.client,
        }
    }

    fn take_announcement(&self) -> bool {
        self.with(|it| std::mem::take(&mut it.is_announced))
            .unwrap_or(false)
    }

    /// Serves one event. It can't wait: the time stands still meanwhile.
    fn poll(&self, _: Duration) -> Polled {
        let mut cluster = self.cluster.lock();
        let Some(session) = cluster.sessions.get_mut(&self.client) else {
            return Polled::default();
        };
        if session.is_frozen || session.is_gone() {
            return Polled::default();
        }
        session.last_poll = Some(Instant::now());
        let Some(op) = session.pop() else {
            return Polled::default();
        };
        let error = cluster.report(self.client, op);
        Polled { more: true, error }
    }

    fn next_event(&self) -> Option<Event> {
        self.with(|session| session.events.pop_front()).flatten()
    }

    fn answer_by_itself(&self) {
        self.with(|session| session.answers_by_itself = true);
    }

    fn assign(&self, partitions: &[StartOffset]) -> Result<(), String> {
        self.cluster.lock().assign(self.client, partitions)
    }

    fn unassign(&self, partitions: &[TopicPartition]) -> Result<(), String> {
        self.cluster.lock().unassign(self.client, partitions)
    }

    fn is_assignment_lost(&self) -> bool {
        self.with(|session| session.is_lost).unwrap_or(true)
    }

    fn seek(&self, to: &StartOffset) -> Result<(), String> {
        let position = Position {
            offset: to.offset.ok_or("a seek needs an offset")?,
            epoch: to.leader_epoch,
        };
        self.cluster
            .lock()
            .seek(self.client, &to.partition, position)
    }

    /// As with librdkafka: only an assignment starts a partition that it stopped reading.
    fn restart(&self, to: &[StartOffset], others: &[StartOffset]) -> Result<(), String> {
        let mut cluster = self.cluster.lock();
        let is_eager = cluster.sessions.get(&self.client).map(Session::is_eager);
        if is_eager == Some(true) {
            let all: Vec<_> = to.iter().chain(others).cloned().collect();
            return cluster.assign(self.client, &all);
        }
        let stopped: Vec<_> = to.iter().map(|it| it.partition.clone()).collect();
        // Fails where an earlier try has done so, and failed behind it.
        let _ = cluster.unassign(self.client, &stopped);
        cluster.assign(self.client, to)
    }

    fn pause(&self, partition: &TopicPartition) -> Result<(), String> {
        let mut cluster = self.cluster.lock();
        let paused = cluster.set_paused(self.client, partition, |it| it.is_paused = true);
        paused.ok_or_else(|| RDKafkaErrorCode::UnknownPartition.to_string())
    }

    fn resume(&self, partition: &TopicPartition) -> Result<(), String> {
        let mut cluster = self.cluster.lock();
        let resumed = cluster.unset_paused(self.client, partition, |toppar| {
            std::mem::take(&mut toppar.is_paused)
        });
        resumed.ok_or_else(|| RDKafkaErrorCode::UnknownPartition.to_string())
    }

    fn store(&self, entry: CommitEntry<'_>) -> Result<(), String> {
        let partition = TopicPartition {
            topic: entry.topic.to_owned(),
            partition: entry.partition,
        };
        let mut cluster = self.cluster.lock();
        let session = cluster.sessions.get_mut(&self.client);
        // `rd_kafka_offsets_store` takes none where librdkafka stores them by itself.
        let session = session.filter(|session| !session.settings.auto_store);
        let toppar = session.and_then(|session| session.toppars.get_mut(&partition));
        let toppar = toppar.ok_or_else(|| RDKafkaErrorCode::State.to_string())?;
        toppar.stored = Some(entry.offset);
        Ok(())
    }

    fn commit(&self, entry: CommitEntry<'_>) -> Result<(), RDKafkaErrorCode> {
        let mut cluster = self.cluster.lock();
        let session = cluster.sessions.get(&self.client);
        if session.is_none_or(|it| it.is_closing || it.is_gone()) {
            return Err(RDKafkaErrorCode::BrokerDestroy);
        }
        let partition = TopicPartition {
            topic: entry.topic.to_owned(),
            partition: entry.partition,
        };
        let stored = StoredOffset {
            offset: entry.offset,
            leader_epoch: entry.leader_epoch,
            metadata: entry.metadata.to_owned(),
        };
        cluster.send_commit(self.client, vec![(partition, stored)]);
        Ok(())
    }

    fn high_watermark(&self, partition: &Partition) -> Option<i64> {
        let name = partition.name();
        self.with(|session| session.watermarks.get(&name).copied())
            .flatten()
    }

    fn generation(&self) -> Option<i32> {
        self.membership().map(|membership| membership.generation)
    }

    fn membership(&self) -> Option<Membership> {
        let membership = self.with(|session| Membership {
            group: session.group.clone(),
            member: session.member.clone(),
            generation: session.generation,
        });
        membership.filter(|it| !it.member.is_empty())
    }

    async fn committed(
        self: &Arc<Self>,
        partitions: Vec<TopicPartition>,
        limit: Duration,
    ) -> Result<Vec<Committed>, LookUpError> {
        let (sender, answer) = oneshot::channel();
        {
            let mut cluster = self.cluster.lock();
            if let Some(code) = cluster.failed_look_up() {
                return Err(look_up_error(code));
            }
            cluster.look_up_offsets(self.client, partitions, Some(sender));
        }
        self.wait_for(limit, answer).await
    }

    async fn edges(
        self: &Arc<Self>,
        wanted: Vec<(TopicPartition, Edge)>,
        limit: Duration,
    ) -> Result<FoundEdges, LookUpError> {
        let isolation = self
            .with(|session| session.settings.isolation)
            .unwrap_or_default();
        self.ask(limit, move |cluster| {
            if let Some(code) = cluster.failed_look_up() {
                return Some(Err(look_up_error(code)));
            }
            let found = wanted.iter().map(|(partition, edge)| {
                let log = cluster.log(partition);
                let found = log.ok_or(RDKafkaErrorCode::UnknownPartition);
                // ListOffsets asks with the client's isolation.
                let offset = found.map(|log| match edge {
                    Edge::Start => log.start,
                    Edge::End => log.readable_end(isolation),
                });
                (partition.clone(), offset)
            });
            Some(Ok(found.collect()))
        })
        .await
    }

    async fn partition_count(
        self: &Arc<Self>,
        topic: String,
        limit: Duration,
    ) -> Result<i32, LookUpError> {
        self.ask(limit, move |cluster| {
            if let Some(code) = cluster.failed_look_up() {
                return Some(Err(look_up_error(code)));
            }
            let counts = cluster.counts(std::slice::from_ref(&topic));
            Some(Ok(counts.get(&topic).copied().unwrap_or(0)))
        })
        .await
    }

    async fn topic_ids(
        self: &Arc<Self>,
        topics: Vec<String>,
        limit: Duration,
    ) -> Result<Vec<(String, TopicId)>, LookUpError> {
        self.ask(limit, move |cluster| {
            if let Some(code) = cluster.failed_look_up() {
                return Some(Err(look_up_error(code)));
            }
            let found = topics.iter().filter_map(|name| {
                let topic = cluster.topics.get(name)?;
                Some((name.clone(), TopicId(topic.id.into())))
            });
            Some(Ok(found.collect()))
        })
        .await
    }

    async fn leave(self: Arc<Self>) {
        let Some(closed) = self.with(|session| Arc::clone(&session.closed)) else {
            return;
        };
        let closing = closed.notified();
        self.cluster.lock().begin_close(self.client);
        if self.with(|session| session.is_gone()) != Some(false) {
            return;
        }
        if tokio::time::timeout(LEAVE_LIMIT, closing).await.is_err() {
            tracing::warn!("the group was not left within {LEAVE_LIMIT:?}");
        }
    }
}

impl Drop for SimulatedClient {
    /// A client that is dropped leaves its group, like the real one.
    fn drop(&mut self) {
        self.cluster.lock().begin_close(self.client);
    }
}

impl Cluster {
    /// Makes an event of what lay in the queue, as our callbacks do (`context.rs`).
    fn report(&mut self, client: ClientId, op: Op) -> Option<PollError> {
        let session = self.sessions.get_mut(&client)?;
        let event = match op {
            Op::Error(code) => return Some(PollError::Client(code)),
            Op::Stray(text) => return Some(PollError::StrayMessage(text)),
            Op::Commit(outcomes) => Event::Commit(outcomes),
            Op::Assign(_) | Op::Revoke(_) if session.answers_by_itself => {
                let partitions = match op {
                    Op::Revoke(partitions) => partitions,
                    _ => Vec::new(),
                };
                // Fails for nothing that is still assigned.
                let _ = self.unassign(client, &partitions);
                return None;
            }
            Op::Assign(partitions) => Event::Assign(partitions),
            Op::Revoke(partitions) => Event::Revoke {
                partitions,
                lost: session.is_lost,
            },
        };
        session.events.push_back(event);
        None
    }

    /// `rd_kafka_cgrp_terminate0`: gives everything up, and leaves once no commit is open.
    fn begin_close(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_closing || session.is_gone() {
            return;
        }
        session.is_closing = true;
        session.on_nonempty = None;
        session.clear_ops();
        self.remove_toppars(client, None);
        self.serve_assignment(client);
    }

    /// Leaves the group. Not waited for by anybody but [`Client::leave`].
    pub(super) fn finish_close(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if std::mem::replace(&mut session.is_leaving, true) {
            return;
        }
        session.owned = None;
        session.join = JoinState::Init;
        let name = session.name.clone();
        let has_joined = match session.protocol() {
            GroupProtocol::Consumer => session.generation > 0,
            GroupProtocol::Eager | GroupProtocol::Cooperative => !session.member.is_empty(),
        };
        if !has_joined {
            session.is_closed = true;
            session.closed.notify_waiters();
        } else if session.protocol() == GroupProtocol::Consumer {
            self.leave_consumer(client);
        } else {
            self.leave_classic(client);
        }
        self.note(format_args!("{name} closes"));
    }

    fn failed_look_up(&mut self) -> Option<RDKafkaErrorCode> {
        self.take_fault(|fault| match fault {
            Fault::LookUpFails(code, times) => Some((*code, times)),
            _ => None,
        })
    }

    /// Has the brokers answer a question, again and again until they can or nobody waits.
    fn ask<T: Send + 'static>(
        &mut self,
        client: ClientId,
        question: Question<T>,
        sender: oneshot::Sender<Result<T, LookUpError>>,
    ) {
        let (latency, backoff) = (self.latency(), self.settings.retry_backoff);
        self.after(latency, move |cluster| {
            if sender.is_closed() {
                return;
            }
            let answer = match cluster.is_unreachable() {
                true => None,
                false => question(cluster),
            };
            match answer {
                Some(answer) => cluster.reply_to(client, move |_| {
                    // Fails only when nobody waits any more.
                    let _ = sender.send(answer);
                }),
                None => cluster.client_timer(client, backoff, move |cluster| {
                    cluster.ask(client, question, sender);
                }),
            }
        });
    }
}

fn look_up_error(code: RDKafkaErrorCode) -> LookUpError {
    LookUpError {
        code,
        text: code.to_string(),
    }
}
