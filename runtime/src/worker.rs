//! A handler at work: takes messages from the queue and does with each what the
//! source does, step by step.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use penstock_crds::validate::{DeliveryPolicy, FailureAction};
use thiserror::Error;
use tracing::{Instrument as _, Span, field};

use crate::commit::Committer;
use crate::dead_letter::{DeadLetterError, DeadLetters, Failed};
use crate::decode::Decoder;
use crate::delivery::{Attempts, Next};
use crate::handler::{Handler, HandlerError};
use crate::kafka::ConsumeError;
use crate::metrics::{Metrics, TopicMetrics};
use crate::observation::Observation;
use crate::progress::Busy;
use crate::queue::{Weigh, WorkQueue};
use crate::record::{Message, Record};

/// What the pump puts into the queue: a message, or an error in its place.
pub(crate) enum Delivery {
    Message(Record),
    Error(ConsumeError),
}

impl Weigh for Delivery {
    fn weight(&self) -> usize {
        match self {
            Self::Message(record) => record.weight(),
            Self::Error(_) => 0,
        }
    }
}

/// Why the consumer must end. Nothing is committed for the message.
#[derive(Debug, Error)]
pub enum Failure {
    /// Kafka gave an error instead of a message.
    #[error("KafkaError: {0}")]
    Kafka(String),
    /// The handler failed, and `onFailure` is Stop.
    #[error(
        "topic {topic} partition {partition} offset {offset}: the handler failed at attempt {attempts}: {reason}"
    )]
    Handler {
        /// Topic of the message.
        topic: String,
        /// Partition of the message.
        partition: i32,
        /// Offset of the message.
        offset: i64,
        /// Attempts made.
        attempts: u32,
        /// What the handler said.
        reason: String,
    },
    /// The handled message's offset could not be committed.
    #[error("topic {topic} partition {partition} offset {offset}: the commit failed: {reason}")]
    Commit {
        /// Topic of the message.
        topic: String,
        /// Partition of the message.
        partition: i32,
        /// Offset of the message.
        offset: i64,
        /// What Kafka said.
        reason: String,
    },
    /// The message could not be written to the dead-letter topic.
    #[error("topic {topic} partition {partition} offset {offset}: {source}")]
    DeadLetter {
        /// Topic of the message.
        topic: String,
        /// Partition of the message.
        partition: i32,
        /// Offset of the message.
        offset: i64,
        /// Why.
        source: DeadLetterError,
    },
}

/// What all handlers of a consumer share.
pub(crate) struct Shared<D, H> {
    pub(crate) span_names: SpanNames,
    pub(crate) decoder: D,
    pub(crate) handler: H,
    pub(crate) policy: DeliveryPolicy,
    /// Longest time for one attempt.
    pub(crate) timeout: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) dead_letters: Option<DeadLetters>,
    /// Present in order: each message is committed before the next is taken.
    pub(crate) committer: Option<Committer>,
}

/// Names of the spans, which depend on the consumer's name.
pub(crate) struct SpanNames {
    handler: String,
}

impl SpanNames {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            handler: format!("{name}.handler"),
        }
    }
}

/// How the work on a message ended, other than by a failure.
enum Ended {
    /// The handler did its work.
    Handled,
    /// The value could not be decoded; the message is left behind.
    Invalid,
    /// Skipped or dead-lettered: done with, though not handled.
    GivenUp,
    /// The partition was revoked first.
    Abandoned,
}

/// Works until the queue is closed and empty, or a message ends the consumer.
pub(crate) async fn work<D, H>(
    shared: Arc<Shared<D, H>>,
    queue: Arc<WorkQueue<Delivery>>,
    busy: Busy,
) -> Result<(), Failure>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    while let Some(delivery) = queue.take().await {
        let worked = shared.process(delivery, &busy).await;
        if let Err(failure) = worked {
            // Said in the source's words; the process ends, and the message
            // comes again after the restart.
            tracing::error!(
                error = %failure,
                "Unhandled error while trying to process a message, terminating the server"
            );
            return Err(failure);
        }
    }
    Ok(())
}

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    /// The source's eight steps for one message.
    pub(crate) async fn process(&self, delivery: Delivery, busy: &Busy) -> Result<(), Failure> {
        let record = match delivery {
            Delivery::Message(record) => record,
            Delivery::Error(error) => return self.fail(error),
        };
        let topic = &record.assignment().topic_metrics;
        let observation = Observation::start(topic);
        let span = self.open_span(&record);
        let active = observation.active();
        let ended = self.handle(&record, topic, busy).instrument(span).await;
        drop(active);
        observation.finish(matches!(ended, Ok(Ended::Handled)));
        let partition = record.assignment();
        match ended {
            Ok(Ended::Abandoned) => {
                tracing::info!("gave up {record:?} unhandled: its partition was revoked");
                partition.abandon(record.offset());
            }
            Ok(_) => partition.settle(record.offset()),
            Err(failure) => {
                partition.abandon(record.offset());
                return Err(failure);
            }
        }
        Ok(())
    }

    /// A Kafka error instead of a message: no tags, no handler, no commit.
    fn fail(&self, error: ConsumeError) -> Result<(), Failure> {
        let topic = self.metrics.topic(&error.topic);
        let observation = Observation::start(&topic);
        let span = tracing::info_span!(
            target: crate::telemetry::SPANS,
            "handler",
            otel.name = self.span_names.handler
        );
        span.in_scope(|| {
            let _active = observation.active();
            tracing::debug!("Kafka gave the error {} instead of a message", error.code);
        });
        observation.finish(false);
        Err(Failure::Kafka(error.text))
    }

    fn open_span(&self, record: &Record) -> Span {
        let span = tracing::info_span!(
            target: crate::telemetry::SPANS,
            "handler",
            otel.name = self.span_names.handler,
            otel.kind = "consumer",
            kind = field::Empty,
            kafka.topic = field::Empty,
            kafka.key = field::Empty,
            kafka.partition = field::Empty,
            kafka.offset = field::Empty,
            kafka.timestamp = field::Empty,
        );
        if !span.is_disabled() {
            span.record("kind", "consumer");
            span.record("kafka.topic", record.topic());
            if let Some(key) = record.key() {
                span.record("kafka.key", &*String::from_utf8_lossy(key));
            }
            span.record("kafka.partition", record.partition());
            span.record("kafka.offset", record.offset());
            if let Some(timestamp) = record.timestamp() {
                span.record("kafka.timestamp", timestamp);
            }
        }
        span
    }

    async fn handle(
        &self,
        record: &Record,
        topic: &TopicMetrics,
        busy: &Busy,
    ) -> Result<Ended, Failure> {
        let decoded = match self.decoder.decode(record) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::error!(
                    topic = record.topic(),
                    partition = record.partition(),
                    offset = record.offset(),
                    error = %error,
                    "skipping invalid message"
                );
                topic.invalid.inc();
                return Ok(Ended::Invalid);
            }
        };
        let latency = decoded.endpoint_timestamp.map(seconds_since);
        let ended = self.attempt(record, &decoded.data, topic, busy).await?;
        if matches!(ended, Ended::Abandoned) {
            return Ok(ended);
        }
        if let Some(committer) = &self.committer
            && !committer.commit(record).await?
        {
            return Ok(Ended::Abandoned);
        }
        if let Some(latency) = latency {
            topic.latency.observe(latency);
        }
        record.assignment().metrics.offset.set(record.offset());
        Ok(ended)
    }

    /// Attempts until the message is handled or given up.
    async fn attempt(
        &self,
        record: &Record,
        data: &D::Data,
        topic: &TopicMetrics,
        busy: &Busy,
    ) -> Result<Ended, Failure> {
        let partition = record.assignment();
        let mut attempts = Attempts::new(&self.policy);
        loop {
            let message = Message {
                record,
                data,
                attempt: attempts.number(),
            };
            let outcome = {
                let _busy = busy.start();
                self.call(message).await
            };
            let error = match outcome {
                Some(Ok(())) => return Ok(Ended::Handled),
                Some(Err(error)) => error,
                None => return Ok(Ended::Abandoned),
            };
            match attempts.failed(&error) {
                Next::Retry(wait) => {
                    tracing::warn!(
                        topic = record.topic(),
                        partition = record.partition(),
                        offset = record.offset(),
                        attempt = attempts.number() - 1,
                        error = %error,
                        "the handler failed, trying again in {wait:?}"
                    );
                    topic.retried.inc();
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = partition.when_draining() => return Ok(Ended::Abandoned),
                    }
                }
                Next::GiveUp => {
                    return self.give_up(record, topic, attempts.number(), &error).await;
                }
            }
        }
    }

    /// One attempt, at most as long as the timeout. `None`: the partition was
    /// given up meanwhile, and with it the attempt.
    async fn call(&self, message: Message<'_, D::Data>) -> Option<Result<(), HandlerError>> {
        let partition = message.record.assignment();
        let call = AssertUnwindSafe(self.handler.handle(message)).catch_unwind();
        tokio::pin!(call);
        // Most embedded handlers are done at once; only the others need a timer.
        let outcome = match (&mut call).now_or_never() {
            Some(outcome) => Ok(outcome),
            None => tokio::select! {
                outcome = tokio::time::timeout(self.timeout, call) => outcome,
                () = partition.when_revoked() => return None,
            },
        };
        if partition.is_revoked() {
            return None;
        }
        Some(match outcome {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(HandlerError::retryable(format_args!(
                "the handler panicked: {}",
                panic_text(&*panic)
            ))),
            Err(_) => Err(HandlerError::retryable(format_args!(
                "the handler took longer than {:?}",
                self.timeout
            ))),
        })
    }

    /// What follows the last attempt.
    async fn give_up(
        &self,
        record: &Record,
        topic: &TopicMetrics,
        attempts: u32,
        error: &HandlerError,
    ) -> Result<Ended, Failure> {
        let key = record.key().map(String::from_utf8_lossy);
        match (&self.policy.on_failure, &self.dead_letters) {
            (FailureAction::Skip, _) => {
                tracing::error!(
                    topic = record.topic(),
                    partition = record.partition(),
                    offset = record.offset(),
                    key = key.as_deref(),
                    attempts,
                    error = %error,
                    "skipping a message that could not be handled"
                );
                topic.skipped.inc();
                Ok(Ended::GivenUp)
            }
            (FailureAction::DeadLetter(_), Some(dead_letters)) => {
                let failed = Failed {
                    record,
                    attempts,
                    reason: error.reason(),
                };
                dead_letters
                    .send(failed)
                    .await
                    .map_err(|source| Failure::DeadLetter {
                        topic: record.topic().to_owned(),
                        partition: record.partition(),
                        offset: record.offset(),
                        source,
                    })?;
                tracing::error!(
                    topic = record.topic(),
                    partition = record.partition(),
                    offset = record.offset(),
                    key = key.as_deref(),
                    attempts,
                    error = %error,
                    "wrote a message that could not be handled to {}",
                    dead_letters.topic()
                );
                topic.dead_lettered.inc();
                Ok(Ended::GivenUp)
            }
            _ => Err(Failure::Handler {
                topic: record.topic().to_owned(),
                partition: record.partition(),
                offset: record.offset(),
                attempts,
                reason: error.reason().to_owned(),
            }),
        }
    }
}

/// Seconds from a time in milliseconds since the epoch to now.
fn seconds_since(timestamp: f64) -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    (now as f64 - timestamp) / 1000.0
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
