//! Dead letters: messages that could not be handled, written to the dead-letter topic.
//!
//! A dead letter must always be possible; otherwise the consumer would end at the same message
//! again and again. So each letter is made to fit. The reason is cut at 4 KiB, headers of an
//! earlier failure are replaced, and no limit of librdkafka is below the brokers' limits. A
//! letter that the brokers refuse permanently is replaced by a stub, which names the message's
//! position and the omitted parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use penstock_crds::names::TopicName;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use thiserror::Error;

use crate::handler::produce::{Done, MAX_RECORD_BYTES, Outgoing as _, ProducerRecord};
use crate::handler::record::Record;
use crate::kafka::client::ClientCallbacks;
use crate::kafka::{error_text, is_refused_record};

/// The maximum time for the brokers to acknowledge a dead letter. After it the consumer ends,
/// rather than commit past the message.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The prefix of the names of a letter's own headers.
const PREFIX: &str = "penstock.failure.";

/// The header of a stub that lists the omitted parts.
const OMITTED: &str = "penstock.failure.omitted";

/// The maximum length of the reason in a letter, in bytes.
const MAX_REASON_BYTES: usize = 4096;

/// The maximum length of a key that a stub keeps, in bytes.
const MAX_STUB_KEY_BYTES: usize = 1024;

/// The error of writing a dead letter.
#[derive(Debug, Error)]
pub enum DeadLetterError {
    /// librdkafka refused the configuration.
    #[error("the dead-letter producer refused its configuration: {}", error_text(.0))]
    Configuration(KafkaError),
    /// The brokers did not acknowledge the letter.
    #[error("the message could not be written to the dead-letter topic '{topic}': {source}")]
    NotAcknowledged {
        /// The dead-letter topic.
        topic: TopicName,
        /// The error from Kafka.
        source: KafkaError,
    },
    /// The brokers refuse the letter and its stub.
    #[error(
        "the message could not be written to the dead-letter topic '{topic}': the brokers refuse even its key and the headers of its failure: {source}. Allow records without a schema and without a key in the topic, of at least 16 KiB each"
    )]
    Refused {
        /// The dead-letter topic.
        topic: TopicName,
        /// The error from Kafka.
        source: KafkaError,
    },
}

/// A message that could not be handled.
pub(crate) struct Failed<'a> {
    pub(crate) record: &'a Record,
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
}

/// A sink for letters outside transactions.
pub(crate) trait LetterSink: Send + Sync {
    /// Writes a letter, and waits until all replicas have it, or the brokers refuse it.
    fn send<'a>(
        &'a self,
        letter: &'a ProducerRecord,
    ) -> BoxFuture<'a, Result<(), RDKafkaErrorCode>>;
}

/// Writes dead letters, directly or in the transactions that commit their messages.
pub(crate) struct DeadLetters {
    /// `None` if letters are records of their messages' transactions.
    sink: Option<Box<dyn LetterSink>>,
    topic: TopicName,
    group: String,
}

impl DeadLetters {
    /// Creates the letters of a consumer. Without a `sink` they are records of their
    /// messages' transactions.
    pub(crate) fn new(sink: Option<Box<dyn LetterSink>>, topic: TopicName, group: String) -> Self {
        Self { sink, topic, group }
    }

    /// Writes the message with its key, value, headers and the failure, and waits until the
    /// brokers have it. In transactions, returns the letter as a record instead.
    pub(crate) async fn send(&self, failed: Failed<'_>) -> Result<Done, DeadLetterError> {
        let letter = self.letter(failed);
        let Some(sink) = &self.sink else {
            return Ok(letter.into());
        };
        let Err(code) = sink.send(&letter).await else {
            return Ok(Done::default());
        };
        if !is_refused_record(code) {
            return Err(DeadLetterError::NotAcknowledged {
                topic: self.topic.clone(),
                source: KafkaError::MessageProduction(code),
            });
        }
        let stub = stub(&letter);
        log_stub(&letter, &stub, code);
        match sink.send(&stub).await {
            Ok(()) => Ok(Done::default()),
            Err(code) => Err(self.stub_failed(code)),
        }
    }

    fn stub_failed(&self, code: RDKafkaErrorCode) -> DeadLetterError {
        let topic = self.topic.clone();
        let source = KafkaError::MessageProduction(code);
        if is_refused_record(code) {
            DeadLetterError::Refused { topic, source }
        } else {
            DeadLetterError::NotAcknowledged { topic, source }
        }
    }

    fn letter(&self, failed: Failed<'_>) -> ProducerRecord {
        let record = failed.record;
        let facts = [
            ("topic", record.topic().to_owned()),
            ("partition", record.partition().to_string()),
            ("offset", record.offset().to_string()),
            ("group", self.group.clone()),
            ("attempts", failed.attempts.to_string()),
            ("reason", truncated(failed.reason).to_owned()),
        ];
        // A message may be a letter of an earlier failure, with another position.
        let own = record
            .headers()
            .filter(|(name, _)| !name.starts_with(PREFIX))
            .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
        let facts = facts
            .into_iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), Some(value.into_bytes())));
        ProducerRecord {
            topic: self.topic.to_string(),
            partition: None,
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            headers: own.chain(facts).collect(),
            timestamp: record.timestamp(),
            is_letter: true,
        }
    }
}

/// Returns the start of a reason that fits a letter, cut between two characters.
fn truncated(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

/// Returns the stub for a refused letter: the headers of its failure, which list the omitted
/// parts, and its key if that is short.
///
/// The value is empty, not null: in a compacted topic, null would delete.
pub(crate) fn stub(letter: &ProducerRecord) -> ProducerRecord {
    let mut omitted = Vec::new();
    let key = letter
        .key
        .clone()
        .filter(|key| key.len() <= MAX_STUB_KEY_BYTES);
    if key.is_none() && letter.key.is_some() {
        omitted.push("key");
    }
    if letter.payload.is_some() {
        omitted.push("value");
    }
    let (mut headers, others): (Vec<_>, Vec<_>) = letter
        .headers
        .iter()
        .cloned()
        .partition(|(name, _)| name.starts_with(PREFIX));
    if !others.is_empty() {
        omitted.push("headers");
    }
    headers.push((OMITTED.to_owned(), Some(omitted.join(", ").into_bytes())));
    ProducerRecord {
        topic: letter.topic.clone(),
        partition: letter.partition,
        key,
        payload: letter.payload.as_ref().map(|_| Vec::new()),
        headers,
        timestamp: letter.timestamp,
        is_letter: true,
    }
}

/// Returns `true` if the letter is a stub.
pub(crate) fn is_stub(letter: &ProducerRecord) -> bool {
    letter.headers.iter().any(|(name, _)| name == OMITTED)
}

/// Logs that a stub replaces a letter, and the reason.
pub(crate) fn log_stub(letter: &ProducerRecord, stub: &ProducerRecord, code: RDKafkaErrorCode) {
    tracing::warn!(
        dead_letter_topic = letter.topic,
        topic = header(letter, "topic"),
        partition = header(letter, "partition"),
        offset = header(letter, "offset"),
        bytes = letter.weight(),
        omitted = header(stub, "omitted"),
        error = %code,
        "the brokers refuse a dead letter; the runtime writes a stub without its value instead. To keep such messages, raise max.message.bytes of the dead-letter topic"
    );
}

/// Returns the text of one of the letter's own headers.
fn header(letter: &ProducerRecord, name: &str) -> Option<String> {
    let (_, value) = letter
        .headers
        .iter()
        .find(|(full, _)| full.strip_prefix(PREFIX) == Some(name))?;
    Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
}

/// Creates a sink that produces to Kafka with the consumer's connection.
pub(crate) fn kafka_sink(
    connection: &BTreeMap<String, String>,
    oauth_token: Option<PathBuf>,
) -> Result<Box<dyn LetterSink>, DeadLetterError> {
    let callbacks = ClientCallbacks { oauth_token };
    let producer = FutureProducer::from_config_and_context(&config(connection), callbacks)
        .map_err(DeadLetterError::Configuration)?;
    Ok(Box::new(KafkaSink(producer)))
}

/// Returns the configuration of the producer of letters.
pub(crate) fn config(connection: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(connection.clone());
    // Each letter is written once, in order in each partition, and to all replicas, before the
    // offset after it may be committed.
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    config.set(
        "message.timeout.ms",
        ACKNOWLEDGE_TIMEOUT.as_millis().to_string(),
    );
    config.set("message.max.bytes", MAX_RECORD_BYTES.to_string());
    // The brokers accept or refuse whole batches. With one letter in each batch, no letter is
    // refused because of another.
    config.set("batch.num.messages", "1");
    // A compressed message may be larger than the topic accepts without compression.
    config.set("compression.type", "lz4");
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

struct KafkaSink(FutureProducer<ClientCallbacks>);

impl LetterSink for KafkaSink {
    fn send<'a>(
        &'a self,
        letter: &'a ProducerRecord,
    ) -> BoxFuture<'a, Result<(), RDKafkaErrorCode>> {
        let mut record = FutureRecord::<[u8], [u8]>::to(&letter.topic);
        record.headers = letter.native_headers();
        record.key = letter.key.as_deref();
        record.payload = letter.payload.as_deref();
        record.timestamp = letter.timestamp;
        async move {
            let sent = self.0.send(record, ACKNOWLEDGE_TIMEOUT).await;
            sent.map(|_| ()).map_err(|(error, _)| {
                let code = error.rdkafka_error_code();
                code.unwrap_or(RDKafkaErrorCode::Unknown)
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
