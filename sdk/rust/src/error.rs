//! Why a message was not handled, and what follows.

use std::fmt;
use std::time::Duration;

/// Why a message could not be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    kind: FailureKind,
    reason: String,
    retry_after: Option<Duration>,
}

/// What is to follow a message that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt: something else was unavailable.
    Retryable,
    /// What `onFailure` says: the message itself can't be handled.
    Permanent,
    /// Nothing: the message is left behind on purpose, whatever `onFailure` says.
    Skip,
    /// The dead-letter topic at once; without one, what `onFailure` says.
    DeadLetter,
    /// The same attempt again after a short pause: the handler did not begin it.
    NotAttempted,
}

impl HandlerError {
    /// A failure that may pass: tried again while attempts are left.
    pub fn retryable(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Retryable, reason)
    }

    /// A failure that stays: not tried again.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Permanent, reason)
    }

    /// The message is not to be handled: it is logged, counted as skipped and left
    /// behind.
    pub fn skip(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Skip, reason)
    }

    /// The message is to go to the dead-letter topic at once. Where there is none, this
    /// is a permanent failure.
    pub fn dead_letter(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::DeadLetter, reason)
    }

    /// The message was not begun, so no attempt was made: the same attempt is made again
    /// after a short pause, which grows while that continues.
    pub fn not_attempted(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::NotAttempted, reason)
    }

    /// Returns an error of a kind, with its reason.
    pub fn new(kind: FailureKind, reason: impl fmt::Display) -> Self {
        Self {
            kind,
            reason: reason.to_string(),
            retry_after: None,
        }
    }

    /// Asks for at least this wait before the next attempt.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What is to follow.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns `true` if later messages of the same key must not be handled now: this message
    /// comes again, or it may end the consumer. A skipped message does neither.
    pub fn stops_key(&self) -> bool {
        self.kind != FailureKind::Skip
    }

    /// What went wrong.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The wait that was asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Any error of a handler's own may pass, unless it says otherwise.
impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable(error)
    }
}
