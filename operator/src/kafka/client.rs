//! Short-lived Kafka clients, one for each question.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_runtime::resolve::{Resolve, add_brokers};
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
use super::policy::{BrokerPolicy, NotAllowed, ResolveError, address};
use super::settings::{Connection, Isolation, client_config};
use super::slots::Slot;

/// The time between two polls of a waiting client, which serve its errors and logins.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum time for all topics of a listing.
const LIST_BUDGET: Duration = Duration::from_secs(12);

/// The maximum time for a listing and the client that it needs.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// The brokers' answer for each topic that they were asked for; `None` if it does not exist.
pub(super) type Topics = HashMap<String, Option<Partitions>>;

/// The partitions of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partitions {
    /// The number of partitions.
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

/// The error of a question to the brokers.
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

/// Notes the client's errors, and allows connections only by the policy.
pub(super) struct Context {
    token: Option<String>,
    namespace: String,
    policy: Arc<BrokerPolicy>,
    /// The first error of the connection, or a final one.
    trouble: Mutex<Option<ListError>>,
}

impl Context {
    /// Returns `true` if no answer can come.
    fn has_failed(&self) -> bool {
        let trouble = self.trouble.lock();
        matches!(
            *trouble,
            Some(ListError::Refused(_) | ListError::NotAllowed(_))
        )
    }
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
            _ if matches!(*trouble, Some(ListError::NotAllowed(_))) => {}
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

impl Resolve for Context {
    fn resolve(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        match self.policy.resolve(&self.namespace, host, port) {
            Ok(addresses) => routable(addresses),
            Err(ResolveError::NotAllowed(broker)) => {
                *self.trouble.lock() = Some(ListError::NotAllowed(broker));
                Vec::new()
            }
            // The client tries again.
            Err(ResolveError::NoAnswer(error)) => {
                let mut trouble = self.trouble.lock();
                trouble.get_or_insert(ListError::Unreachable(error.to_string()));
                Vec::new()
            }
        }
    }
}

/// Removes addresses without a route from this machine, unless no address has one: a name may have
/// IPv6 addresses in an IPv4 network. No packet is sent.
fn routable(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let has_route = |address: &&SocketAddr| {
        let from: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let connected = UdpSocket::bind(from).and_then(|socket| socket.connect(address));
        connected.is_ok()
    };
    let routable: Vec<SocketAddr> = addresses.iter().filter(has_route).copied().collect();
    if routable.is_empty() {
        addresses
    } else {
        routable
    }
}

pub(super) type Client = BaseConsumer<Context>;

/// A client with its slot. The slot becomes free once the client's threads have ended, even if
/// nothing waits for that: a stuck client occupies a slot of its own namespace and nothing else.
struct Session {
    client: Option<Arc<Client>>,
    slot: Arc<Slot>,
}

impl Session {
    /// Creates a client, in `group` if the question is about a group's offsets. It never joins the
    /// group.
    ///
    /// The client is created in a thread that serves no connection of the operator. librdkafka
    /// leaves OpenSSL errors in the thread in which it reads certificates, and the next use of TLS
    /// in that thread, such as a watch of the API server, would fail with them.
    async fn open(
        slot: &Arc<Slot>,
        connection: &Connection,
        policy: &Arc<BrokerPolicy>,
        group: Option<&str>,
        isolation: Isolation,
    ) -> Result<Self, ListError> {
        let config = client_config(connection, group, isolation);
        let context = Context {
            token: connection.token().map(str::to_owned),
            namespace: connection.namespace().to_owned(),
            policy: Arc::clone(policy),
            trouble: Mutex::default(),
        };
        let held = Arc::clone(slot);
        let brokers = connection.brokers().to_owned();
        let made = spawn_blocking(move || {
            let made: Result<Client, _> = config.create_with_context(context);
            if let Ok(client) = &made {
                add_brokers(client.client(), &brokers);
            }
            // The slot is dropped last.
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
                    "the Kafka client refused its configuration: {error}"
                )))
            }
        }
    }
}

impl Drop for Session {
    /// Drops the client in another thread, which waits for the client's threads.
    fn drop(&mut self) {
        let (client, slot) = (self.client.take(), Arc::clone(&self.slot));
        spawn_blocking(move || {
            drop(client);
            drop(slot);
        });
    }
}

/// Creates a client and asks a question, for at most `limit`.
pub(super) async fn ask<T: Send + 'static>(
    slot: &Arc<Slot>,
    connection: &Connection,
    policy: &Arc<BrokerPolicy>,
    group: Option<&str>,
    isolation: Isolation,
    limit: Duration,
    question: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, ListError> {
    let asked = async {
        let session = Session::open(slot, connection, policy, group, isolation).await?;
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
            None => Err(trouble.unwrap_or(ListError::Refused(
                "the brokers refused the connection".into(),
            ))),
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

/// Asks for these topics of the cluster, and for no others. A topic for which the time did not
/// suffice is missing in the answer. Nothing is asked if the policy does not allow the brokers, or
/// the brokers that they name.
pub(super) async fn list_topics(
    slot: &Arc<Slot>,
    connection: &Connection,
    policy: &Arc<BrokerPolicy>,
    topics: Vec<String>,
) -> Result<Topics, ListError> {
    let (checked, namespace) = (Arc::clone(policy), connection.namespace().to_owned());
    let question = move |client: &Client| list(client, &checked, &namespace, topics);
    let answer = ask(
        slot,
        connection,
        policy,
        None,
        Isolation::Committed,
        LIST_LIMIT,
        question,
    );
    answer.await?.map_err(ListError::NotAllowed)
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
            // The time is over. The next listing asks for the rest.
            Err(_) if !answers.is_empty() && Instant::now() >= ends => break,
            Err(error) => return Err(error),
        };
        for found in metadata.brokers() {
            let broker = address(found.host(), found.port());
            if Instant::now() < ends && checked.insert(broker.clone()) {
                let port = u16::try_from(found.port()).unwrap_or_default();
                if let Err(broker) = policy.check(namespace, &broker) {
                    return Ok(Err(broker));
                }
                // Without an answer, the next listing asks again.
                if let Err(ResolveError::NotAllowed(broker)) =
                    policy.resolve(namespace, found.host(), port)
                {
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

/// Polls the client during a request: a poll serves logins by token, and errors. Returns `None`
/// early if the brokers refuse the client.
async fn served<T>(client: &Arc<Client>, request: impl Future<Output = T>) -> Option<T> {
    let mut request = std::pin::pin!(request);
    loop {
        tokio::select! {
            answer = &mut request => return Some(answer),
            () = tokio::time::sleep(SERVE_INTERVAL) => {
                let _ = client.poll(Duration::ZERO);
                if client.context().has_failed() {
                    return None;
                }
            }
        }
    }
}

/// Returns the client's message without the part that differs each time: the duration at the end.
fn stable(reason: &str) -> String {
    let text = reason.split(" (after ").next().unwrap_or(reason);
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::{Offset, TopicPartitionList};

    use super::*;
    use crate::kafka::slots::Slots;

    #[test]
    fn an_error_reads_the_same_each_time() {
        let first = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
        let later = "kafka:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 3ms in state CONNECT, 2 identical error(s) suppressed)";
        assert_eq!(stable(first), stable(later));
        assert!(stable(first).ends_with("Connection refused"));
    }

    #[test]
    fn an_address_without_a_route_is_left_out_if_there_is_another() {
        // No socket may connect to the broadcast address unless it asks for that.
        let [nowhere, somewhere] = ["255.255.255.255:1", "127.0.0.1:1"].map(|text| {
            let address: SocketAddr = text.parse().unwrap();
            address
        });
        assert_eq!(routable(vec![nowhere, somewhere]), [somewhere]);
        assert_eq!(routable(vec![nowhere]), [nowhere]);
        assert!(routable(Vec::new()).is_empty());
    }

    /// A client of a namespace that may connect to `localhost` alone; the mock cluster's
    /// broker says that it is at 127.0.0.1.
    async fn ask_localhost(
        question: impl FnOnce(&Client) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), ListError> {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("orders", 1, 1).unwrap();
        let brokers = kafka.bootstrap_servers().replace("127.0.0.1", "localhost");
        let properties = [
            ("bootstrap.servers".to_owned(), brokers),
            ("broker.address.family".to_owned(), "v4".to_owned()),
        ];
        let connection = Connection::new("shop", properties.into(), None);
        let policy = BrokerPolicy::new(vec!["localhost:*".parse().unwrap()], Vec::new());
        let slot = Arc::new(Slots::new(1, 1).try_take("shop").unwrap());
        let limit = Duration::from_secs(30);
        let (policy, group) = (Arc::new(policy), Some("billing.orders"));
        let isolation = Isolation::Committed;
        ask(
            &slot,
            &connection,
            &policy,
            group,
            isolation,
            limit,
            question,
        )
        .await
    }

    /// The bootstrap broker is allowed. Leaders and coordinators are where the brokers say, and
    /// the client may connect there as soon as it knows of them.
    #[tokio::test]
    async fn leaders_and_coordinators_must_be_allowed_too() {
        let within = Duration::from_secs(10);
        let names = || {
            let mut names = TopicPartitionList::new();
            names.add_partition("orders", 0);
            names
        };
        let committed =
            ask_localhost(move |client| client.committed_offsets(names(), within).map(drop));
        let ends = ask_localhost(move |client| {
            let mut ends = names();
            ends.set_all_offsets(Offset::End)?;
            client.offsets_for_times(ends, within).map(drop)
        });
        for answer in [committed.await, ends.await] {
            let Err(ListError::NotAllowed(broker)) = answer else {
                panic!("{answer:?}");
            };
            assert!(broker.0.starts_with("127.0.0.1:"), "{broker}");
        }
    }
}
