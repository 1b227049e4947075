//! Messages that could not be handled, written to a topic of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use penstock_crds::names::TopicName;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use thiserror::Error;

use crate::client::ClientCallbacks;
use crate::produce::{Done, ProducerRecord};
use crate::record::Record;

/// How long the brokers may take to acknowledge a dead letter before the
/// consumer ends rather than commit past it.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a dead letter could not be written.
#[derive(Debug, Error)]
pub enum DeadLetterError {
    /// librdkafka refused the configuration.
    #[error("the dead-letter producer refused its configuration: {0}")]
    Configuration(KafkaError),
    /// The brokers did not take it.
    #[error("the message could not be written to the dead-letter topic '{topic}': {source}")]
    NotAcknowledged {
        /// The dead-letter topic.
        topic: TopicName,
        /// What Kafka said.
        source: KafkaError,
    },
}

/// A message that could not be handled.
pub(crate) struct Failed<'a> {
    pub(crate) record: &'a Record,
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
}

/// Writes dead letters, or has them written in the transaction that commits their
/// messages.
pub(crate) struct DeadLetters {
    producer: Option<FutureProducer<ClientCallbacks>>,
    topic: TopicName,
    group: String,
}

impl DeadLetters {
    /// Letters that are records of their messages' transactions.
    pub(crate) fn in_transactions(topic: TopicName, group: String) -> Self {
        Self {
            producer: None,
            topic,
            group,
        }
    }

    /// A producer with the consumer's connection.
    pub(crate) fn new(
        connection: &BTreeMap<String, String>,
        topic: TopicName,
        group: String,
        oauth_token: Option<PathBuf>,
    ) -> Result<Self, DeadLetterError> {
        let mut config = ClientConfig::new();
        config.extend(connection.clone());
        // Written once and in order for each partition, and by all replicas,
        // before the offset behind it may be committed.
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set(
            "message.timeout.ms",
            ACKNOWLEDGE_TIMEOUT.as_millis().to_string(),
        );
        config.set_log_level(RDKafkaLogLevel::Info);
        let producer =
            FutureProducer::from_config_and_context(&config, ClientCallbacks { oauth_token })
                .map_err(DeadLetterError::Configuration)?;
        Ok(Self {
            producer: Some(producer),
            topic,
            group,
        })
    }

    /// Writes the message with its key, value and headers and why it failed, and waits
    /// until the brokers have it; or gives that as a record of its transaction.
    pub(crate) async fn send(&self, failed: Failed<'_>) -> Result<Done, DeadLetterError> {
        let letter = self.letter(failed);
        let Some(producer) = &self.producer else {
            return Ok(letter.into());
        };
        let mut record = FutureRecord::<[u8], [u8]>::to(&letter.topic);
        record.headers = letter.native_headers();
        record.key = letter.key.as_deref();
        record.payload = letter.payload.as_deref();
        record.timestamp = letter.timestamp;
        match producer.send(record, ACKNOWLEDGE_TIMEOUT).await {
            Ok(_) => Ok(Done::default()),
            Err((source, _)) => Err(DeadLetterError::NotAcknowledged {
                topic: self.topic.clone(),
                source,
            }),
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
            ("reason", failed.reason.to_owned()),
        ];
        let own = record.headers();
        let own = own.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
        let facts = facts.into_iter().map(|(name, value)| {
            let name = format!("penstock.failure.{name}");
            (name, Some(value.into_bytes()))
        });
        ProducerRecord {
            topic: self.topic.to_string(),
            partition: None,
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            headers: own.chain(facts).collect(),
            timestamp: record.timestamp(),
        }
    }
}
