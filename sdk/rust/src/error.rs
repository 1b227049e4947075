//! The error of a message that was not handled, and what follows.

use std::fmt;
use std::time::Duration;

/// The reason that a message was not handled, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    kind: FailureKind,
    reason: String,
    retry_after: Option<Duration>,
}

/// The consequence for a message that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt while attempts are left: for example, a database was unavailable.
    Retryable,
    /// The action of `onFailure`, without another attempt: the message itself cannot be
    /// handled.
    Permanent,
    /// The message is skipped, regardless of `onFailure`.
    Skip,
    /// The message is written to the dead-letter topic. Without such a topic, as `Permanent`.
    DeadLetter,
    /// The same attempt again after a short pause: the handler did not begin the message.
    NotAttempted,
}

impl HandlerError {
    /// Creates a failure that may pass. The message is attempted again while attempts are left.
    pub fn retryable(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Retryable, reason)
    }

    /// Creates a failure that another attempt cannot change. The message is not attempted
    /// again.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Permanent, reason)
    }

    /// Creates a verdict that skips the message: it is logged, counted as skipped, and settled.
    pub fn skip(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Skip, reason)
    }

    /// Creates a verdict that sends the message to the dead-letter topic without another
    /// attempt. Without a dead-letter topic, it is a permanent failure.
    pub fn dead_letter(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::DeadLetter, reason)
    }

    /// Creates a verdict for a message that the handler did not begin. No attempt is counted,
    /// and the same attempt follows after a short pause. The pause grows with each such verdict
    /// in a row.
    pub fn not_attempted(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::NotAttempted, reason)
    }

    /// Creates an error of a kind, with its reason.
    pub fn new(kind: FailureKind, reason: impl fmt::Display) -> Self {
        Self {
            kind,
            reason: reason.to_string(),
            retry_after: None,
        }
    }

    /// Sets the minimum wait before the next attempt.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns the consequence for the message.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns `true` if later messages with the same key must not be handled: the message
    /// comes again, or ends the consumer. A skipped message does neither.
    pub fn stops_key(&self) -> bool {
        self.kind != FailureKind::Skip
    }

    /// Returns the reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the minimum wait before the next attempt, if one was set.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Any other error is retryable.
impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable(error)
    }
}
