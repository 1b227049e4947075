//! The transactional producer of librdkafka: its configuration, and records as it takes
//! them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use penstock_crds::librdkafka::TRANSACTION_TIMEOUT;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::reports::Reports;
use crate::handler::produce::{MAX_RECORD_BYTES, Outgoing as _, ProducerRecord};

/// The maximum time to deliver a record. After it the transaction is aborted. Its coordinator
/// must not have aborted it before: that would fence the producer.
const DELIVERY_LIMIT: Duration = Duration::from_secs(5);

/// The time for which a topic may be unknown to the brokers, in case it is being created. It is
/// less than a record's time, so that the error names the topic and not the timeout.
const TOPIC_LIMIT: Duration = Duration::from_secs(2);

/// The maximum size of a batch of several records. The brokers refuse a batch as a whole,
/// so it stays below what any topic takes that takes the records.
const BATCH_BYTES: &str = "65536";

/// The maximum that the producer holds in memory, in bytes of values. Records wait in
/// their outboxes for it; a value that is larger than all of it can't be produced.
pub(super) const BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// The producer's configuration.
pub(super) fn config(connection: &BTreeMap<String, String>, id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(connection.clone());
    config.set("transactional.id", id);
    for (name, limit) in [
        ("transaction.timeout.ms", TRANSACTION_TIMEOUT),
        ("message.timeout.ms", DELIVERY_LIMIT),
        ("topic.metadata.propagation.max.ms", TOPIC_LIMIT),
    ] {
        config.set(name, limit.as_millis().to_string());
    }
    let kbytes = BUFFER_BYTES / 1024;
    config.set("queue.buffering.max.kbytes", kbytes.to_string());
    config.set("message.max.bytes", MAX_RECORD_BYTES.to_string());
    config.set("batch.size", BATCH_BYTES);
    config.set("linger.ms", "0");
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

pub(super) fn start(
    config: &ClientConfig,
    oauth_token: Option<PathBuf>,
) -> KafkaResult<BaseProducer<Reports>> {
    BaseProducer::from_config_and_context(config, Reports::new(oauth_token))
}

pub(super) fn to_base_record(
    place: usize,
    record: &ProducerRecord,
) -> BaseRecord<'_, [u8], [u8], usize> {
    BaseRecord {
        topic: &record.topic,
        partition: record.partition,
        payload: record.payload.as_deref(),
        key: record.key.as_deref(),
        timestamp: record.timestamp,
        headers: record.native_headers(),
        delivery_opaque: place,
    }
}
