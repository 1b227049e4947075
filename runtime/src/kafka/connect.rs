//! Connects a validated consumer in baseplate's steps: create a client, list the topics, check
//! each topic, subscribe.
//!
//! Penstock adds one step. A bootstrap server returns the list, and everything else needs the
//! addresses that brokers advertise, for which librdkafka waits without a limit. So one of them
//! must be reached before the client subscribes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use penstock_crds::names::TopicName;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Level;

use super::causes::ConnectCause;
use super::context::LOG;
use super::errors::error_text;
use super::{Consumer, Context};

/// The maximum time for the brokers to list the topics, as in baseplate.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of leaders that are tested.
const MAX_LEADERS: usize = 5;

/// The time between two polls for the client's log and token events while it waits for
/// metadata.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

/// The error of connecting and subscribing.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// librdkafka refused the configuration.
    #[error("the Kafka client refused its configuration: {}", error_text(.0))]
    Configuration(KafkaError),
    /// No broker answered in time.
    #[error("failed getting metadata from {brokers}, exiting.\n{}", why(.source, .cause.as_deref()))]
    Metadata {
        /// The bootstrap servers.
        brokers: String,
        /// The error from the client.
        source: KafkaError,
        /// The cause of the unreachable brokers, if known.
        cause: Option<Box<ConnectCause>>,
    },
    /// A bootstrap server answered, but no broker answers at the address that it advertises.
    #[error("no broker can be reached by the address that it advertises: {0}")]
    Advertised(ConnectCause),
    /// A topic does not exist.
    #[error("{}", unknown_topic(.0))]
    UnknownTopic(TopicName),
    /// The subscription was refused.
    #[error("the subscription failed: {0}")]
    Subscribe(KafkaError),
    /// The process is stopping.
    #[error("stopped before the topics were known")]
    Stopped,
}

/// Returns the error text for an unknown topic, as in baseplate.
pub fn unknown_topic(topic: impl fmt::Display) -> String {
    format!(
        "topic '{topic}' does not exist. maybe it's misspelled or on a different kafka cluster?"
    )
}

fn why(source: &KafkaError, cause: Option<&ConnectCause>) -> String {
    match cause {
        Some(cause) => cause.to_string(),
        None => format!(
            "no answer within {} s ({source}). See whether a broker listens there, and whether firewalls and NetworkPolicies let traffic through",
            METADATA_TIMEOUT.as_secs()
        ),
    }
}

/// The parameters of a connection.
pub(crate) struct Target<'a> {
    /// librdkafka properties.
    pub(crate) config: &'a BTreeMap<String, String>,
    /// Topics to subscribe to.
    pub(crate) topics: &'a [TopicName],
    /// A topic that must exist too, and is not read.
    pub(crate) dead_letters: Option<&'a TopicName>,
    /// The file of the access token, for OAUTHBEARER.
    pub(crate) oauth_token: Option<PathBuf>,
    /// Is `true` if the client reports ends of partitions. It must be `false` if librdkafka
    /// stores offsets by itself: it (2.12) counts a report that is read in a batch as a message
    /// at that offset.
    pub(crate) reports_ends: bool,
    /// Is `true` if the runtime stores the offsets of read messages, for the client to commit.
    /// If librdkafka stores offsets by itself, it accepts no stored offset, such as a lower
    /// one.
    pub(crate) stores: bool,
}

/// Creates a client whose `wake` is notified whenever there are events, checks
/// that every topic exists, and subscribes.
pub(crate) async fn connect(
    target: Target<'_>,
    wake: Arc<Notify>,
) -> Result<Arc<Consumer>, ConnectError> {
    let consumer = Arc::new(create(&target, wake)?);
    let known = list_topics(&consumer, target.config).await?;
    let wanted = target.topics.iter().chain(target.dead_letters);
    for topic in wanted {
        if !known.topics.contains(topic.as_str()) {
            let error = ConnectError::UnknownTopic(topic.clone());
            tracing::error!("{error}");
            return Err(error);
        }
    }
    let topics: Vec<_> = target.topics.iter().map(TopicName::as_str).collect();
    reach_a_leader(&consumer, &known.leaders(&topics)).await?;
    consumer
        .subscribe(&topics)
        .map_err(ConnectError::Subscribe)?;
    Ok(consumer)
}

fn create(target: &Target<'_>, wake: Arc<Notify>) -> Result<Consumer, ConnectError> {
    let mut config = ClientConfig::new();
    config.extend(target.config.clone());
    // The engine decides where a partition begins, see `positions`, and commits the end of a
    // partition when it is reached.
    config.set("auto.offset.reset", "error");
    config.set("enable.partition.eof", target.reports_ends.to_string());
    if target.stores {
        config.set("enable.auto.offset.store", "false");
    }
    // The lines of the property `debug` come only at the lowest level.
    config.set_log_level(match tracing::enabled!(target: LOG, Level::DEBUG) {
        true => RDKafkaLogLevel::Debug,
        false => RDKafkaLogLevel::Info,
    });
    let announced = Arc::new(AtomicBool::new(false));
    let context = Context::new(Arc::clone(&announced), target.oauth_token.clone());
    let mut consumer =
        Consumer::from_config_and_context(&config, context).map_err(ConnectError::Configuration)?;
    consumer.set_nonempty_callback(move || {
        announced.store(true, Ordering::Release);
        wake.notify_one();
    });
    Ok(consumer)
}

/// The cluster's metadata of its topics.
struct Known {
    /// Names of all topics.
    topics: BTreeSet<String>,
    /// The partitions with a leader, and these leaders, by topic.
    leaders: BTreeMap<String, Vec<(i32, i32)>>,
}

impl Known {
    /// Returns one partition of each broker that leads some of these topics, up to the limit.
    fn leaders(&self, topics: &[&str]) -> Vec<(String, i32)> {
        let mut asked = BTreeSet::new();
        let mut partitions = Vec::new();
        for topic in topics {
            for (partition, leader) in self.leaders.get(*topic).into_iter().flatten() {
                if partitions.len() < MAX_LEADERS && asked.insert(*leader) {
                    partitions.push(((*topic).to_owned(), *partition));
                }
            }
        }
        partitions
    }
}

/// Asks the brokers for all topics.
async fn list_topics(
    consumer: &Arc<Consumer>,
    config: &BTreeMap<String, String>,
) -> Result<Known, ConnectError> {
    let listed = ask(consumer, |consumer| {
        consumer.fetch_metadata(None, METADATA_TIMEOUT)
    });
    let metadata = listed.await?.map_err(|source| {
        let brokers = config.get("bootstrap.servers").cloned().unwrap_or_default();
        let cause = consumer.context().causes.any();
        // Baseplate's line, and the cause in another.
        tracing::error!("failed getting metadata from {brokers}, exiting.");
        tracing::error!("{}", why(&source, cause.as_ref()));
        ConnectError::Metadata {
            brokers,
            source,
            cause: cause.map(Box::new),
        }
    })?;
    let there = metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none());
    let leaders = there.clone().map(|topic| {
        let partitions = topic.partitions().iter();
        let led = partitions
            .filter(|partition| partition.leader() >= 0)
            .map(|partition| (partition.id(), partition.leader()));
        (topic.name().to_owned(), led.collect())
    });
    Ok(Known {
        leaders: leaders.collect(),
        topics: there.map(|topic| topic.name().to_owned()).collect(),
    })
}

/// Tests that some leader can be reached at the address that it advertises. Fails only if
/// librdkafka reports why none can be reached; it recovers from other errors by itself.
///
/// A request may fail before librdkafka reports the cause, so the leaders are asked again until
/// it does, or until the limit.
async fn reach_a_leader(
    consumer: &Arc<Consumer>,
    partitions: &[(String, i32)],
) -> Result<(), ConnectError> {
    if partitions.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + METADATA_TIMEOUT;
    let share = METADATA_TIMEOUT / u32::try_from(partitions.len()).unwrap_or(1);
    while Instant::now() < deadline {
        for (topic, partition) in partitions.iter().cloned() {
            let asked = ask(consumer, move |consumer| {
                consumer.fetch_watermarks(&topic, partition, share)
            });
            match asked.await? {
                Ok(_) => return Ok(()),
                // The leader answered.
                Err(error) if !is_unreached(&error) => return Ok(()),
                Err(_) => {}
            }
        }
        if let Some(cause) = consumer.context().causes.advertised() {
            let error = ConnectError::Advertised(cause);
            tracing::error!("{error}");
            return Err(error);
        }
        tokio::time::sleep(SERVE_INTERVAL).await;
        let _ = consumer.poll(Duration::ZERO);
    }
    tracing::warn!(
        limit = ?METADATA_TIMEOUT,
        "no leader of the topics answered, and the Kafka client reports no cause; it continues to try"
    );
    Ok(())
}

/// Returns `true` if the error did not come from a broker.
fn is_unreached(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::TimedOutQueue
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::AllBrokersDown
        )
    )
}

/// Makes a call that waits for brokers. Serves events meanwhile: logins by token and the
/// client's log need them.
async fn ask<T: Send + 'static>(
    consumer: &Arc<Consumer>,
    call: impl FnOnce(&Consumer) -> T + Send + 'static,
) -> Result<T, ConnectError> {
    let asking = Arc::clone(consumer);
    let mut answer = tokio::task::spawn_blocking(move || call(&asking));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => {
                // Causes that arrived at the end of the call.
                let _ = consumer.poll(Duration::ZERO);
                return answer.map_err(|_| ConnectError::Stopped);
            }
            () = tokio::time::sleep(SERVE_INTERVAL) => {
                let _ = consumer.poll(Duration::ZERO);
            }
        }
    }
}
