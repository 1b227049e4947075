//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was last seen of the consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConsumerStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Pods that are ready, of those that are wanted, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Handlers in all replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handlers: Option<i64>,

    /// Messages that the group has yet to handle, in all partitions whose lag is
    /// known, when this was last read. Absent while no partition's is. A lower
    /// bound while lagUnknownPartitions is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Number of partitions whose lag is not known. Absent when every partition's
    /// is known, or none has been read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_unknown_partitions: Option<i32>,

    /// Why the lag, or a part of it, is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_unknown_reason: Option<String>,

    /// Topics in which the group has had committed offsets. The operator compares
    /// what it reads with this to notice that offsets have expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommittedTopics>,

    /// Messages that the group has lost, or that it will not find when it reads
    /// on. The condition MessagesLost has the same in words. An entry is kept for an
    /// hour after the group has moved past it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages_lost: Vec<LostMessages>,

    /// Accepted, TopicsResolved, Available, Progressing and MessagesLost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Topics in which a group has had committed offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommittedTopics {
    /// The group.
    pub group: String,

    /// The brokers that keep its offsets, as in spec.kafka.
    pub bootstrap_servers: String,

    /// The topics, those of the spec only.
    pub topics: Vec<String>,
}

/// Messages of a partition that a group did not commit and that are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostMessages {
    /// The topic.
    pub topic: String,

    /// The partition. Absent when it concerns the whole topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,

    /// RetentionPassed, TopicRecreated or OffsetsExpired.
    pub reason: LossReason,

    /// The committed offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<i64>,

    /// The offset at which the log begins, with RetentionPassed, or at which it
    /// ends, with TopicRecreated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<i64>,

    /// Number of messages that are lost, at most. Absent when it can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,

    /// Time at which the operator saw that the group had moved past them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_time: Option<Time>,
}

/// Why messages are lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum LossReason {
    /// The log begins behind the committed offset.
    RetentionPassed,
    /// The log ends before the committed offset.
    TopicRecreated,
    /// The group had committed offsets and has none any more.
    OffsetsExpired,
}
