//! Why a message ends the consumer.

use std::fmt;

use thiserror::Error;

use crate::dead_letter::DeadLetterError;

/// Where a message lies.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    #[error("the handler failed at attempt {attempts}: {reason}")]
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

impl Failure {
    pub(crate) fn of(position: Position, cause: Cause) -> Self {
        Self::Message {
            position,
            cause: Box::new(cause),
        }
    }
}
