//! Converts the verdicts of the contract.

use std::time::Duration;

use crate::handler::HandlerError;
use crate::handler::produce::{Done, ProducerRecord};
use penstock_handler::v1;

/// Returns the result for a delivery.
pub(super) fn of(verdict: v1::Verdict) -> Result<Done, HandlerError> {
    use v1::verdict::Outcome;
    match verdict.outcome {
        // The records would be produced once for each message.
        Some(Outcome::Done(done)) if verdict.count > 1 && !done.produce.is_empty() => {
            Err(HandlerError::permanent(
                "the handler returned records to produce for several deliveries together; send a separate verdict for each",
            ))
        }
        Some(Outcome::Done(done)) => Ok(Done {
            produce: done.produce.into_iter().map(record).collect(),
        }),
        Some(Outcome::Retry(retry)) => {
            let error = HandlerError::retryable(said("retry", &retry.reason));
            Err(match retry.delay_ms {
                0 => error,
                delay => error.after(Duration::from_millis(delay)),
            })
        }
        Some(Outcome::Skip(skip)) => Err(HandlerError::skip(said("skip", &skip.reason))),
        Some(Outcome::DeadLetter(letter)) => Err(HandlerError::dead_letter(said(
            "dead_letter",
            &letter.reason,
        ))),
        Some(Outcome::Fail(fail)) => Err(HandlerError::permanent(said("fail", &fail.reason))),
        Some(Outcome::Release(release)) => {
            let error = HandlerError::not_attempted(said("release", &release.reason));
            Err(error.after(Duration::from_millis(release.delay_ms)))
        }
        None => Err(HandlerError::retryable(
            "the handler's verdict has no outcome that this version of the runtime knows",
        )),
    }
}

fn record(record: v1::Record) -> ProducerRecord {
    let headers = record.headers.into_iter();
    ProducerRecord {
        topic: record.topic,
        partition: record.partition,
        key: record.key.map(Into::into),
        payload: record.value.map(Into::into),
        headers: headers
            .map(|header| (header.name, header.value.map(Into::into)))
            .collect(),
        timestamp: record.timestamp_ms,
        ..ProducerRecord::default()
    }
}

/// Returns the reason, or a text that there is none.
fn said(verdict: &str, reason: &str) -> String {
    match reason.trim() {
        "" => format!("the handler answered {verdict} without a reason"),
        reason => reason.to_owned(),
    }
}
