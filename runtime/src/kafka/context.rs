//! librdkafka's callbacks, which become events for the pump.
//!
//! Callbacks run inside the pump's poll. They only note events: the pump answers a rebalance
//! later, after the messages in flight, and polling continues meanwhile.

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::causes::Causes;
use super::seam::{CommitOutcome, Event, TopicPartition};
use super::{Consumer, metadata};
use crate::kafka::oauth;

/// Target of librdkafka's own log lines.
pub(crate) const LOG: &str = "librdkafka";

/// Our callbacks.
pub(crate) struct Context {
    events: Mutex<VecDeque<Event>>,
    closing: AtomicBool,
    /// Callbacks so far: a poll that adds none found nothing to do.
    calls: AtomicU64,
    /// Set when librdkafka announces events.
    announced: Arc<AtomicBool>,
    oauth_token: Option<PathBuf>,
    /// The causes of unreachable brokers.
    pub(super) causes: Causes,
}

impl Context {
    pub(crate) fn new(announced: Arc<AtomicBool>, oauth_token: Option<PathBuf>) -> Self {
        Self {
            announced,
            events: Mutex::default(),
            closing: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            oauth_token,
            causes: Causes::default(),
        }
    }

    /// The oldest event that was not taken yet.
    pub(crate) fn next_event(&self) -> Option<Event> {
        self.events.lock().pop_front()
    }

    /// Answers revocations immediately from now on: the consumer is closing, and no message is
    /// in flight.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Returns `true` if events were announced since the last call.
    pub(crate) fn take_announcement(&self) -> bool {
        self.announced.swap(false, Ordering::AcqRel)
    }

    /// Number of callbacks so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn push(&self, event: Event) {
        self.events.lock().push_back(event);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.called();
        self.causes.note_line(facility, message);
        log_librdkafka(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.called();
        self.causes.note(&error, reason);
        log_client_error(&error, reason);
    }

    /// Statistics are published as metrics of our own; librdkafka's are not used.
    fn stats_raw(&self, _: &[u8]) {
        self.called();
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.called();
        Ok(oauth::read_token(self.oauth_token.as_deref())?)
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &Consumer,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        self.called();
        let assign = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let released = match consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative if assign => Ok(()),
                RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
                _ => consumer.unassign(),
            };
            if let Err(error) = released {
                tracing::warn!(%error, "the client could not release its partitions while it closed");
            }
            if !assign {
                log_revoked(&topic_partitions(partitions));
            }
        } else if assign {
            self.push(Event::Assign(topic_partitions(partitions)));
        } else {
            self.push(Event::Revoke {
                partitions: topic_partitions(partitions),
                lost: consumer.assignment_lost(),
            });
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        self.called();
        let failure = result.err().and_then(|error| error.rdkafka_error_code());
        let outcomes: Vec<_> = offsets
            .elements()
            .iter()
            .enumerate()
            .map(|(place, element)| CommitOutcome {
                topic: element.topic().to_owned(),
                partition: element.partition(),
                offset: match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                },
                metadata: String::from_utf8_lossy(metadata(offsets, place)).into_owned(),
                result: match element.error().err().and_then(|e| e.rdkafka_error_code()) {
                    Some(code) => Err(code),
                    None => failure.map_or(Ok(()), Err),
                },
            })
            .collect();
        log_commits(&outcomes);
        self.push(Event::Commit(outcomes));
    }
}

fn topic_partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition {
            topic: element.topic().to_owned(),
            partition: element.partition(),
        })
        .collect()
}

/// Logs one line for each partition, in baseplate's words.
pub(crate) fn log_revoked(partitions: &[TopicPartition]) {
    for TopicPartition { topic, partition } in partitions {
        tracing::info!("revoked {topic}/{partition}");
    }
}

/// Logs as baseplate's commit callback does: errors, nothing for partitions without a commit,
/// and successes at debug level.
fn log_commits(outcomes: &[CommitOutcome]) {
    for outcome in outcomes {
        let CommitOutcome {
            topic, partition, ..
        } = outcome;
        // librdkafka's "invalid" offset: this partition had nothing to commit.
        let offset = outcome.offset.unwrap_or(-1001);
        match (outcome.result, outcome.offset) {
            (Err(code), _) if code != RDKafkaErrorCode::NoOffset => {
                tracing::error!("commit error topic {topic} partition {partition} offset {offset}");
                tracing::debug!(topic, partition, offset, error = %code, "the commit failed");
            }
            (Ok(()), Some(_)) => {
                tracing::debug!(
                    "commit success topic {topic} partition {partition} offset {offset}"
                );
            }
            _ => {}
        }
    }
}

/// Passes a line of librdkafka's own log on.
pub(crate) fn log_librdkafka(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(target: LOG, "{facility} {message}"),
        RDKafkaLogLevel::Warning => tracing::warn!(target: LOG, "{facility} {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: LOG, "{facility} {message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: LOG, "{facility} {message}"),
    }
}

/// The minimum time between two warnings of the same error: clients repeat it at every attempt
/// to connect.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// The time of the last warning of each error in this process.
static WARNED: Mutex<Vec<(RDKafkaErrorCode, Instant)>> = Mutex::new(Vec::new());

/// Logs an error of the client as a whole, and repeated ones at debug level. librdkafka
/// continues to retry by itself.
pub(crate) fn log_client_error(error: &KafkaError, reason: &str) {
    let code = error.rdkafka_error_code();
    if code.is_some_and(warned_lately) {
        tracing::debug!(target: LOG, "{error}: {reason}");
    } else {
        tracing::warn!(target: LOG, "{error}: {reason}");
    }
}

fn warned_lately(code: RDKafkaErrorCode) -> bool {
    let mut warned = WARNED.lock();
    warned.retain(|(_, when)| when.elapsed() < REPEAT_AFTER);
    let lately = warned.iter().any(|(known, _)| *known == code);
    if !lately {
        warned.push((code, Instant::now()));
    }
    lately
}
