//! Short-lived Kafka clients: one question each.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_runtime::{METADATA_TIMEOUT, oauth};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use thiserror::Error;
use tokio::task::spawn_blocking;

use super::Resolution;

/// How often a client's errors and logins are served while it waits.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

/// How to reach a cluster, and as whom. Consumers with equal connections share
/// what is learnt over one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// librdkafka properties, with credentials.
    pub properties: BTreeMap<String, String>,
    /// Access token, for OAUTHBEARER.
    pub token: Option<String>,
}

impl Connection {
    /// The bootstrap servers, for messages.
    pub fn brokers(&self) -> String {
        let brokers = self.properties.get("bootstrap.servers");
        brokers.cloned().unwrap_or_default()
    }
}

/// The topics of a cluster, and their partitions.
pub(super) type Topics = HashMap<String, Partitions>;

/// The partitions of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partitions {
    /// Number of partitions.
    pub count: i32,
    /// The partitions that have no leader.
    pub leaderless: Vec<i32>,
}

impl Partitions {
    fn of(topic: &MetadataTopic) -> Self {
        let partitions = topic.partitions();
        let leaderless = partitions.iter().filter(|partition| partition.leader() < 0);
        Self {
            count: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            leaderless: leaderless.map(MetadataPartition::id).collect(),
        }
    }
}

/// Which messages a client reads, and up to where a log then reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Messages before the first open transaction.
    Committed,
    /// All messages.
    Uncommitted,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Why the topics of a cluster can't be listed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    /// No broker answered in time.
    #[error("{0}")]
    Unreachable(String),
    /// The brokers refuse the connection, or the client its configuration.
    #[error("{0}")]
    Refused(String),
}

impl ListError {
    pub(super) fn resolution(&self, connection: &Connection) -> Resolution {
        let brokers = connection.brokers();
        match self.clone() {
            Self::Unreachable(error) => Resolution::Unreachable { brokers, error },
            Self::Refused(error) => Resolution::Refused { brokers, error },
        }
    }
}

/// A client that takes note of errors.
pub(super) struct Context {
    token: Option<String>,
    /// The first error that is about the connection, and whether it is final.
    trouble: Mutex<Option<ListError>>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = stable(reason);
        let mut trouble = self.trouble.lock();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                *trouble = Some(ListError::Refused(reason));
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            _ => {
                trouble.get_or_insert(ListError::Unreachable(reason));
            }
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.token {
            Some(token) => Ok(oauth::token(token)),
            None => Err("no token is configured".into()),
        }
    }
}

impl ConsumerContext for Context {}

pub(super) type Client = BaseConsumer<Context>;

/// Creates a client, in `group` if it is about a group's offsets. It never joins.
///
/// It is made in a thread that serves no connection of ours: librdkafka leaves
/// OpenSSL errors behind in the thread in which it reads certificates, and the next
/// use of TLS there, such as a watch of the API server, would fail by them.
pub(super) async fn client(
    connection: &Connection,
    group: Option<&str>,
    isolation: Isolation,
) -> Result<Arc<Client>, KafkaError> {
    let mut config = ClientConfig::new();
    config.extend(connection.properties.clone());
    config.set("isolation.level", isolation.name());
    config.set_log_level(RDKafkaLogLevel::Warning);
    if let Some(group) = group {
        config.set("group.id", group);
    }
    let context = Context {
        token: connection.token.clone(),
        trouble: Mutex::default(),
    };
    let made = spawn_blocking(move || BaseConsumer::from_config_and_context(&config, context));
    match made.await {
        Ok(made) => made.map(Arc::new),
        Err(aborted) => Err(KafkaError::ClientCreation(aborted.to_string())),
    }
}

/// Gives up a client, which waits for its threads to end.
pub(super) fn retire(client: Arc<Client>) {
    spawn_blocking(move || drop(client));
}

/// Asks for the topics of the cluster.
pub(super) async fn list_topics(connection: &Connection) -> Result<Topics, ListError> {
    let client = client(connection, None, Isolation::Committed)
        .await
        .map_err(|error| ListError::Refused(format!("the Kafka client refused it: {error}")))?;
    let asking = Arc::clone(&client);
    let answer = served(&client, async move {
        spawn_blocking(move || asking.fetch_metadata(None, METADATA_TIMEOUT)).await
    })
    .await;
    let trouble = client.context().trouble.lock().take();
    retire(client);
    let metadata = match answer {
        None => return Err(trouble.unwrap_or(ListError::Refused("it was refused".into()))),
        Some(Err(_)) => return Err(ListError::Unreachable("the request was aborted".into())),
        Some(Ok(Err(error))) => {
            return Err(trouble.unwrap_or(ListError::Unreachable(error.to_string())));
        }
        Some(Ok(Ok(metadata))) => metadata,
    };
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| (topic.name().to_owned(), Partitions::of(topic)))
        .collect())
}

/// Serves the client while a request is under way: logins by token and errors
/// are told in its poll. Ends early, with nothing, when the brokers refuse it.
pub(super) async fn served<T>(client: &Arc<Client>, request: impl Future<Output = T>) -> Option<T> {
    let mut request = std::pin::pin!(request);
    loop {
        tokio::select! {
            answer = &mut request => return Some(answer),
            () = tokio::time::sleep(SERVE_INTERVAL) => {
                let _ = client.poll(Duration::ZERO);
                let refused = matches!(*client.context().trouble.lock(), Some(ListError::Refused(_)));
                if refused {
                    return None;
                }
            }
        }
    }
}

/// What the client says, less what differs each time: who says it, in front, and
/// how long it took, at the end.
fn stable(reason: &str) -> String {
    let text = reason.split(" (after ").next().unwrap_or(reason);
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_the_same_each_time() {
        let first = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
        let later = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 3ms in state CONNECT, 2 identical error(s) suppressed)";
        assert_eq!(stable(first), stable(later));
        assert!(stable(first).ends_with("Connection refused"));
    }
}
