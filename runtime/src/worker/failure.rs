//! Why a message ends the consumer.

use std::fmt;

use thiserror::Error;

use crate::dead_letter::DeadLetterError;

/// Where a message lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            partition,
            offset,
        } = self;
        write!(f, "topic {topic} partition {partition} offset {offset}")
    }
}

/// Why the consumer must end. Nothing is committed for the message, so it comes
/// again after the restart.
#[derive(Debug, Error)]
pub enum Failure {
    /// Kafka gave an error instead of a message.
    #[error("KafkaError: {0}")]
    Kafka(String),
    /// A message could not be dealt with.
    #[error("{position}: {cause}")]
    Message {
        /// The message.
        position: Position,
        /// What went wrong.
        cause: Box<Cause>,
    },
}

/// What went wrong with a message.
#[derive(Debug, Error)]
pub enum Cause {
    /// The handler failed, and `onFailure` is Stop.
    #[error("the handler failed at attempt {attempts}: {}", one_line(reason))]
    Handler {
        /// Attempts made.
        attempts: u32,
        /// What the handler said.
        reason: String,
    },
    /// The message was handled and could not be committed.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// The message could not be written to the dead-letter topic.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
}

/// The text with each line break, and the spaces around it, made one space.
fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines.join(" ")
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
}
