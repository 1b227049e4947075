//! The transactional producer: it writes what handlers gave, and commits offsets with it.
//!
//! librdkafka's transaction calls wait for the brokers, so the producer has a thread of
//! its own. It is given one transaction at a time, and says how that ended.
//!
//! ```text
//! pump ─ records, offsets, generation ─► thread ─► begin, produce, offsets, commit
//!  ▲                                        │
//!  └────────── how it ended ◄───────────────┘
//! ```
//!
//! Zombies are fenced twice. The group's generation goes with the offsets, so that the
//! coordinator refuses those of a consumer that lost its partitions (KIP-447); and a
//! process with the same transactional id ends what its predecessor left open.

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
use crate::commits::entry;
use crate::dead_letter;
use crate::kafka::{Transactional, commit_list, error_text, is_for_good, is_refused_record};
use crate::partition::{CommitPoint, Partition};
use crate::produce::ProducerRecord;

mod producer;
mod reports;
mod step;

/// Longest time for the brokers to know the transactional id, for which they wait for
/// what a predecessor left open; to take a transaction's offsets; and to end it. Who takes
/// the partitions on, and readers, wait for that end; a new process brings it about.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait in one call; it goes on in the next.
const STEP: Duration = Duration::from_secs(2);

/// How long one look for reports of delivery takes.
const POLL: Duration = Duration::from_millis(1);

/// How often an idle producer serves what it has to tell.
const IDLE: Duration = Duration::from_secs(1);

/// Why there is no transactional producer.
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
        /// What Kafka said.
        reason: String,
    },
    /// The thread could not be started.
    #[error("the thread of the transactional producer could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What is done in one transaction.
pub(crate) struct Transaction<M> {
    pub(crate) records: Vec<Covered>,
    pub(crate) offsets: Vec<(Arc<Partition>, CommitPoint)>,
    /// The generation of the group by which the partitions are ours.
    pub(crate) group: M,
}

/// A record, and the message whose handler gave it.
pub(crate) struct Covered {
    /// Number of the partition in the transaction.
    pub(crate) partition: usize,
    pub(crate) offset: i64,
    pub(crate) record: ProducerRecord,
}

/// How a transaction ended, and its records.
pub(crate) struct Outcome {
    pub(crate) records: Vec<Covered>,
    pub(crate) result: Result<(), Refusal>,
}

/// Why a transaction did not commit.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nothing of it happened; another may commit.
    Aborted(RDKafkaErrorCode),
    /// Nothing of it happened: this record, by its place, can't be produced.
    Record {
        place: usize,
        code: RDKafkaErrorCode,
    },
    /// Whether it happened is known to the brokers alone, and the producer is of no
    /// more use.
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

/// Gives transactions to the producer's thread, which ends when this is dropped.
pub(crate) struct Transactions {
    jobs: mpsc::Sender<Job>,
    steps: Arc<Steps>,
}

/// A transaction for the producer's thread, and where its end is reported.
type Job = (Transaction<ConsumerGroupMetadata>, oneshot::Sender<Outcome>);

/// How to reach Kafka, and as whom.
pub(crate) struct Identity<'a> {
    /// librdkafka properties.
    pub(crate) connection: &'a BTreeMap<String, String>,
    /// The transactional id.
    pub(crate) id: String,
    /// Where the access token is, for OAUTHBEARER.
    pub(crate) oauth_token: Option<PathBuf>,
}

impl Transactions {
    /// A producer that the brokers know. `wake` is notified of each end of a transaction.
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
        // Fails only when the thread is gone, which the receiver tells.
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

    /// Has the brokers end what a predecessor left open, and fence it.
    fn introduce(&self, given_up: &dyn Fn() -> bool) -> Result<(), String> {
        self.steps.enter(Step::Introduction);
        // A login by token is served first.
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

    /// Commits a transaction, unless a record of it can't be produced. It is left open if
    /// it is `given_up`.
    ///
    /// A record that is refused aborts it. Where its batch was refused, it is begun again
    /// with the batch's records one by one, to find the one that is meant. A dead letter
    /// that is refused is replaced by its stub, so that its message can be committed.
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
            // After a refused record librdkafka's (2.12) purges those of the next transaction.
            self.renew(given_up)?;
        }
    }

    /// One transaction from its begin to its end, with these records in batches of their
    /// own. Also returns the records that were refused together.
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
        // Before the producer is perhaps another.
        let batch = self.producer.context().refused_together();
        if let Err(Refusal::Aborted(_) | Refusal::Record { .. }) = &committed
            && let Err(refusal) = self.abort(given_up)
        {
            return (Err(refusal), batch);
        }
        (committed, batch)
    }

    /// Everything but the commit.
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

    /// Waits until every record so far is delivered, or one is not.
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
            // There would never be room for it.
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
        // librdkafka waits for what is in flight, and reports of it need polling. Were
        // that purged too, later records would seem to have lost their predecessors.
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

    /// Another producer takes over and ends what is open, as one does that comes after a
    /// crash. The coordinator has ended a transaction by itself that was open for too
    /// long, or does not know of it after a crash of its own; librdkafka's producer is of
    /// no more use then. Who else might be at work is fenced by the group's generation.
    fn renew(&mut self, given_up: &dyn Fn() -> bool) -> Result<(), Refusal> {
        let producer = start(&self.config, self.oauth_token.clone());
        self.producer = producer.map_err(fatal)?;
        self.introduce(given_up).map_err(Refusal::Fatal)
    }

    /// Calls until the brokers have answered, within limits, or nobody wants to know any
    /// more.
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

/// Whether the same call is to be made again.
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
