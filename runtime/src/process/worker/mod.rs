//! The workers: each takes messages from the queue, and executes baseplate's steps for each of
//! them.

mod batch;
mod failure;
mod gather;
mod hand;
mod job;
mod settled;
mod single;
#[cfg(test)]
mod tests;

pub(crate) use batch::work_in_batches;
pub(crate) use failure::Reason;
pub use failure::{Cause, Failure};
pub(crate) use gather::Gathering;
pub(crate) use job::{Delivery, Job, arrive};
use settled::Settled;
pub(crate) use single::work;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_crds::validate::{DeliveryPolicy, FailureAction};
use tracing::{Span, field};

use tokio::time::Instant;

use crate::commit::committer::Committer;
use crate::handler::decode::{Decoded, Decoder};
use crate::handler::produce::Done;
use crate::handler::record::Record;
use crate::handler::{FailureKind, HandlerError};
use crate::kafka::ConsumeError;
use crate::observe::metrics::Metrics;
use crate::observe::observation::Observation;
use crate::observe::progress::Busy;
use crate::process::dead_letter::{DeadLetters, Failed};
use crate::program::telemetry::SPANS;
use crate::queue::WorkQueue;

/// The duration of work that is longer than to wake another handler, with a margin: some
/// microseconds on current machines. Without optimization the runtime's part takes many times
/// that.
const SLOW: Duration = Duration::from_micros(match cfg!(debug_assertions) {
    false => 20,
    true => 500,
});

/// One worker's access to the queue.
pub(crate) struct Seat {
    pub(crate) queue: Arc<WorkQueue<Delivery>>,
    pub(crate) busy: Busy,
}

/// The state that all workers of a consumer share.
pub(crate) struct Shared<D, H> {
    /// The name of the span around a message: `{name}.handler`.
    pub(crate) span: String,
    pub(crate) decoder: D,
    pub(crate) handler: H,
    pub(crate) policy: DeliveryPolicy,
    /// The maximum time of one attempt.
    pub(crate) timeout: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) dead_letters: Option<DeadLetters>,
    /// Is `true` in InOrder mode: no later message is handled before a message is settled.
    pub(crate) in_order: bool,
    /// `Some` if each message is committed before the next is taken.
    pub(crate) committer: Option<Committer>,
    /// Is `true` if handlers may return records to produce.
    pub(crate) produces: bool,
    /// Is `true` if a message waits in the queue for its next attempt, so that its worker can
    /// take others.
    pub(crate) defers: bool,
    /// The turns in which workers gather batches, if `defers`.
    pub(crate) gathering: Gathering,
}

/// The end of the work on a message, other than a failure of the consumer.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The handler has handled the message.
    Handled(Done),
    /// The value could not be decoded, and the message is skipped.
    Invalid,
    /// The message was skipped or dead-lettered: settled, but not handled.
    GivenUp(Done),
    /// The partition was revoked before.
    Abandoned,
    /// The work has not ended: another attempt follows, or the same again.
    Deferred(Deferral),
    /// Not attempted: an earlier message with the same key is unsettled.
    Behind,
}

/// The next attempt at a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deferral {
    wait: Duration,
    /// Is `true` if an attempt failed; otherwise none was made.
    attempted: bool,
}

/// In baseplate's words. The process ends, and the message comes again after the restart.
fn log_failure(failure: &Failure) {
    tracing::error!(
        error = %failure,
        "Unhandled error while trying to process a message, terminating the server"
    );
}

impl<D: Decoder, H> Shared<D, H> {
    /// Takes a Kafka error instead of a message: no tags, no handler, no commit.
    fn fail(&self, error: ConsumeError) -> Failure {
        let topic = self.metrics.topic(&error.topic);
        let observation = Observation::start(&topic, Instant::now());
        let span = tracing::info_span!(target: SPANS, "handler", otel.name = self.span);
        span.in_scope(|| {
            let _active = observation.active();
            tracing::debug!(error = %error.code, "Kafka returned an error instead of a message");
        });
        drop(span);
        observation.finish(false);
        Failure::Kafka {
            code: error.end,
            text: error.text,
        }
    }

    fn open_span(&self, record: &Record) -> Span {
        let span = tracing::info_span!(
            target: SPANS,
            "handler",
            otel.name = self.span,
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

    /// Decodes a message and computes its latency. Returns `None` if it is invalid.
    fn decode(&self, record: &Record) -> Option<(D::Data, Option<f64>)> {
        match self.decoder.decode(record) {
            Ok(Decoded {
                data,
                endpoint_timestamp,
            }) => Some((data, endpoint_timestamp.map(seconds_since))),
            Err(error) => {
                tracing::error!(
                    topic = record.topic(),
                    partition = record.partition(),
                    offset = record.offset(),
                    error = %error,
                    "skipping invalid message"
                );
                record.assignment().topic_metrics.invalid.inc();
                None
            }
        }
    }

    /// Puts a message back into the queue until its next attempt. Its lane waits for it, unless
    /// it is abandoned meanwhile.
    fn defer(&self, job: Job, wait: Duration, seat: &Seat) {
        let due = Instant::now() + wait;
        let deferred = seat
            .queue
            .defer(Delivery::Message(job), due, Delivery::may_begin);
        if let Err(Delivery::Message(job)) = deferred {
            self.refuse(job, seat);
        }
    }

    /// Abandons a message at which no attempt may begin, and the messages that are held behind
    /// it in its lane: they come again after it.
    fn refuse(&self, job: Job, seat: &Seat) {
        let lane = job.lane;
        job.abandon();
        let behind = lane.map(|lane| seat.queue.forsake(lane, Delivery::may_begin));
        behind.into_iter().flatten().for_each(Delivery::abandon);
    }

    /// Executes the action after the last attempt. (If a handler asks for the dead-letter topic
    /// and there is one, `onFailure` names it too.)
    async fn give_up(
        &self,
        record: &Record,
        attempts: u32,
        error: &HandlerError,
    ) -> Result<Ended, Failure> {
        let metrics = &record.assignment().topic_metrics;
        if error.kind() == FailureKind::Skip {
            log_skipped(record, error);
            metrics.skipped.inc();
            return Ok(Ended::GivenUp(Done::default()));
        }
        let mut done = Done::default();
        match (&self.policy.on_failure, &self.dead_letters) {
            (FailureAction::Skip, _) => {
                log_given_up(record, attempts, error, "skipping a message");
                metrics.skipped.inc();
            }
            (FailureAction::DeadLetter(_), Some(dead_letters)) => {
                let failed = Failed {
                    record,
                    attempts,
                    reason: error.reason(),
                };
                let sent = dead_letters.send(failed).await;
                done = sent.map_err(|error| Failure::of(record.position(), error.into()))?;
                log_given_up(record, attempts, error, "dead-lettered a message");
                metrics.dead_lettered.inc();
            }
            _ => {
                // Otherwise a handler that was corrected meanwhile would get only one attempt.
                record.assignment().forget_attempts(record.offset());
                let cause = Cause::Handler {
                    attempts,
                    reason: error.reason().to_owned(),
                };
                return Err(Failure::of(record.position(), cause));
            }
        }
        Ok(Ended::GivenUp(done))
    }

    /// Checks a handler's result. Records that would not be produced are a failure.
    fn accept(&self, given: Result<Done, HandlerError>) -> Result<Done, HandlerError> {
        match given {
            Ok(done) if !self.produces && !done.produce.is_empty() => {
                Err(HandlerError::permanent(NOT_TRANSACTIONAL))
            }
            given => given,
        }
    }
}

/// The error of a handler that returns records in another mode.
const NOT_TRANSACTIONAL: &str = "the handler returned records to produce, which needs commit: Transactional; set it in the manifest, or let the handler produce the records itself";

fn log_given_up(record: &Record, attempts: u32, error: &HandlerError, what: &str) {
    tracing::error!(
        topic = record.topic(),
        partition = record.partition(),
        offset = record.offset(),
        key = record.key().map(String::from_utf8_lossy).as_deref(),
        attempts,
        error = %Reason(error.reason()),
        "{what} that could not be handled"
    );
}

fn log_skipped(record: &Record, error: &HandlerError) {
    tracing::info!(
        topic = record.topic(),
        partition = record.partition(),
        offset = record.offset(),
        reason = %Reason(error.reason()),
        "skipping a message at the handler's request"
    );
}

/// Notes a failed attempt. Another follows, here or at the message's next owner.
fn note_retry(record: &Record, attempt: u32, error: &HandlerError, wait: Duration) {
    record.assignment().fail(record.offset(), attempt);
    tracing::warn!(
        topic = record.topic(),
        partition = record.partition(),
        offset = record.offset(),
        attempt,
        error = %Reason(error.reason()),
        ?wait,
        "the handler failed; the next attempt follows after the back-off"
    );
    record.assignment().topic_metrics.retried.inc();
}

/// Logs that an attempt was not made, and follows again.
fn note_repeat(record: &Record, attempt: u32, error: &HandlerError, wait: Duration) {
    tracing::debug!(
        topic = record.topic(),
        partition = record.partition(),
        offset = record.offset(),
        attempt,
        reason = %Reason(error.reason()),
        ?wait,
        "the handler did not begin the message; it is offered again"
    );
}

/// Reports the end of a message to its partition; a settled one through `settled`.
fn report(
    record: &Record,
    ended: Result<Ended, Failure>,
    settled: &mut Settled,
) -> Result<(), Failure> {
    let partition = record.assignment();
    match ended {
        Ok(Ended::Handled(done) | Ended::GivenUp(done)) => {
            // First: a commit that covers the message must find its records.
            partition.produce(record.offset(), done.produce);
            settled.add(partition, record.offset());
        }
        Ok(Ended::Invalid) => settled.add(partition, record.offset()),
        Ok(Ended::Abandoned) => {
            tracing::info!(
                topic = record.topic(),
                partition = record.partition(),
                offset = record.offset(),
                "the message is left to the next owner of its partition"
            );
            partition.abandon(record.offset());
        }
        Err(failure) => {
            partition.abandon(record.offset());
            return Err(failure);
        }
        Ok(Ended::Deferred(_) | Ended::Behind) => {}
    }
    Ok(())
}

/// Returns the seconds from a time in milliseconds since the epoch until now.
fn seconds_since(timestamp: f64) -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    (now as f64 - timestamp) / 1000.0
}

fn timed_out(limit: Duration) -> HandlerError {
    HandlerError::retryable(format_args!("the handler took longer than {limit:?}"))
}

fn panicked(panic: &(dyn Any + Send)) -> HandlerError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    HandlerError::retryable(format_args!("the handler panicked: {text}"))
}
