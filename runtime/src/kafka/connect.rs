//! From a validated consumer to a subscribed client, by the source's steps:
//! create, list the topics, check each, subscribe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use penstock_crds::names::TopicName;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use thiserror::Error;
use tokio::sync::Notify;
use tracing::Level;

use super::context::LOG;
use super::{Consumer, Context};

/// How long the brokers may take to list the topics, as in the source.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the client's log and token events are served while it waits for
/// metadata.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);

/// Why no subscribed client could be had.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// librdkafka refused the configuration.
    #[error("the Kafka client refused its configuration: {0}")]
    Configuration(KafkaError),
    /// No broker answered in time.
    #[error("failed getting metadata from {brokers}, exiting.")]
    Metadata {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said.
        source: KafkaError,
    },
    /// A topic is not in the cluster.
    #[error("{}", unknown_topic(.0))]
    UnknownTopic(TopicName),
    /// The subscription was refused.
    #[error("subscribing failed: {0}")]
    Subscribe(KafkaError),
    /// The process is stopping.
    #[error("stopped before the topics were known")]
    Stopped,
}

/// What is said of a topic that is not in the cluster, as in the source.
pub fn unknown_topic(topic: impl fmt::Display) -> String {
    format!(
        "topic '{topic}' does not exist. maybe it's misspelled or on a different kafka cluster?"
    )
}

/// What is needed to connect.
pub(crate) struct Target<'a> {
    /// librdkafka properties.
    pub(crate) config: &'a BTreeMap<String, String>,
    /// Topics to subscribe to.
    pub(crate) topics: &'a [TopicName],
    /// A topic that must exist too, without being read.
    pub(crate) dead_letters: Option<&'a TopicName>,
    /// Where the access token is, for OAUTHBEARER.
    pub(crate) oauth_token: Option<PathBuf>,
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
        if !known.contains(topic.as_str()) {
            let error = ConnectError::UnknownTopic(topic.clone());
            tracing::error!("{error}");
            return Err(error);
        }
    }
    let topics: Vec<_> = target.topics.iter().map(TopicName::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(ConnectError::Subscribe)?;
    Ok(consumer)
}

fn create(target: &Target<'_>, wake: Arc<Notify>) -> Result<Consumer, ConnectError> {
    let mut config = ClientConfig::new();
    config.extend(target.config.clone());
    // What the property `debug` adds comes only at the lowest level.
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

/// Names of all topics in the cluster. Events are served meanwhile: logins by
/// token and the client's own log depend on it.
async fn list_topics(
    consumer: &Arc<Consumer>,
    config: &BTreeMap<String, String>,
) -> Result<BTreeSet<String>, ConnectError> {
    let asking = Arc::clone(consumer);
    let mut answer =
        tokio::task::spawn_blocking(move || asking.fetch_metadata(None, METADATA_TIMEOUT));
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            () = tokio::time::sleep(SERVE_INTERVAL) => {
                let _ = consumer.poll(Duration::ZERO);
            }
        }
    };
    let metadata = answer
        .map_err(|_| ConnectError::Stopped)?
        .map_err(|source| {
            let brokers = config.get("bootstrap.servers").cloned().unwrap_or_default();
            let error = ConnectError::Metadata { brokers, source };
            tracing::error!("{error}");
            error
        })?;
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| topic.name().to_owned())
        .collect())
}
