//! The transactional producer, step by step as `crate::transactions` has it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::client::Membership;
use super::group::{Committer, StoredOffset};
use super::producers::ProducerIdentity;
use super::settings::{Fault, Produce};
use crate::handler::produce::ProducerRecord;
use crate::kafka::seam::Transactional;
use crate::transactions::{Outcome, Refusal, Transaction};

/// How long a topic may be unknown.
const TOPIC_LIMIT: Duration = Duration::from_secs(2);

/// How long the brokers may take to deliver a record; and for each other step.
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long a step may take before whoever watches gives the transaction up.
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// Wait before a request is sent again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// A transactional producer of a process.
pub(super) struct SimulatedTransactions {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Mutex<Cluster>>,
    client: ClientId,
    timeout: Duration,
    /// Another one takes over when a transaction can't be aborted.
    identity: Mutex<ProducerIdentity>,
    wake: Arc<Notify>,
    /// What is waited for, and since when.
    step: Mutex<Option<Instant>>,
}

impl SimulatedTransactions {
    /// Creates a producer; one with the same id is fenced, and what it left open aborted.
    pub(super) fn start(
        cluster: &Arc<Mutex<Cluster>>,
        client: ClientId,
        id: &str,
        timeout: Duration,
        wake: Arc<Notify>,
    ) -> Self {
        let identity = cluster.lock().init_producer(id);
        let inner = Inner {
            cluster: Arc::clone(cluster),
            client,
            timeout,
            identity: Mutex::new(identity),
            wake,
            step: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Transactional<Membership> for SimulatedTransactions {
    fn begin(&self, transaction: Transaction<Membership>) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let result = inner.run(&transaction).await;
            *inner.step.lock() = None;
            let records = transaction.records;
            // Fails only when the pump is gone.
            let _ = reply.send(Outcome { records, result });
            inner.wake.notify_one();
        });
        outcome
    }

    fn watch(&self) -> Option<String> {
        let since = (*self.inner.step.lock())?;
        let is_overdue = since.elapsed() > STEP_LIMIT;
        is_overdue.then(|| "the transactional producer has waited for too long".into())
    }
}

impl Inner {
    /// One transaction from its begin to its end.
    async fn run(&self, transaction: &Transaction<Membership>) -> Result<(), Refusal> {
        let fault = self.cluster.lock().take_fault_once(transaction_fault);
        if fault == Some(Fault::TransactionFenced) {
            // As if another process had begun with the same id.
            let id = self.identity().id;
            self.cluster.lock().init_producer(&id);
        }
        if fault == Some(Fault::TransactionHangs) {
            // `rd_kafka_send_offsets_to_transaction` may look for a coordinator for good.
            *self.step.lock() = Some(Instant::now());
            return std::future::pending().await;
        }
        let mut filled = self.fill(transaction).await;
        if let (Ok(()), Some(Fault::TransactionAborted(code))) = (&filled, &fault) {
            filled = Err(Refusal::Aborted(*code));
        }
        let ended = match (filled, fault) {
            (Ok(()), Some(Fault::TransactionTimesOut { committed })) => {
                return self.lose_end(committed).await;
            }
            (Ok(()), _) => self.commit().await,
            (Err(refusal), _) => Err(refusal),
        };
        if let Err(Refusal::Aborted(_) | Refusal::Record { .. }) = &ended {
            self.abort().await?;
        }
        ended
    }

    fn identity(&self) -> ProducerIdentity {
        self.identity.lock().clone()
    }

    /// Everything but the end.
    async fn fill(&self, transaction: &Transaction<Membership>) -> Result<(), Refusal> {
        for (place, covered) in transaction.records.iter().enumerate() {
            self.produce(place, &covered.record).await?;
        }
        let offsets: Vec<_> = transaction
            .offsets
            .iter()
            .map(|(partition, point)| {
                let stored = StoredOffset {
                    offset: point.offset,
                    leader_epoch: None,
                    metadata: point.metadata.clone(),
                };
                (partition.name(), stored)
            })
            .collect();
        let by = Committer {
            member: transaction.group.member.clone(),
            generation: transaction.group.generation,
        };
        let group = transaction.group.group.clone();
        let (identity, timeout) = (self.identity(), self.timeout);
        let result = self
            .persist(ANSWER_LIMIT, move |cluster| {
                if let Some(code) = cluster.no_coordinator(&group) {
                    return Err(code);
                }
                cluster.commit_in_transaction(&identity, timeout, &group, &by, offsets.clone())
            })
            .await;
        result.map_err(refused)
    }

    async fn produce(&self, place: usize, record: &ProducerRecord) -> Result<(), Refusal> {
        let (identity, timeout) = (self.identity(), self.timeout);
        let record = record.clone();
        let limit = if self.knows(&record.topic) {
            DELIVERY_LIMIT
        } else {
            TOPIC_LIMIT
        };
        // An idempotent producer writes each record once, however often it sends it.
        let result = self
            .persist(limit, move |cluster| {
                let fault = cluster.take_fault(produce_fault);
                if let Some(code) = fault {
                    return Err(code);
                }
                let key = record.key.as_deref();
                let chosen = cluster.choose_partition(&record.topic, record.partition, key)?;
                let data = to_data(&record);
                cluster.produce_in_transaction(&identity, timeout, &chosen, data)
            })
            .await;
        match result {
            Ok(_) => Ok(()),
            Err(code) if is_for_good(code) => Err(Refusal::Record { place, code }),
            Err(RDKafkaErrorCode::OperationTimedOut) => {
                Err(Refusal::Aborted(RDKafkaErrorCode::MessageTimedOut))
            }
            Err(code) => Err(Refusal::Aborted(code)),
        }
    }

    fn knows(&self, topic: &str) -> bool {
        self.cluster.lock().topics.contains_key(topic)
    }

    async fn commit(&self) -> Result<(), Refusal> {
        let identity = self.identity();
        let result = self
            .persist(ANSWER_LIMIT, move |cluster| {
                cluster.end_transaction(&identity, true)
            })
            .await;
        result.map_err(|code| Refusal::Fatal(fenced(code)))
    }

    /// Aborts; where that fails another producer takes over and ends what is open.
    async fn abort(&self) -> Result<(), Refusal> {
        let identity = self.identity();
        let result = self
            .persist(ANSWER_LIMIT, move |cluster| {
                cluster.end_transaction(&identity, false)
            })
            .await;
        if result.is_ok() {
            return Ok(());
        }
        let id = self.identity().id;
        let renewed = self
            .persist(ANSWER_LIMIT, move |cluster| Ok(cluster.init_producer(&id)))
            .await;
        *self.identity.lock() = renewed.map_err(|code| Refusal::Fatal(fenced(code)))?;
        Ok(())
    }

    /// The end of the transaction reaches the brokers or not, and the answer never comes.
    async fn lose_end(&self, committed: bool) -> Result<(), Refusal> {
        let identity = self.identity();
        if committed {
            let ended = move |cluster: &mut Cluster| cluster.end_transaction(&identity, true);
            // Nobody hears how that went.
            let _ = self.persist(ANSWER_LIMIT, ended).await;
        }
        tokio::time::sleep(ANSWER_LIMIT).await;
        Err(Refusal::Fatal(
            "the end of a transaction got no answer".into(),
        ))
    }

    /// Sends a request until the brokers have answered it, within a limit.
    async fn persist<T: Send + 'static>(
        &self,
        limit: Duration,
        request: impl Fn(&mut Cluster) -> Result<T, RDKafkaErrorCode> + Send + Sync + 'static,
    ) -> Result<T, RDKafkaErrorCode> {
        let request = Arc::new(request);
        let began = Instant::now();
        *self.step.lock() = Some(began);
        loop {
            let (sender, answer) = oneshot::channel();
            {
                let mut cluster = self.cluster.lock();
                let (client, request) = (self.client, Arc::clone(&request));
                cluster.send_freely(client, move |cluster| {
                    let result = match cluster.is_unreachable() {
                        true => Err(RDKafkaErrorCode::BrokerTransportFailure),
                        false => request(cluster),
                    };
                    cluster.reply_to(client, move |_| {
                        // Fails only when the process is gone.
                        let _ = sender.send(result);
                    });
                });
            }
            let Ok(result) = answer.await else {
                // The process is gone.
                return std::future::pending().await;
            };
            match result {
                Err(code) if is_sent_again(code) => {
                    if began.elapsed() > limit {
                        return Err(match code {
                            RDKafkaErrorCode::UnknownTopicOrPartition => code,
                            _ => RDKafkaErrorCode::OperationTimedOut,
                        });
                    }
                    tokio::time::sleep(RETRY_WAIT).await;
                }
                result => return result,
            }
        }
    }
}

impl Cluster {
    /// Sends a request over a connection without an order, unless the process is frozen or
    /// gone.
    pub(super) fn send_freely(
        &mut self,
        client: ClientId,
        request: impl FnOnce(&mut Self) + Send + 'static,
    ) {
        let latency = self.latency();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_frozen {
            let held = move |cluster: &mut Self| cluster.send_freely(client, request);
            session.held.push_back(Box::new(held));
        } else if !session.is_dead {
            self.after(latency, request);
        }
    }
}

fn transaction_fault(fault: &Fault) -> Option<Fault> {
    let is_one = matches!(
        fault,
        Fault::TransactionAborted(_)
            | Fault::TransactionFenced
            | Fault::TransactionHangs
            | Fault::TransactionTimesOut { .. }
    );
    is_one.then(|| fault.clone())
}

pub(super) fn produce_fault(fault: &mut Fault) -> Option<(RDKafkaErrorCode, &mut u32)> {
    match fault {
        Fault::ProduceFails(code, times) => Some((*code, times)),
        _ => None,
    }
}

pub(super) fn to_data(record: &ProducerRecord) -> Produce {
    Produce {
        key: record.key.clone(),
        value: record.payload.clone(),
        headers: record.headers.clone(),
        timestamp: record.timestamp,
    }
}

/// What librdkafka makes of an error of `TxnOffsetCommit`: fenced producers are of no more
/// use, and after others the transaction must be aborted.
fn refused(code: RDKafkaErrorCode) -> Refusal {
    match code {
        RDKafkaErrorCode::InvalidProducerEpoch | RDKafkaErrorCode::ProducerFenced => {
            Refusal::Fatal(fenced(code))
        }
        RDKafkaErrorCode::OperationTimedOut => Refusal::Fatal(code.to_string()),
        code => Refusal::Aborted(code),
    }
}

fn fenced(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::InvalidProducerEpoch | RDKafkaErrorCode::ProducerFenced => {
            "Local: This instance has been fenced by a newer instance".into()
        }
        code => code.to_string(),
    }
}

/// Errors after which librdkafka sends a request again.
fn is_sent_again(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::ConcurrentTransactions
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
    )
}

/// As in `crate::transactions`: the same record would be refused again.
fn is_for_good(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidTimestamp
    )
}
