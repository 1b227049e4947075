//! The `KafkaConsumer` resource as users write it.
//!
//! Doc comments here are the text of `kubectl explain` and of the configuration
//! reference, so their reader is the author of a manifest. [`crate::rules`] has the
//! values that a field may hold, and [`crate::validate::ValidatedConsumer`] their meaning
//! once checked.

// Each printed column has the same keys.
#![allow(clippy::duplicated_attributes)]

mod delivery;
mod duration;
mod handler;
mod kafka;
mod pod;
mod rollout;
mod status;

pub use delivery::{Backoff, Delivery, OnFailure};
pub use duration::HumanDuration;
pub use handler::{Handler, ImagePullPolicy, Protocol};
pub use kafka::{
    Authentication, AuthenticationType, CertificateSource, GenericSecretSource, Kafka,
    KeyPairSecretSource, PasswordSecretSource, Tls,
};
pub use pod::{DisruptionBudget, Pod, Volume};
pub use rollout::{PodCount, Rollout, RolloutStrategy};
pub use status::{CommittedTopics, KafkaConsumerStatus, LossReason, LostMessages};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Kafka consumer: the topics to read, the group, the mode, and the handler that
/// processes each message.
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
    doc = "A Kafka consumer: the topics to read, the group, the mode, and the handler that processes each message.",
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
        description = "Topics to read",
        json_path = ".spec.topics"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        description = "Ready pods / desired pods",
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
        description = "Messages not yet committed, as far as known at the last reading",
        json_path = ".status.lag"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "True if at least one pod handles messages",
        json_path = ".status.conditions[?(@.type==\"Available\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Reason of the condition Available",
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
    /// Kafka consumer group, written SERVICENAME.group_name. The service name
    /// separates the groups of different services.
    pub group: String,

    /// Name of the consumer in spans and metrics. Derived from the group as
    /// kafka_consumer.group_name when absent; any other name is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Topics to read. Each must exist before the consumer starts.
    pub topics: Vec<String>,

    /// InOrder handles one message at a time, in the order of each partition,
    /// and commits after each. KeyOrdered runs maxConcurrency handlers concurrently,
    /// but handles messages with the same key one after the other, in order. Fast
    /// runs maxConcurrency handlers concurrently and promises no order.
    pub mode: Mode,

    /// Number of handlers in each replica, 1 to 10000. InOrder has exactly one.
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<i64>,

    /// Number of pods. InOrder has at most one. 0 pauses the consumer, and its
    /// group keeps its offsets.
    #[serde(default = "default_replicas")]
    pub replicas: i32,

    /// Commit policy. (The schema takes its text from the type.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,

    /// Maximum number of messages in one read from the Kafka client, and in one
    /// batch for a handler.
    #[serde(default = "default_consume_batch_size")]
    pub consume_batch_size: i64,

    /// Position at which a group without a committed offset begins. Latest: the
    /// end, so only new messages are read. Earliest: the oldest retained message.
    /// Fail: the consumer stops with an error.
    #[serde(default)]
    pub offset_reset: OffsetReset,

    /// Position at which a group continues after its offsets are lost, because
    /// retention passed them, or the topic was truncated or created again. Earliest:
    /// the oldest retained message. Latest: the end. Fail: the consumer stops with an
    /// error. Default: Earliest.
    #[serde(default, skip_serializing_if = "OnOffsetLost::is_default")]
    pub on_offset_lost: OnOffsetLost,

    /// Format of the messages' values. Json skips and counts values that are not
    /// valid JSON, including tombstones. Raw passes any bytes to the handler, and
    /// tombstones too.
    #[serde(default)]
    pub format: Format,

    /// Value of the label kafka_client_name in the metrics. May be blank.
    #[serde(default)]
    pub prometheus_client_name: String,

    /// Maximum time that a stop or a rebalance waits for messages in flight.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: HumanDuration,

    /// The Kafka cluster and how to connect to it.
    pub kafka: Kafka,

    /// The program that processes each message.
    pub handler: Handler,

    /// Attempts at a message, and the action after the last one.
    #[serde(default)]
    pub delivery: Delivery,

    /// Replacement of the pods after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,

    /// Settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// The order in which messages are passed to handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// One handler, one message at a time, in order.
    InOrder,
    /// maxConcurrency concurrent handlers; messages with the same key in order.
    KeyOrdered,
    /// maxConcurrency concurrent handlers, in no order.
    Fast,
}

/// Commit policy. Read: commits every message that was read, handled or not, every 5
/// seconds (Fast only, and its default). After a crash, messages may be missing.
/// Handled: commits only handled messages, with every message before them (the default
/// of InOrder and KeyOrdered). After a crash, messages may come twice, and none is
/// missing. Transactional: as Handled, every 100 ms, in one Kafka transaction with the
/// records that handlers return. Consumers that read with isolation.level
/// read_committed see each of these records exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Commit {
    /// Every message that was read, every 5 seconds.
    Read,
    /// Only messages that were handled, with every message before them.
    Handled,
    /// Handled messages and the records produced for them, both or neither.
    Transactional,
}

/// The position at which a group without a committed offset begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OffsetReset {
    /// At the end: only new messages.
    #[default]
    Latest,
    /// At the oldest retained message.
    Earliest,
    /// Nowhere: stop with an error.
    Fail,
}

/// The position at which a group continues after its offsets are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnOffsetLost {
    /// At the oldest retained message.
    #[default]
    Earliest,
    /// At the end: only new messages.
    Latest,
    /// Nowhere: stop with an error.
    Fail,
}

impl OnOffsetLost {
    /// Returns `true` for the default, which manifests may omit.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The format of the messages' values.
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
