//! Messages that could not be handled, written to a topic of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use penstock_crds::names::TopicName;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use thiserror::Error;

use crate::client::ClientCallbacks;
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

/// Writes dead letters.
pub(crate) struct DeadLetters {
    producer: FutureProducer<ClientCallbacks>,
    topic: TopicName,
    group: String,
}

impl DeadLetters {
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
            producer,
            topic,
            group,
        })
    }

    /// Writes the message with its key, value and headers, adds why it failed,
    /// and waits until the brokers have it.
    pub(crate) async fn send(&self, failed: Failed<'_>) -> Result<(), DeadLetterError> {
        let record = failed.record;
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers() {
            headers = headers.insert(Header { key, value });
        }
        let facts = [
            ("topic", record.topic().to_owned()),
            ("partition", record.partition().to_string()),
            ("offset", record.offset().to_string()),
            ("group", self.group.clone()),
            ("attempts", failed.attempts.to_string()),
            ("reason", failed.reason.to_owned()),
        ];
        for (name, value) in &facts {
            headers = headers.insert(Header {
                key: &format!("penstock.failure.{name}"),
                value: Some(value),
            });
        }
        let mut letter = FutureRecord::<[u8], [u8]>::to(self.topic.as_str()).headers(headers);
        letter.key = record.key();
        letter.payload = record.payload();
        letter.timestamp = record.timestamp();
        self.producer
            .send(letter, ACKNOWLEDGE_TIMEOUT)
            .await
            .map(|_| ())
            .map_err(|(source, _)| DeadLetterError::NotAcknowledged {
                topic: self.topic.clone(),
                source,
            })
    }
}
