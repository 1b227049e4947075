//! The `KafkaConsumer` resource as users write it.
//!
//! Doc comments here are the text of `kubectl explain` and of the configuration
//! reference, so they speak to the author of a manifest. What a field may hold
//! is said by [`crate::rules`]; what it means once checked, by
//! [`crate::validate::ValidatedConsumer`].

// Each printed column has the same keys.
#![allow(clippy::duplicated_attributes)]

mod delivery;
mod duration;
mod handler;
mod kafka;
mod pod;
mod status;

pub use delivery::{Backoff, Delivery, OnFailure};
pub use duration::HumanDuration;
pub use handler::{Handler, Protocol};
pub use kafka::{
    Authentication, AuthenticationType, CertificateSource, GenericSecretSource, Kafka,
    KeyPairSecretSource, PasswordSecretSource, Tls,
};
pub use pod::{Pod, Volume};
pub use status::{CommittedTopics, KafkaConsumerStatus, LossReason, LostMessages};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Kafka consumer: which topics to read, as which group, in which mode, and
/// the handler that is given each message.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "penstock.dev",
    version = "v1alpha1",
    kind = "KafkaConsumer",
    plural = "kafkaconsumers",
    shortname = "kc",
    category = "all",
    namespaced,
    status = "KafkaConsumerStatus",
    derive = "PartialEq",
    doc = "A Kafka consumer: which topics to read, as which group, in which mode, and the handler that is given each message.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        description = "InOrder, KeyOrdered or Fast",
        json_path = ".spec.mode"
    ),
    printcolumn(
        name = "Group",
        type_ = "string",
        description = "Consumer group",
        json_path = ".spec.group"
    ),
    printcolumn(
        name = "Topics",
        type_ = "string",
        description = "Topics that are read",
        json_path = ".spec.topics"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        description = "Pods that are ready, of those that are wanted",
        json_path = ".status.ready"
    ),
    printcolumn(
        name = "Handlers",
        type_ = "integer",
        description = "Handlers in all replicas",
        json_path = ".status.handlers"
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        description = "Messages yet to be handled, as far as known when this was last read",
        json_path = ".status.lag"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether messages are being handled",
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why it is ready or not",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Available\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        description = "Time since creation",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaConsumerSpec {
    /// Kafka consumer group, written SERVICENAME.group_name. The service name in
    /// front keeps the groups of different services apart.
    pub group: String,

    /// Name of the consumer in spans and metrics. Derived from the group as
    /// kafka_consumer.group_name when absent; anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Topics to read. Each must exist before the consumer starts.
    pub topics: Vec<String>,

    /// InOrder handles one message at a time, in the order of each partition,
    /// and commits after each. KeyOrdered runs maxConcurrency handlers side by
    /// side, but messages with one key one after the other, in order. Fast runs
    /// maxConcurrency handlers side by side and promises no order.
    pub mode: Mode,

    /// Number of handlers in each replica, 1 to 10000. InOrder has exactly one.
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<i64>,

    /// Number of pods. InOrder has exactly one. 0 pauses the consumer, and its
    /// group keeps its offsets.
    #[serde(default = "default_replicas")]
    pub replicas: i32,

    /// When offsets are committed. (The schema takes its text from the type.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,

    /// Most messages taken from the Kafka client in one read.
    #[serde(default = "default_consume_batch_size")]
    pub consume_batch_size: i64,

    /// Where a group without a committed offset begins: Latest reads only what
    /// is produced from now on, Earliest all that is kept, Fail stops with an
    /// error.
    #[serde(default)]
    pub offset_reset: OffsetReset,

    /// Where a group continues whose offsets are lost, because retention passed them,
    /// or the topic was truncated or created again: Earliest at the oldest message that
    /// is kept, Latest at the end, Fail stops with an error. Default: Earliest.
    #[serde(default, skip_serializing_if = "OnOffsetLost::is_default")]
    pub on_offset_lost: OnOffsetLost,

    /// How a message's value is read. Json skips and counts values that are not
    /// valid JSON, tombstones among them; Raw hands over any bytes, and
    /// tombstones as such.
    #[serde(default)]
    pub format: Format,

    /// Value of the label kafka_client_name in the metrics. May be blank.
    #[serde(default)]
    pub prometheus_client_name: String,

    /// Longest time that a stop or a rebalance waits for messages in flight.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: HumanDuration,

    /// The Kafka cluster and how to connect to it.
    pub kafka: Kafka,

    /// The program that is given each message.
    pub handler: Handler,

    /// What happens when a message can't be handled.
    #[serde(default)]
    pub delivery: Delivery,

    /// Settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// How messages are given to handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// One handler, one message at a time, in order.
    InOrder,
    /// maxConcurrency handlers side by side; messages with one key in order.
    KeyOrdered,
    /// maxConcurrency handlers side by side, in no order.
    Fast,
}

/// When offsets are committed. Read: every 5 seconds, for all that was read,
/// handled or not (Fast only, and its default): after a crash messages may be
/// missing. Handled: only for what was handled, with every message before it:
/// after a crash messages may come twice, none is missing (the default of InOrder
/// and KeyOrdered). Transactional: as Handled, every 100 ms, in one Kafka
/// transaction with the messages that handlers give the runtime to produce: each
/// of those is there once for who reads with isolation.level read_committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Commit {
    /// Whatever was read, every 5 seconds.
    Read,
    /// Only what was handled, with every message before it.
    Handled,
    /// What was handled and what is produced for it, both or neither.
    Transactional,
}

/// Where a group without a committed offset begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OffsetReset {
    /// At the end: only new messages.
    #[default]
    Latest,
    /// At the oldest message that is kept.
    Earliest,
    /// Nowhere: stop with an error.
    Fail,
}

/// Where a group continues whose offsets are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnOffsetLost {
    /// At the oldest message that is kept.
    #[default]
    Earliest,
    /// At the end: only new messages.
    Latest,
    /// Nowhere: stop with an error.
    Fail,
}

impl OnOffsetLost {
    /// Returns `true` for the default, which manifests need not mention.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a message's value is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// JSON text (RFC 8259).
    #[default]
    Json,
    /// Any bytes, or none.
    Raw,
}

fn default_replicas() -> i32 {
    1
}

fn default_consume_batch_size() -> i64 {
    1
}

fn default_stop_timeout() -> HumanDuration {
    HumanDuration::from_secs(30)
}
