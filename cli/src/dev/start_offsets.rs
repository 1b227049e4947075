//! Where a group without offsets begins, settled before messages are produced.
//!
//! With `offsetReset: Latest` a member looks up the end of a partition some time
//! after it was assigned; what is produced before that would be missed. So the
//! present end is committed first, wherever the group has committed nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::librdkafka::{consumer_config, oauth_token_path};
use penstock_crds::names::TopicName;
use penstock_crds::validate::ValidatedConsumer;
use penstock_runtime::client::ClientCallbacks;
use penstock_runtime::{ConnectError, RunError};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::error::DevError;

/// How long the brokers may take for each answer, as for the consumer itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How often the client's events, such as logins by token, are served.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

type Client = BaseConsumer<ClientCallbacks>;

/// Commits the present end of each partition for which the group has no offset.
pub async fn commit_ends(consumer: &ValidatedConsumer, secrets: &Path) -> Result<(), DevError> {
    let mut config = ClientConfig::new();
    config.extend(
        consumer_config(consumer)
            .resolve(secrets)
            .map_err(DevError::Secret)?,
    );
    let callbacks = ClientCallbacks {
        oauth_token: oauth_token_path(&consumer.kafka, secrets),
    };
    let client = Client::from_config_and_context(&config, callbacks)
        .map_err(|error| connecting(consumer, ConnectError::Configuration(error)))?;
    let client = Arc::new(client);
    for topic in &consumer.topics {
        let partitions = partitions(&client, topic)
            .await
            .map_err(|source| {
                let brokers = consumer.kafka.bootstrap_servers.clone();
                connecting(
                    consumer,
                    ConnectError::Metadata {
                        brokers,
                        source,
                        cause: None,
                    },
                )
            })?
            .ok_or_else(|| connecting(consumer, ConnectError::UnknownTopic(topic.clone())))?;
        let topic = topic.to_string();
        ask(&client, move |client| {
            commit_ends_of(client, &topic, partitions)
        })
        .await
        .map_err(DevError::StartOffsets)?;
    }
    Ok(())
}

/// The same as the consumer would say a moment later.
fn connecting(consumer: &ValidatedConsumer, error: ConnectError) -> DevError {
    DevError::run(consumer, RunError::Connect(error))
}

/// Number of a topic's partitions; none where there is no such topic.
async fn partitions(client: &Arc<Client>, topic: &TopicName) -> KafkaResult<Option<i32>> {
    let name = topic.to_string();
    ask(client, move |client| {
        let metadata = client.fetch_metadata(None, ANSWER_LIMIT)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        Ok(topic
            .filter(|topic| topic.error().is_none())
            .and_then(|topic| i32::try_from(topic.partitions().len()).ok()))
    })
    .await
}

fn commit_ends_of(client: &Client, topic: &str, partitions: i32) -> KafkaResult<()> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_range(topic, 0, partitions - 1);
    let known = client.committed_offsets(wanted, ANSWER_LIMIT)?;
    let mut ends = TopicPartitionList::new();
    for element in known.elements() {
        if element.offset() == Offset::Invalid {
            let partition = element.partition();
            let (_, end) = client.fetch_watermarks(topic, partition, ANSWER_LIMIT)?;
            ends.add_partition_offset(topic, partition, Offset::Offset(end))?;
        }
    }
    if ends.count() == 0 {
        return Ok(());
    }
    client.commit(&ends, CommitMode::Sync)
}

/// Asks on a thread of its own, since librdkafka blocks, and serves the client's
/// events meanwhile.
async fn ask<T: Send + 'static>(
    client: &Arc<Client>,
    question: impl FnOnce(&Client) -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    let asking = Arc::clone(client);
    let mut answer = tokio::task::spawn_blocking(move || question(&asking));
    loop {
        tokio::select! {
            answer = &mut answer => {
                return answer.unwrap_or(Err(rdkafka::error::KafkaError::Canceled));
            }
            () = tokio::time::sleep(SERVE_INTERVAL) => {
                let _ = client.poll(Duration::ZERO);
            }
        }
    }
}
