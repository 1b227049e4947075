//! How a simulated cluster and its members are set.

use std::ops::RangeInclusive;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::super::seam::Edge;

/// How the cluster is set. The defaults are Kafka's, except for the latency.
#[derive(Debug, Clone)]
pub(crate) struct KafkaSettings {
    /// The time that a request or an answer is on its way.
    pub(crate) latency: RangeInclusive<Duration>,
    /// `group.initial.rebalance.delay.ms`.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.consumer.session.timeout.ms`, of groups that use KIP-848.
    pub(crate) consumer_session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms`, of groups that use KIP-848.
    pub(crate) consumer_heartbeat_interval: Duration,
    /// `offset.metadata.max.bytes`.
    pub(crate) metadata_limit: usize,
    /// `socket.timeout.ms` of clients: after it, a request without an answer has failed.
    pub(crate) request_timeout: Duration,
    /// `fetch.wait.max.ms` of clients.
    pub(crate) fetch_wait: Duration,
    /// `retry.backoff.ms` and `fetch.error.backoff.ms` of clients.
    pub(crate) retry_backoff: Duration,
    /// The maximum time until a client notices new partitions.
    pub(crate) metadata_refresh: Duration,
    /// How long a partition has no leader while it moves.
    pub(crate) leader_election: Duration,
    /// How long a group has no coordinator while it moves.
    pub(crate) coordinator_load: Duration,
    /// Returned by [`events`](super::Kafka::events); costs memory in long runs.
    pub(crate) keeps_events: bool,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1)..=Duration::from_millis(20),
            initial_rebalance_delay: Duration::from_secs(3),
            consumer_session_timeout: Duration::from_secs(45),
            consumer_heartbeat_interval: Duration::from_secs(5),
            metadata_limit: 4096,
            request_timeout: Duration::from_secs(60),
            fetch_wait: Duration::from_millis(500),
            retry_backoff: Duration::from_millis(500),
            metadata_refresh: Duration::from_secs(30),
            leader_election: Duration::from_secs(1),
            coordinator_load: Duration::from_secs(2),
            keeps_events: true,
        }
    }
}

/// The rebalance protocol of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum GroupProtocol {
    /// Classic, with all partitions revoked in each rebalance, assigned by range.
    #[default]
    Eager,
    /// Classic and incremental, as `cooperative-sticky`.
    Cooperative,
    /// KIP-848: the brokers assign, and members have epochs.
    Consumer,
}

/// `isolation.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Isolation {
    ReadUncommitted,
    #[default]
    ReadCommitted,
}

/// How a member of a group is set. The defaults are the ones that Penstock sets.
#[derive(Debug, Clone)]
pub(crate) struct MemberSettings {
    pub(crate) protocol: GroupProtocol,
    pub(crate) topics: Vec<String>,
    /// `session.timeout.ms`; under KIP-848 the brokers decide.
    pub(crate) session_timeout: Duration,
    /// `heartbeat.interval.ms`; under KIP-848 the brokers decide.
    pub(crate) heartbeat_interval: Duration,
    /// `max.poll.interval.ms`, which is the group's rebalance time-out as well.
    pub(crate) max_poll_interval: Duration,
    pub(crate) isolation: Isolation,
    /// `max.partition.fetch.bytes`.
    pub(crate) fetch_bytes: usize,
    /// The maximum number of messages in one answer, for small batches.
    pub(crate) fetch_messages: usize,
    /// `queued.min.messages`: a partition with as many fetched messages is not fetched.
    pub(crate) queued_messages: usize,
    /// `enable.auto.commit` and `auto.commit.interval.ms`, for `commit: Read`.
    pub(crate) auto_commit: Option<Duration>,
    /// `enable.auto.offset.store`: what is handed out is stored.
    pub(crate) auto_store: bool,
    /// `enable.partition.eof`: ends of partitions are reported.
    pub(crate) reports_ends: bool,
    /// `auto.offset.reset`; absent as `error`. librdkafka applies it by itself where an
    /// offset is out of range.
    pub(crate) auto_offset_reset: Option<Edge>,
}

impl Default for MemberSettings {
    fn default() -> Self {
        Self {
            protocol: GroupProtocol::default(),
            topics: Vec::new(),
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            isolation: Isolation::default(),
            fetch_bytes: 1 << 20,
            fetch_messages: 500,
            queued_messages: 1000,
            auto_commit: None,
            auto_store: true,
            reports_ends: true,
            auto_offset_reset: None,
        }
    }
}

/// How a topic is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicKind {
    pub(crate) cleanup: Cleanup,
}

/// `cleanup.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cleanup {
    #[default]
    Delete,
    /// Only such topics can be compacted.
    Compact,
}

/// A record to append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Produce {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<i64>,
}

/// A fault to come. Numbers say how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The coordinator refuses commits.
    CommitRefused(RDKafkaErrorCode, u32),
    /// A commit gets no answer within the request time-out.
    CommitTimesOut { applied: bool },
    /// Fetches fail.
    FetchError(RDKafkaErrorCode, u32),
    /// Look-ups of committed offsets, ends and partition counts fail.
    LookUpFails(RDKafkaErrorCode, u32),
    /// No broker answers from now on, for so long.
    Unreachable(Duration),
    /// Records of transactions, and dead letters, are refused.
    ProduceFails(RDKafkaErrorCode, u32),
    /// A transaction is aborted, and its producer can go on.
    TransactionAborted(RDKafkaErrorCode),
    /// A transaction's producer is fenced.
    TransactionFenced,
    /// A call of a transaction does not come back.
    TransactionHangs,
    /// The end of a transaction gets no answer.
    TransactionTimesOut { committed: bool },
}
