//! Filling topics.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::task::{JoinError, spawn_blocking};

use crate::Position;
use crate::sync::lock;
use crate::topics;

/// Longest time for all messages of one call to be stored.
const LIMIT: Duration = Duration::from_secs(60);

/// Messages could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// A message, or the producer itself, was refused.
    #[error("producing to {topic}, message {seq}: {error}")]
    Refused {
        /// Where to.
        topic: String,
        /// Which message.
        seq: u64,
        /// Why.
        error: Box<KafkaError>,
    },
    /// Not all were confirmed in time.
    #[error("only {confirmed} of {count} messages to {topic} were confirmed in {LIMIT:?}")]
    TimedOut {
        /// Where to.
        topic: String,
        /// How many were.
        confirmed: usize,
        /// How many were sent.
        count: usize,
    },
    /// The thread that produced panicked.
    #[error("a background thread ended: {0}")]
    Thread(#[from] JoinError),
}

/// Where the message with a sequence number was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Sequence number, the `seq` of a JSON value.
    pub seq: u64,
    /// Where it lies.
    pub position: Position,
}

type ByNumber<T> = Box<dyn Fn(u64) -> T + Send + 'static>;

/// Messages to be produced: numbered, by default `{"seq": N}` with the key `key-N`
/// modulo 100, spread by key.
pub struct Produce {
    topic: String,
    count: u64,
    first: u64,
    key: ByNumber<Option<String>>,
    value: Option<ByNumber<Option<Vec<u8>>>>,
    partition: Option<ByNumber<i32>>,
    headers: Vec<(String, ByNumber<Option<Vec<u8>>>)>,
    endpoint_timestamp: bool,
}

impl Produce {
    /// One message to `topic`.
    pub fn to(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            count: 1,
            first: 0,
            key: Box::new(|seq| Some(format!("key-{}", seq % 100))),
            value: None,
            partition: None,
            headers: Vec::new(),
            endpoint_timestamp: false,
        }
    }

    /// How many messages.
    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Number of the first; the others follow.
    #[must_use]
    pub fn first_seq(mut self, first: u64) -> Self {
        self.first = first;
        self
    }

    /// The key of each number.
    #[must_use]
    pub fn key(mut self, key: impl Fn(u64) -> Option<String> + Send + 'static) -> Self {
        self.key = Box::new(key);
        self
    }

    /// The value of each number instead of the JSON; none is a tombstone.
    #[must_use]
    pub fn value(mut self, value: impl Fn(u64) -> Option<Vec<u8>> + Send + 'static) -> Self {
        self.value = Some(Box::new(value));
        self
    }

    /// The partition of each number, instead of the key's.
    #[must_use]
    pub fn partition(mut self, partition: impl Fn(u64) -> i32 + Send + 'static) -> Self {
        self.partition = Some(Box::new(partition));
        self
    }

    /// Adds a header to every message.
    #[must_use]
    pub fn header(self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let value = value.into();
        self.header_of(name, move |_| Some(value.clone()))
    }

    /// Adds a header to each number for which there is a value.
    #[must_use]
    pub fn header_of(
        mut self,
        name: impl Into<String>,
        value: impl Fn(u64) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        self.headers.push((name.into(), Box::new(value)));
        self
    }

    /// Adds to the JSON the time of production, `endpoint_timestamp`, in
    /// milliseconds since 1970.
    #[must_use]
    pub fn endpoint_timestamp(mut self) -> Self {
        self.endpoint_timestamp = true;
        self
    }

    /// Produces all and waits until the broker has stored them. The result is in
    /// the order of the numbers.
    ///
    /// # Errors
    /// [`ProduceError`] when one was not stored.
    pub async fn send(self, bootstrap: &str) -> Result<Vec<Produced>, ProduceError> {
        let bootstrap = bootstrap.to_owned();
        spawn_blocking(move || self.send_blocking(&bootstrap)).await?
    }

    fn send_blocking(self, bootstrap: &str) -> Result<Vec<Produced>, ProduceError> {
        let deadline = Instant::now() + LIMIT;
        let producer: BaseProducer<Confirmed> = topics::client(bootstrap)
            .set("linger.ms", "5")
            .set("batch.num.messages", "20000")
            .set("queue.buffering.max.messages", "200000")
            .set("enable.idempotence", "true")
            // What the broker takes at most: 1 MB and a batch's head.
            .set("message.max.bytes", "1048588")
            .create_with_context(Confirmed::default())
            .map_err(|error| self.refused(self.first, error))?;

        for seq in self.first..self.first + self.count {
            self.enqueue(&producer, seq, deadline)?;
        }
        // What is left at the deadline shows as not confirmed.
        let _ = producer.flush(deadline.saturating_duration_since(Instant::now()));

        let mut confirmed = std::mem::take(&mut *lock(&producer.context().0));
        confirmed.sort_by_key(|(seq, _)| *seq);
        let produced = confirmed
            .into_iter()
            .map(|(seq, outcome)| match outcome {
                Ok(position) => Ok(Produced { seq, position }),
                Err(error) => Err(self.refused(seq, error)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if produced.len() as u64 == self.count {
            Ok(produced)
        } else {
            Err(ProduceError::TimedOut {
                topic: self.topic,
                confirmed: produced.len(),
                count: usize::try_from(self.count).unwrap_or(usize::MAX),
            })
        }
    }

    /// Hands one message to the producer, and waits while its queue is full.
    fn enqueue(
        &self,
        producer: &BaseProducer<Confirmed>,
        seq: u64,
        deadline: Instant,
    ) -> Result<(), ProduceError> {
        let key = (self.key)(seq);
        let value = match &self.value {
            Some(value) => value(seq),
            None => Some(self.json(seq)),
        };
        let mut record: BaseRecord<'_, str, [u8], Box<u64>> =
            BaseRecord::with_opaque_to(&self.topic, Box::new(seq));
        record.key = key.as_deref();
        record.payload = value.as_deref();
        record.partition = self.partition.as_ref().map(|partition| partition(seq));
        record.headers = self.headers(seq);

        loop {
            match producer.send(record) {
                Ok(()) => {
                    producer.poll(Duration::ZERO);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if Instant::now() < deadline =>
                {
                    record = again;
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(self.refused(seq, error)),
            }
        }
    }

    fn json(&self, seq: u64) -> Vec<u8> {
        if self.endpoint_timestamp {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            format!(
                r#"{{"seq":{seq},"endpoint_timestamp":{}}}"#,
                now.as_millis()
            )
            .into()
        } else {
            format!(r#"{{"seq":{seq}}}"#).into()
        }
    }

    fn headers(&self, seq: u64) -> Option<OwnedHeaders> {
        let mut headers: Option<OwnedHeaders> = None;
        for (name, value) in &self.headers {
            if let Some(value) = value(seq) {
                let header = Header {
                    key: name,
                    value: Some(&value),
                };
                headers = Some(headers.unwrap_or_default().insert(header));
            }
        }
        headers
    }

    fn refused(&self, seq: u64, error: KafkaError) -> ProduceError {
        ProduceError::Refused {
            topic: self.topic.clone(),
            seq,
            error: Box::new(error),
        }
    }
}

/// Collects what became of each message.
#[derive(Default)]
struct Confirmed(Mutex<Vec<(u64, Result<Position, KafkaError>)>>);

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: Box<u64>) {
        let outcome = match result {
            Ok(message) => Ok(Position::new(
                message.topic(),
                message.partition(),
                message.offset(),
            )),
            Err((error, _)) => Err(error.clone()),
        };
        lock(&self.0).push((*seq, outcome));
    }
}
