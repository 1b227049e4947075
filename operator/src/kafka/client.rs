//! Short-lived Kafka clients: one question each.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_runtime::{METADATA_TIMEOUT, error_text, oauth};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Resolution;
use super::policy::{BrokerPolicy, NotAllowed};
use super::settings::{Connection, Isolation, client_config};
use super::slots::Slot;

/// How often a client's errors and logins are served while it waits.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum time for all topics of a listing.
const LIST_BUDGET: Duration = Duration::from_secs(12);

/// The maximum time for the names of the bootstrap brokers.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// The maximum time for a listing and the client that it needs.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// What the brokers said of each topic that they were asked for; `None`: it is not there.
pub(super) type Topics = HashMap<String, Option<Partitions>>;

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

/// Why the topics of a cluster can't be listed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    /// No broker answered in time.
    #[error("{0}")]
    Unreachable(String),
    /// The brokers refuse the connection, or the client its configuration.
    #[error("{0}")]
    Refused(String),
    /// The operator may not connect to a broker.
    #[error("{0}")]
    NotAllowed(NotAllowed),
}

impl ListError {
    pub(super) fn resolution(&self, connection: &Connection) -> Resolution {
        let brokers = connection.brokers().to_owned();
        match self.clone() {
            Self::Unreachable(error) => Resolution::Unreachable { brokers, error },
            Self::Refused(error) => Resolution::Refused { brokers, error },
            Self::NotAllowed(broker) => Resolution::NotAllowed(broker),
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

/// A client with its slot. The slot is free again once the client's threads have ended,
/// even if nobody waits for that: a client that is stuck takes up a slot of its own
/// namespace and nothing else.
struct Session {
    client: Option<Arc<Client>>,
    slot: Arc<Slot>,
}

impl Session {
    /// Creates a client, in `group` if it is about a group's offsets. It never joins.
    ///
    /// It is made in a thread that serves no connection of ours: librdkafka leaves
    /// OpenSSL errors behind in the thread in which it reads certificates, and the next
    /// use of TLS there, such as a watch of the API server, would fail by them.
    async fn open(
        slot: &Arc<Slot>,
        connection: &Connection,
        group: Option<&str>,
        isolation: Isolation,
    ) -> Result<Self, ListError> {
        let config = client_config(connection, group, isolation);
        let context = Context {
            token: connection.token().map(str::to_owned),
            trouble: Mutex::default(),
        };
        let held = Arc::clone(slot);
        let made = spawn_blocking(move || {
            let made: Result<Client, _> = config.create_with_context(context);
            // The slot goes last.
            (made, held)
        });
        let (made, slot) = made
            .await
            .map_err(|aborted| ListError::Refused(aborted.to_string()))?;
        match made {
            Ok(client) => Ok(Self {
                client: Some(Arc::new(client)),
                slot,
            }),
            Err(error) => {
                let error = error_text(&error);
                Err(ListError::Refused(format!(
                    "the Kafka client refused it: {error}"
                )))
            }
        }
    }
}

impl Drop for Session {
    /// Gives up the client, which waits for its threads to end.
    fn drop(&mut self) {
        let (client, slot) = (self.client.take(), Arc::clone(&self.slot));
        spawn_blocking(move || {
            drop(client);
            drop(slot);
        });
    }
}

/// Has a client of its own ask something, for at most `limit`.
pub(super) async fn ask<T: Send + 'static>(
    slot: &Arc<Slot>,
    connection: &Connection,
    group: Option<&str>,
    isolation: Isolation,
    limit: Duration,
    question: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, ListError> {
    let asked = async {
        let session = Session::open(slot, connection, group, isolation).await?;
        let Some(client) = &session.client else {
            return Err(ListError::Unreachable("there is no client".into()));
        };
        let (asking, held) = (Arc::clone(client), Arc::clone(slot));
        let answer = served(client, async move {
            let answer = spawn_blocking(move || {
                let answer = question(&asking);
                drop(asking);
                drop(held);
                answer
            });
            answer.await
        })
        .await;
        let trouble = client.context().trouble.lock().take();
        match answer {
            None => Err(trouble.unwrap_or(ListError::Refused("it was refused".into()))),
            Some(Err(_)) => Err(ListError::Unreachable("the request was aborted".into())),
            Some(Ok(Err(error))) => {
                Err(trouble.unwrap_or(ListError::Unreachable(error_text(&error))))
            }
            Some(Ok(Ok(answer))) => Ok(answer),
        }
    };
    let no_answer = || ListError::Unreachable(format!("no answer within {limit:?}"));
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(no_answer()))
}

/// Asks for some topics of the cluster, and for no others. Those for which the time did
/// not suffice are not in the answer. Nothing is asked where the policy does not allow the
/// brokers, or those that they name in turn.
pub(super) async fn list_topics(
    slot: &Arc<Slot>,
    connection: &Connection,
    policy: &Arc<BrokerPolicy>,
    topics: Vec<String>,
) -> Result<Topics, ListError> {
    check_bootstrap(slot, connection, policy).await?;
    let (policy, namespace) = (Arc::clone(policy), connection.namespace().to_owned());
    let question = move |client: &Client| list(client, &policy, &namespace, topics);
    let answer = ask(
        slot,
        connection,
        None,
        Isolation::Committed,
        LIST_LIMIT,
        question,
    );
    answer.await?.map_err(ListError::NotAllowed)
}

/// The names are resolved in a thread that holds the slot for as long as the resolver
/// takes.
async fn check_bootstrap(
    slot: &Arc<Slot>,
    connection: &Connection,
    policy: &Arc<BrokerPolicy>,
) -> Result<(), ListError> {
    let (policy, held) = (Arc::clone(policy), Arc::clone(slot));
    let brokers = connection.brokers().to_owned();
    let checked = spawn_blocking(move || {
        let mut brokers = brokers.split(',');
        let checked = brokers.try_for_each(|broker| policy.check_address(broker.trim()));
        drop(held);
        checked
    });
    match timeout(RESOLVE_LIMIT, checked).await {
        Ok(Ok(checked)) => checked.map_err(ListError::NotAllowed),
        Ok(Err(aborted)) => Err(ListError::Unreachable(aborted.to_string())),
        Err(_) => Err(ListError::Unreachable(format!(
            "the brokers' names could not be resolved within {RESOLVE_LIMIT:?}"
        ))),
    }
}

fn list(
    client: &Client,
    policy: &BrokerPolicy,
    namespace: &str,
    topics: Vec<String>,
) -> Result<Result<Topics, NotAllowed>, KafkaError> {
    let ends = Instant::now() + LIST_BUDGET;
    let mut answers = Topics::new();
    let mut checked = HashSet::new();
    for topic in topics {
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let metadata = match client.fetch_metadata(Some(&topic), left.min(METADATA_TIMEOUT)) {
            Ok(metadata) => metadata,
            // The time is over, and the rest is asked for by the next listing.
            Err(_) if !answers.is_empty() && Instant::now() >= ends => break,
            Err(error) => return Err(error),
        };
        for broker in metadata.brokers() {
            let broker = address(broker.host(), broker.port());
            if Instant::now() < ends && checked.insert(broker.clone()) {
                let allowed = policy.check(namespace, &broker);
                if let Err(broker) = allowed.and_then(|()| policy.check_address(&broker)) {
                    return Ok(Err(broker));
                }
            }
        }
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found
            .filter(|found| found.error().is_none())
            .map(Partitions::of);
        answers.insert(topic, partitions);
    }
    Ok(Ok(answers))
}

fn address(host: &str, port: i32) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Serves the client while a request is under way: logins by token and errors
/// are told in its poll. Ends early, with nothing, when the brokers refuse it.
async fn served<T>(client: &Arc<Client>, request: impl Future<Output = T>) -> Option<T> {
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
