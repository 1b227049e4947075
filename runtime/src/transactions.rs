//! The transactional producer: it produces the records of handlers, and commits their offsets.
//!
//! librdkafka's transaction calls block until the brokers answer, so the producer has a
//! dedicated thread. It executes one transaction at a time, and reports its end.
//!
//! ```text
//! pump ─ records, offsets, generation ─► thread ─► begin, produce, offsets, commit
//!  ▲                                        │
//!  └────────── how it ended ◄───────────────┘
//! ```
//!
//! Zombies are fenced twice. The group's generation is sent with the offsets, so that the
//! coordinator refuses the offsets of a consumer that lost its partitions (KIP-447). And a
//! process with the same transactional id aborts the open transaction of its predecessor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use self::producer::{BUFFER_BYTES, config, start, to_base_record};
use self::reports::Reports;
use self::step::{PATIENCE, Step, Steps};
use crate::commit::commits::entry;
use crate::group::partition::{CommitPoint, Partition};
use crate::handler::produce::ProducerRecord;
use crate::kafka::{Transactional, commit_list, error_text, is_for_good, is_refused_record};
use crate::process::dead_letter;

mod producer;
mod reports;
mod step;

/// The maximum time for each of three answers: to the transactional id, for which the brokers
/// first end a predecessor's transaction; to a transaction's offsets; and to its end. The next
/// owners of the partitions and the consumers of the records wait for that end; a new process
/// brings it about.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The maximum wait in one call; the next call continues it.
const STEP: Duration = Duration::from_secs(2);

/// The duration of one poll for delivery reports.
const POLL: Duration = Duration::from_millis(1);

/// The time between two polls of an idle producer.
const IDLE: Duration = Duration::from_secs(1);

/// The error of creating the transactional producer.
#[derive(Debug, Error)]
pub enum TransactionsError {
    /// librdkafka refused the configuration.
    #[error("the transactional producer refused its configuration: {}", error_text(.0))]
    Configuration(KafkaError),
    /// The brokers refused the transactional id, or did not answer.
    #[error(
        "the transactional id '{id}' can't be used: {reason}. The user needs the operations Write and Describe on transactional ids that begin with the group"
    )]
    Refused {
        /// The transactional id.
        id: String,
        /// The error from Kafka.
        reason: String,
    },
    /// The thread could not be started.
    #[error("the thread of the transactional producer could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The content of one transaction.
pub(crate) struct Transaction<M> {
    pub(crate) records: Vec<Covered>,
    pub(crate) offsets: Vec<(Arc<Partition>, CommitPoint)>,
    /// The group's generation in which this process owns the partitions.
    pub(crate) group: M,
}

/// A record, and the message for which a handler returned it.
pub(crate) struct Covered {
    /// Number of the partition in the transaction.
    pub(crate) partition: usize,
    pub(crate) offset: i64,
    pub(crate) record: ProducerRecord,
}

/// The end of a transaction, and its records.
pub(crate) struct Outcome {
    pub(crate) records: Vec<Covered>,
    pub(crate) result: Result<(), Refusal>,
}

/// The reason that a transaction did not commit.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The transaction had no effect; it may be repeated.
    Aborted(RDKafkaErrorCode),
    /// The transaction had no effect: the record at this index cannot be produced.
    Record {
        place: usize,
        code: RDKafkaErrorCode,
    },
    /// Only the brokers know the result, and the producer cannot be used any more.
    Fatal(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted(code) | Self::Record { code, .. } => code.fmt(f),
            Self::Fatal(reason) => f.write_str(reason),
        }
    }
}

/// Sends transactions to the producer's thread, which ends when this is dropped.
pub(crate) struct Transactions {
    jobs: mpsc::Sender<Job>,
    steps: Arc<Steps>,
}

/// A transaction for the producer's thread, and the receiver of its end.
type Job = (Transaction<ConsumerGroupMetadata>, oneshot::Sender<Outcome>);

/// The connection to Kafka, and the transactional id.
pub(crate) struct Identity<'a> {
    /// librdkafka properties.
    pub(crate) connection: &'a BTreeMap<String, String>,
    /// The transactional id.
    pub(crate) id: String,
    /// The file of the access token, for OAUTHBEARER.
    pub(crate) oauth_token: Option<PathBuf>,
}

impl Transactions {
    /// Starts a producer, and waits until the brokers accept it. `wake` is notified at each end
    /// of a transaction.
    pub(crate) async fn start(
        identity: Identity<'_>,
        wake: Arc<Notify>,
    ) -> Result<Self, TransactionsError> {
        let mut worker = Worker::create(&identity)?;
        let steps = Arc::clone(&worker.steps);
        let id = identity.id;
        let (jobs, given) = mpsc::channel();
        let (ready, mut started) = oneshot::channel();
        thread::Builder::new()
            .name("transactions".into())
            .spawn(move || {
                let known = worker.introduce(&|| false);
                let goes_on = known.is_ok();
                if ready.send(known).is_ok() && goes_on {
                    worker.serve(&given, &wake);
                }
            })?;
        let known = loop {
            match tokio::time::timeout(PATIENCE, &mut started).await {
                Ok(known) => break known,
                Err(_) => {
                    if let Some(reason) = steps.watch() {
                        break Ok(Err(reason));
                    }
                }
            }
        };
        known
            .unwrap_or_else(|_| Err("its thread has ended".into()))
            .map_err(|reason| TransactionsError::Refused { id, reason })?;
        Ok(Self { jobs, steps })
    }
}

impl Transactional<ConsumerGroupMetadata> for Transactions {
    fn begin(&self, transaction: Transaction<ConsumerGroupMetadata>) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        // Fails only if the thread has ended, which the receiver reports.
        let _ = self.jobs.send((transaction, reply));
        outcome
    }

    fn watch(&self) -> Option<String> {
        self.steps.watch()
    }
}

/// The thread's side.
struct Worker {
    config: ClientConfig,
    oauth_token: Option<PathBuf>,
    producer: BaseProducer<Reports>,
    steps: Arc<Steps>,
}

impl Worker {
    fn create(identity: &Identity<'_>) -> Result<Self, TransactionsError> {
        let config = config(identity.connection, &identity.id);
        let oauth_token = identity.oauth_token.clone();
        Ok(Self {
            producer: start(&config, oauth_token.clone())
                .map_err(TransactionsError::Configuration)?,
            config,
            oauth_token,
            steps: Arc::default(),
        })
    }

    /// Lets the brokers abort the open transaction of a predecessor, and fence it.
    fn introduce(&self, given_up: &dyn Fn() -> bool) -> Result<(), String> {
        self.steps.enter(Step::Introduction);
        // Serves a login by token first.
        self.producer.poll(POLL);
        let known = self.persist(given_up, |limit| self.producer.init_transactions(limit));
        self.steps.enter(Step::Idle);
        known.map_err(|refusal| refusal.to_string())
    }

    fn serve(&mut self, given: &mpsc::Receiver<Job>, wake: &Notify) {
        loop {
            match given.recv_timeout(IDLE) {
                Ok((mut transaction, reply)) => {
                    let result = self.run(&mut transaction, &|| reply.is_closed());
                    self.steps.enter(Step::Idle);
                    let records = transaction.records;
                    if reply.send(Outcome { records, result }).is_err() {
                        return;
                    }
                    wake.notify_one();
                }
                Err(RecvTimeoutError::Timeout) => self.producer.poll(POLL),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Commits a transaction, unless one of its records cannot be produced. Leaves it open if
    /// it is `given_up`.
    ///
    /// A refused record aborts the transaction. If its batch was refused, the transaction is
    /// repeated with the records of the batch one by one, to find the refused one. A refused
    /// dead letter is replaced by its stub, so that its message can be committed.
    fn run(
        &mut self,
        transaction: &mut Transaction<ConsumerGroupMetadata>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(), Refusal> {
        let mut alone = BTreeSet::new();
        loop {
            let (ended, batch) = self.attempt(transaction, &alone, given_up);
            let Err(Refusal::Record { place, code }) = ended else {
                return ended;
            };
            let record = &mut transaction.records[place].record;
            if batch.len() > 1 && !batch.is_subset(&alone) {
                alone.extend(batch);
            } else if record.is_letter && !dead_letter::is_stub(record) && is_refused_record(code) {
                let stub = dead_letter::stub(record);
                dead_letter::log_stub(record, &stub, code);
                *record = stub;
            } else {
                return ended;
            }
            // After a refused record, librdkafka's producer (2.12) purges the records of the
            // next transaction.
            self.renew(given_up)?;
        }
    }

    /// Executes one transaction, with the records `alone` in batches of one. Also returns
    /// the records that were refused together.
    fn attempt(
        &mut self,
        transaction: &Transaction<ConsumerGroupMetadata>,
        alone: &BTreeSet<usize>,
        given_up: &dyn Fn() -> bool,
    ) -> (Result<(), Refusal>, BTreeSet<usize>) {
        self.steps.enter(Step::Records);
        self.producer.context().forget();
        if let Err(error) = self.producer.begin_transaction() {
            return (Err(fatal(error)), BTreeSet::new());
        }
        let filled = self.fill(transaction, alone, given_up);
        let committed = filled.and_then(|()| {
            self.steps.enter(Step::Commit);
            self.persist(given_up, |limit| self.producer.commit_transaction(limit))
        });
        // Read before the producer may be replaced.
        let batch = self.producer.context().refused_together();
        if let Err(Refusal::Aborted(_) | Refusal::Record { .. }) = &committed
            && let Err(refusal) = self.abort(given_up)
        {
            return (Err(refusal), batch);
        }
        (committed, batch)
    }

    /// Executes all steps but the commit.
    fn fill(
        &self,
        transaction: &Transaction<ConsumerGroupMetadata>,
        alone: &BTreeSet<usize>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(), Refusal> {
        for (place, covered) in transaction.records.iter().enumerate() {
            let is_alone = alone.contains(&place);
            if is_alone {
                self.deliver()?;
            }
            self.send(place, &covered.record)?;
            if is_alone {
                self.deliver()?;
            }
        }
        self.steps.enter(Step::Offsets);
        let offsets = transaction.offsets.iter();
        let offsets = commit_list(offsets.map(|(partition, point)| entry(partition, point)));
        let offsets = offsets.map_err(fatal)?;
        self.persist(given_up, |limit| {
            self.producer
                .send_offsets_to_transaction(&offsets, &transaction.group, limit)
        })?;
        self.steps.enter(Step::Delivery);
        self.deliver()
    }

    /// Waits until all records are delivered, or one is refused.
    fn deliver(&self) -> Result<(), Refusal> {
        // `flush` would take a tenth of a second whenever it has to wait.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL);
            self.look_for_failure()?;
        }
        self.look_for_failure()
    }

    fn send(&self, place: usize, record: &ProducerRecord) -> Result<(), Refusal> {
        let bytes = record.payload.as_ref().map_or(0, Vec::len);
        if bytes > BUFFER_BYTES {
            // The buffer would never have room for it.
            let topic = &record.topic;
            tracing::error!(
                topic,
                bytes,
                limit = BUFFER_BYTES,
                "a record exceeds the size limit of a transaction"
            );
            let code = RDKafkaErrorCode::MessageSizeTooLarge;
            return Err(Refusal::Record { place, code });
        }
        loop {
            let sent = self.producer.send(to_base_record(place, record));
            match sent.map_err(|(error, _)| error) {
                Ok(()) => return Ok(()),
                Err(error) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => {
                        self.producer.poll(POLL);
                        self.look_for_failure()?;
                    }
                    Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::Fenced) => {
                        return Err(fatal(error));
                    }
                    // The transaction has failed already.
                    Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PurgeQueue) => {
                        self.producer.poll(POLL);
                        self.look_for_failure()?;
                        return Err(Refusal::Aborted(RDKafkaErrorCode::State));
                    }
                    code => {
                        let code = code.unwrap_or(RDKafkaErrorCode::InvalidArgument);
                        return Err(Refusal::Record { place, code });
                    }
                },
            }
        }
    }

    fn look_for_failure(&self) -> Result<(), Refusal> {
        match self.producer.context().failure() {
            Some((place, code)) if is_for_good(code) => Err(Refusal::Record { place, code }),
            Some((_, code)) => Err(Refusal::Aborted(code)),
            None => Ok(()),
        }
    }

    fn abort(&mut self, given_up: &dyn Fn() -> bool) -> Result<(), Refusal> {
        self.steps.enter(Step::Abort);
        // librdkafka waits for records in flight, and their reports need polling. If they were
        // purged too, later records would appear to lack their predecessors.
        self.producer.purge(PurgeConfig::default().queue());
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL);
        }
        let aborted = self.persist(given_up, |limit| self.producer.abort_transaction(limit));
        match aborted {
            Err(refusal) if !given_up() => {
                tracing::warn!(
                    error = %refusal,
                    "a transaction could not be aborted; a new producer aborts it"
                );
                self.renew(given_up)
            }
            aborted => aborted,
        }
    }

    /// Replaces the producer by another, which aborts the open transaction, as after a crash.
    /// The coordinator aborts a transaction that was open for too long, and forgets one after a
    /// crash of its own; librdkafka's producer cannot be used after either. Other processes are
    /// fenced by the group's generation.
    fn renew(&mut self, given_up: &dyn Fn() -> bool) -> Result<(), Refusal> {
        let producer = start(&self.config, self.oauth_token.clone());
        self.producer = producer.map_err(fatal)?;
        self.introduce(given_up).map_err(Refusal::Fatal)
    }

    /// Repeats a call until the brokers have answered, within limits, or until it is given up.
    fn persist(
        &self,
        given_up: &dyn Fn() -> bool,
        call: impl Fn(Duration) -> KafkaResult<()>,
    ) -> Result<(), Refusal> {
        let began = Instant::now();
        loop {
            let error = match call(STEP) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !is_retriable(&error) {
                return Err(judged(error));
            }
            if given_up() || began.elapsed() > ANSWER_LIMIT {
                return Err(fatal(error));
            }
            self.producer.poll(POLL);
        }
    }
}

/// Returns `true` if the same call should be repeated.
fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
        KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
        _ => false,
    }
}

fn judged(error: KafkaError) -> Refusal {
    match &error {
        KafkaError::Transaction(said) if said.txn_requires_abort() => Refusal::Aborted(said.code()),
        _ => fatal(error),
    }
}

fn fatal(error: KafkaError) -> Refusal {
    Refusal::Fatal(describe(&error))
}

fn describe(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(said) => said.string(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
