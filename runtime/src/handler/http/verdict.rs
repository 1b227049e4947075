//! Converts an HTTP status to a verdict.

use std::time::Duration;

use http::StatusCode;

use super::answer::Answer;
use crate::handler::HandlerError;

/// The maximum number of an answer's characters in an error.
const SHOWN: usize = 200;

/// Returns the verdict of a status. With 2xx the message is handled. The failures 408, 425, 429 and
/// 5xx may pass; all others are permanent.
pub(super) fn of(answer: &Answer) -> Result<(), HandlerError> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let mut reason = format!("the handler answered {status}");
    let text = answer.text();
    if !text.trim().is_empty() {
        let shown: String = text.trim().chars().take(SHOWN).collect();
        reason = format!("{reason}: {shown}");
    }
    if !passes(status) {
        return Err(HandlerError::permanent(reason));
    }
    let error = HandlerError::retryable(reason);
    Err(match wait(answer) {
        Some(wait) => error.after(wait),
        None => error,
    })
}

/// Returns the reason why the handler takes no messages for some time, or `None` if it takes
/// messages.
pub(super) fn unavailable(answer: &Answer) -> Option<HandlerError> {
    let wait = wait(answer).filter(|_| answer.status == StatusCode::SERVICE_UNAVAILABLE)?;
    let away = "the handler answered 503 with Retry-After";
    Some(HandlerError::not_attempted(away).after(wait))
}

fn passes(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Returns the wait that `Retry-After` asks for, if it is a number of seconds.
fn wait(answer: &Answer) -> Option<Duration> {
    let seconds = answer.retry_after.as_ref()?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;
    use crate::handler::FailureKind;

    #[test]
    fn every_status_has_its_verdict() {
        for status in 200..600 {
            let verdict = of(&Answer::of(status, "")).map_err(|error| error.kind());
            let expected = match status {
                200..=299 => Ok(()),
                408 | 425 | 429 | 500.. => Err(FailureKind::Retryable),
                _ => Err(FailureKind::Permanent),
            };
            assert_eq!(verdict, expected, "{status}");
        }
    }

    #[test]
    fn the_reason_shows_the_status_and_the_beginning_of_the_answer() {
        let error = of(&Answer::of(422, "no amount ".repeat(100))).unwrap_err();
        let reason = error.reason();
        assert!(
            reason.starts_with("the handler answered 422 Unprocessable Entity: no amount"),
            "{reason}"
        );
        assert!(reason.len() < 300);
    }

    #[test]
    fn retry_after_in_seconds_is_a_wait() {
        let mut answer = Answer::of(503, "");
        answer.retry_after = Some(HeaderValue::from_static("7"));
        let error = of(&answer).unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        answer.retry_after = Some(HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"));
        assert_eq!(of(&answer).unwrap_err().retry_after(), None);
    }
}
