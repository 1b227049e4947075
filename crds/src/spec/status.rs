//! The state that the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of the consumer when the operator last read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConsumerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Ready pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Ready pods / desired pods, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Handlers in all replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handlers: Option<i64>,

    /// Messages between the committed offsets of the group and the ends of the
    /// partitions, at the last reading, for all partitions whose lag is known. Absent
    /// while no lag is known. A lower bound while lagUnknownPartitions is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Number of partitions with an unknown lag. Absent when every lag is known, or
    /// none has been read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_unknown_partitions: Option<i32>,

    /// Reason why the lag, or a part of it, is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_unknown_reason: Option<String>,

    /// Topics in which the group has had committed offsets. The operator compares
    /// each reading with them to detect expired offsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommittedTopics>,

    /// Messages that the group has lost, or will not find when it continues. The
    /// message of the condition MessagesLost describes them too. An entry stays for
    /// one hour after the group has moved past it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages_lost: Vec<LostMessages>,

    /// Accepted, TopicsResolved, Available, Progressing, MessagesLost and Ready; Reconciling
    /// or Stalled while it is true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Topics in which a group has had committed offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommittedTopics {
    /// The group.
    pub group: String,

    /// The brokers that store its offsets, as in spec.kafka.
    pub bootstrap_servers: String,

    /// The topics, only those of the spec.
    pub topics: Vec<String>,
}

/// Messages of a partition that a group did not commit and that are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostMessages {
    /// The topic.
    pub topic: String,

    /// The partition. Absent when the loss concerns the whole topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,

    /// RetentionPassed, TopicRecreated or OffsetsExpired.
    pub reason: LossReason,

    /// The committed offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<i64>,

    /// The beginning of the log, with RetentionPassed, or its end, with
    /// TopicRecreated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<i64>,

    /// Maximum number of lost messages. Absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,

    /// Time at which the operator noticed that the group had moved past them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_time: Option<Time>,
}

/// The reason why messages are lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum LossReason {
    /// The log begins after the committed offset.
    RetentionPassed,
    /// The log ends before the committed offset.
    TopicRecreated,
    /// The group had committed offsets and no longer has any.
    OffsetsExpired,
}
