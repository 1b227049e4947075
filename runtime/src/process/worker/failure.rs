//! The errors that end a consumer at a message.

use std::fmt;

use thiserror::Error;

use crate::handler::record::Position;
use crate::process::dead_letter::DeadLetterError;
use crate::program::end_code::EndCode;

/// The reason that a consumer ends. The message is not committed, so it comes again after the
/// restart.
#[derive(Debug, Error)]
pub enum Failure {
    /// Kafka returned an error instead of a message.
    #[error("KafkaError: {text}")]
    Kafka {
        /// The code of the error.
        code: EndCode,
        /// The text of the error.
        text: String,
    },
    /// A message could not be settled.
    #[error("{position}: {cause}")]
    Message {
        /// The message.
        position: Position,
        /// The cause.
        cause: Box<Cause>,
    },
}

/// The reason why a message ends the consumer.
#[derive(Debug, Error)]
pub enum Cause {
    /// The handler failed, and `onFailure` is Stop.
    #[error("the handler failed at attempt {attempts}: {}", Reason(reason))]
    Handler {
        /// Attempts made.
        attempts: u32,
        /// The handler's reason.
        reason: String,
    },
    /// The message was handled and could not be committed.
    #[error(
        "the commit failed: {0}; check the group's coordinator and the length of its rebalances. The message was handled and comes again"
    )]
    Commit(String),
    /// The message could not be written to the dead-letter topic.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
}

/// A reason in a log: each line break, with the spaces around it, becomes one space, and a long
/// reason is cut. A handler may return any text, and none may look like a line of the log.
pub(crate) struct Reason<'a>(pub(crate) &'a str);

/// The maximum length of a reason in a log, in bytes.
const MAX_REASON_BYTES: usize = 4096;

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.floor_char_boundary(MAX_REASON_BYTES)];
        for (index, line) in shown.split(['\n', '\r']).map(str::trim).enumerate() {
            if index > 0 && !line.is_empty() {
                f.write_str(" ")?;
            }
            f.write_str(line)?;
        }
        if shown.len() < self.0.len() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

impl Failure {
    pub(crate) fn of(position: Position, cause: Cause) -> Self {
        Self::Message {
            position,
            cause: Box::new(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_place_attempts_and_reason_in_one_line() {
        let position = Position {
            topic: "orders".into(),
            partition: 3,
            offset: 42,
        };
        let cause = Cause::Handler {
            attempts: 5,
            reason: "no such order:\r\n  {\n  id: 7 }".into(),
        };
        assert_eq!(
            Failure::of(position, cause).to_string(),
            "topic orders partition 3 offset 42: the handler failed at attempt 5: no such order: { id: 7 }"
        );
    }
    #[test]
    fn a_reason_is_one_line_of_limited_length() {
        for (reason, wanted) in [
            ("", ""),
            ("busy", "busy"),
            ("one\r\n  two\n\n three ", "one two three"),
            ("one\rtwo", "one two"),
        ] {
            assert_eq!(Reason(reason).to_string(), wanted);
        }
        let long = "ä\n".repeat(1 << 20);
        let shown = Reason(&long).to_string();
        assert!(
            shown.len() <= MAX_REASON_BYTES + "…".len(),
            "{}",
            shown.len()
        );
        assert!(shown.ends_with("ä…"), "{shown}");
        assert_eq!(shown.lines().count(), 1);
    }
}
