//! Topics: made for one test, and read back.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::Position;
use crate::wait::{self, TimedOut};
use crate::wire::WireError;

/// Longest time for one request to a broker.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Something about a topic or a group failed.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// A request failed.
    #[error("{what} on {bootstrap}: {error}")]
    Request {
        /// What was asked.
        what: String,
        /// Whom.
        bootstrap: String,
        /// What was answered.
        error: Box<KafkaError>,
    },
    /// The broker refused to create a topic.
    #[error("topic {topic} can't be created: {code}")]
    Create {
        /// Its name.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
    /// Something did not come in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The thread that asked panicked.
    #[error("a background thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// A request failed that librdkafka does not offer.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A client of `bootstrap` without other settings.
pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.max.ms", "500")
        .set("topic.metadata.refresh.interval.ms", "5000");
    config
}

pub(crate) fn failed<'a>(
    what: impl Into<String> + 'a,
    bootstrap: &'a str,
) -> impl FnOnce(KafkaError) -> TopicError + 'a {
    move |error| TopicError::Request {
        what: what.into(),
        bootstrap: bootstrap.into(),
        error: Box::new(error),
    }
}

/// A name that no other test uses, beginning with `stem`. Good for groups too.
pub fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random: u32 = rand::random();
    format!("{stem}-{}-{count}-{random:08x}", process::id())
}

/// Creates a topic with a unique name that begins with `stem`, waits until it can
/// be used, and returns the name.
///
/// # Errors
/// [`TopicError`] when the broker refuses or does not answer.
pub async fn create(bootstrap: &str, stem: &str, partitions: i32) -> Result<String, TopicError> {
    let topic = unique(stem);
    create_named(bootstrap, &topic, partitions).await?;
    Ok(topic)
}

/// Creates a topic as [`create`] does, with so many replicas of each partition and these
/// properties.
///
/// # Errors
/// [`TopicError`] when the broker refuses or does not answer.
pub async fn create_replicated(
    bootstrap: &str,
    stem: &str,
    partitions: i32,
    replicas: i32,
    properties: &[(&str, &str)],
) -> Result<String, TopicError> {
    let topic = unique(stem);
    let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(replicas));
    let new = properties
        .iter()
        .fold(new, |new, (name, value)| new.set(name, value));
    create_new(bootstrap, &new).await?;
    Ok(topic)
}

/// Creates the topic `topic` and waits until it can be used.
///
/// # Errors
/// [`TopicError`] when it exists, or the broker refuses or does not answer.
pub async fn create_named(bootstrap: &str, topic: &str, partitions: i32) -> Result<(), TopicError> {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    create_new(bootstrap, &new).await
}

async fn create_new(bootstrap: &str, new: &NewTopic<'_>) -> Result<(), TopicError> {
    let topic = new.name;
    let admin: AdminClient<DefaultClientContext> = client(bootstrap)
        .create()
        .map_err(failed("an admin client", bootstrap))?;
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    let results = admin
        .create_topics([new], &options)
        .await
        .map_err(failed(format!("creating {topic}"), bootstrap))?;
    for result in results {
        result.map_err(|(topic, code)| TopicError::Create { topic, code })?;
    }
    wait_for_partitions(bootstrap, topic, new.num_partitions).await
}

/// Waits until each partition has a leader.
async fn wait_for_partitions(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
) -> Result<(), TopicError> {
    let consumer: BaseConsumer = client(bootstrap)
        .create()
        .map_err(failed("a client", bootstrap))?;
    let consumer = std::sync::Arc::new(consumer);
    let what = format!("{partitions} partitions of {topic}");
    wait::value(what, REQUEST_LIMIT, async || {
        let (consumer, topic) = (std::sync::Arc::clone(&consumer), topic.to_owned());
        let seen = spawn_blocking(move || led_partitions(&consumer, &topic))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        match usize::try_from(partitions) {
            Ok(wanted) if wanted == seen => Ok(()),
            _ => Err(format!("{seen}")),
        }
    })
    .await?;
    Ok(())
}

fn led_partitions(consumer: &BaseConsumer, topic: &str) -> Result<usize, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT)?;
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions());
    Ok(partitions
        .filter(|partition| partition.error().is_none() && partition.leader() >= 0)
        .count())
}

/// Deletes the topic `topic`.
///
/// # Errors
/// [`TopicError`] when the broker refuses or does not answer.
pub async fn delete(bootstrap: &str, topic: &str) -> Result<(), TopicError> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap)
        .create()
        .map_err(failed("an admin client", bootstrap))?;
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    let what = || failed(format!("deleting {topic}"), bootstrap);
    let results = admin
        .delete_topics(&[topic], &options)
        .await
        .map_err(what())?;
    for result in results {
        result.map_err(|(_, code)| what()(KafkaError::AdminOp(code)))?;
    }
    Ok(())
}

/// Has the topic `topic` have so many partitions, and waits until they can be used.
///
/// # Errors
/// [`TopicError`] when it has more, or the broker refuses or does not answer.
pub async fn add_partitions(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
) -> Result<(), TopicError> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap)
        .create()
        .map_err(failed("an admin client", bootstrap))?;
    let what = || failed(format!("adding partitions to {topic}"), bootstrap);
    let wanted = usize::try_from(partitions).unwrap_or_default();
    let new = NewPartitions::new(topic, wanted);
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    let results = admin.create_partitions([&new], &options).await;
    for result in results.map_err(what())? {
        result.map_err(|(_, code)| what()(KafkaError::AdminOp(code)))?;
    }
    wait_for_partitions(bootstrap, topic, partitions).await
}

/// Deletes the messages of a partition before an offset, as retention does.
///
/// # Errors
/// [`TopicError`] when the broker refuses or does not answer.
pub async fn delete_records(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    before: i64,
) -> Result<(), TopicError> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap)
        .create()
        .map_err(failed("an admin client", bootstrap))?;
    let what = || failed(format!("deleting records of {topic}"), bootstrap);
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(before))
        .map_err(what())?;
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT));
    let deleted = admin.delete_records(&offsets, &options).await;
    for element in deleted.map_err(what())?.elements() {
        element.error().map_err(what())?;
    }
    Ok(())
}

/// Where each partition of `topic` ends for who reads with this isolation level.
///
/// # Errors
/// [`TopicError`] when the broker does not answer.
pub async fn ends(bootstrap: &str, topic: &str, isolation: &str) -> Result<Vec<i64>, TopicError> {
    let (bootstrap, topic, isolation) =
        (bootstrap.to_owned(), topic.to_owned(), isolation.to_owned());
    spawn_blocking(move || ends_blocking(&bootstrap, &topic, &isolation)).await?
}

/// One message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it lies.
    pub position: Position,
    /// Key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in their order. A name may come twice, a value may be absent.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970, if the broker keeps it.
    pub timestamp: Option<i64>,
}

/// All messages that the topic holds now, each partition in its order.
///
/// # Errors
/// [`TopicError`] when the broker does not answer, or stops answering.
pub async fn read_all(bootstrap: &str, topic: &str) -> Result<Vec<Stored>, TopicError> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    spawn_blocking(move || read_all_blocking(&bootstrap, &topic)).await?
}

fn read_all_blocking(bootstrap: &str, topic: &str) -> Result<Vec<Stored>, TopicError> {
    let what = || failed(format!("reading {topic}"), bootstrap);
    let consumer: BaseConsumer = client(bootstrap)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(what())?;

    let mut assignment = TopicPartitionList::new();
    for partition in partitions(&consumer, topic).map_err(what())? {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(what())?;
    }
    consumer.assign(&assignment).map_err(what())?;

    let mut messages = Vec::new();
    let mut unread = assignment.count();
    while unread > 0 {
        match consumer.poll(REQUEST_LIMIT) {
            Some(Ok(message)) => messages.push(stored(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => return Err(what()(error)),
            None => {
                return Err(TopicError::TimedOut(TimedOut {
                    what: format!("the end of {topic}"),
                    limit: REQUEST_LIMIT,
                    last: format!("{} messages, {unread} partitions unread", messages.len()),
                }));
            }
        }
    }
    messages.sort_by(|a, b| a.position.cmp(&b.position));
    Ok(messages)
}

/// Waits until no transaction on `topic` is open, so that who reads committed messages
/// can read to its end. Brokers end one by themselves whose process is gone.
///
/// # Errors
/// [`TopicError`] when one is still open after `limit`, or the broker does not answer.
pub async fn wait_for_transactions(
    bootstrap: &str,
    topic: &str,
    limit: Duration,
) -> Result<(), TopicError> {
    let what = format!("every transaction on {topic} to end");
    wait::value(what, limit, async || {
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        let looked = spawn_blocking(move || {
            let ends = |isolation| ends_blocking(&bootstrap, &topic, isolation);
            Ok::<_, TopicError>((ends("read_committed")?, ends("read_uncommitted")?))
        });
        match looked.await.map_err(|error| error.to_string())? {
            Ok((committed, all)) if committed == all => Ok(()),
            Ok((committed, all)) => Err(format!("{committed:?} of {all:?}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(())
}

/// Where each partition ends for who reads with this isolation level.
fn ends_blocking(bootstrap: &str, topic: &str, isolation: &str) -> Result<Vec<i64>, TopicError> {
    let what = || failed(format!("asking for the ends of {topic}"), bootstrap);
    let consumer: BaseConsumer = client(bootstrap)
        .set("isolation.level", isolation)
        .create()
        .map_err(what())?;
    let numbers = partitions(&consumer, topic).map_err(what())?;
    let mut ends = Vec::new();
    for number in numbers {
        let watermarks = consumer.fetch_watermarks(topic, number, REQUEST_LIMIT);
        ends.push(watermarks.map_err(what())?.1);
    }
    Ok(ends)
}

/// The partitions of `topic`; an error when there is no such topic.
pub(crate) fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT)?;
    let mut ids = Vec::new();
    for found in metadata.topics() {
        if let Some(error) = found.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        ids.extend(found.partitions().iter().map(|partition| partition.id()));
    }
    Ok(ids)
}

fn stored(message: &BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect()
    });
    Stored {
        position: Position::new(message.topic(), message.partition(), message.offset()),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        timestamp: message.timestamp().to_millis(),
    }
}
