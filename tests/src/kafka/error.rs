//! Why a broker can't be had.

use std::io;

use super::{BOOTSTRAP_VARIABLE, jars};
use crate::certificates::CertificateError;
use crate::process::ProcessError;
use crate::wait;

/// The broker can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// Kafka's own files can't be fetched.
    #[error("Kafka's jars can't be had: {0}")]
    Jars(#[from] jars::JarsError),
    /// Certificates can't be made.
    #[error("certificates can't be made: {0}")]
    Security(#[from] CertificateError),
    /// A file or a port.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// The storage could not be formatted.
    #[error("formatting Kafka's storage failed; its output:\n{0}")]
    Format(String),
    /// The broker ended instead of answering.
    #[error("the broker did not start ({status}); its last lines:\n{tail}")]
    Ended {
        /// How it ended.
        status: String,
        /// What it logged last.
        tail: String,
    },
    /// Something about the broker's process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The broker runs but does not answer.
    #[error("{timed_out}; the broker's last lines:\n{tail}")]
    Silent {
        /// What did not come.
        timed_out: wait::TimedOut,
        /// What it logged last.
        tail: String,
    },
    /// A user's password could not be changed.
    #[error("changing the password of {user} failed; the tool's last lines:\n{tail}")]
    Password {
        /// Whose.
        user: String,
        /// What the tool wrote last.
        tail: String,
    },
    /// The broker belongs to somebody else.
    #[error("the broker of {BOOTSTRAP_VARIABLE} is not ours to stop: use Kafka::start")]
    NotOurs,
    /// The broker is already stopped.
    #[error("the broker is stopped")]
    Stopped,
}

impl KafkaError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}
