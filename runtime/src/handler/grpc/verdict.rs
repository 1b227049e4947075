//! From the contract's verdict to ours.

use std::time::Duration;

use super::v1;
use crate::handler::HandlerError;

/// What the handler said of a delivery.
pub(super) fn of(verdict: &v1::Verdict) -> Result<(), HandlerError> {
    use v1::verdict::Outcome;
    match &verdict.outcome {
        Some(Outcome::Done(done)) if done.produce.is_empty() => Ok(()),
        Some(Outcome::Done(_)) => Err(HandlerError::permanent(
            "the handler gave messages to produce, which this version of the runtime can't; let it produce them itself",
        )),
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
        None => Err(HandlerError::retryable(
            "the handler's verdict has no outcome that this version of the runtime knows",
        )),
    }
}

/// The reason, or that there is none.
fn said(verdict: &str, reason: &str) -> String {
    match reason.trim() {
        "" => format!("the handler answered {verdict} without a reason"),
        reason => reason.to_owned(),
    }
}
