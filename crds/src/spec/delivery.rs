//! Attempts at a message, and the action after the last one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HumanDuration;

/// Attempts, the waits between them, and the action after the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delivery {
    /// Number of attempts at a message before onFailure applies, 1 to 1000. Only
    /// retryable failures are tried again.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: i64,

    /// Waits between attempts.
    #[serde(default)]
    pub backoff: Backoff,

    /// Action after the last attempt. Stop: the process ends, and the message
    /// comes again after the restart. Skip: the message is logged, counted and
    /// skipped. DeadLetter: the message is written to deadLetterTopic.
    #[serde(default)]
    pub on_failure: OnFailure,

    /// Topic for messages that could not be handled. Required with DeadLetter, and
    /// valid only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}

/// Exponential waits between attempts: initial, then factor times the last,
/// never above max.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Wait before the second attempt.
    #[serde(default = "default_initial")]
    pub initial: HumanDuration,

    /// Maximum wait.
    #[serde(default = "default_max")]
    pub max: HumanDuration,

    /// Factor between a wait and the next, 1 to 100.
    #[serde(default = "default_factor")]
    pub factor: f64,

    /// Random share of each wait, 0 (none) to 1 (all of it). It prevents consumers
    /// that failed together from retrying together.
    #[serde(default = "default_jitter")]
    pub jitter: f64,
}

/// The action after the last attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// End the process; nothing is committed for the message.
    #[default]
    Stop,
    /// Log, count and continue.
    Skip,
    /// Write the message to the dead-letter topic and continue.
    DeadLetter,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            max_attempts: default_max_attempts(),
            backoff: Backoff::default(),
            on_failure: OnFailure::default(),
            dead_letter_topic: None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: default_initial(),
            max: default_max(),
            factor: default_factor(),
            jitter: default_jitter(),
        }
    }
}

fn default_max_attempts() -> i64 {
    1
}

fn default_initial() -> HumanDuration {
    HumanDuration::from_millis(100)
}

fn default_max() -> HumanDuration {
    HumanDuration::from_secs(30)
}

fn default_factor() -> f64 {
    2.0
}

fn default_jitter() -> f64 {
    0.2
}
