//! From what a user wrote to a consumer that can run: every rule has been
//! checked, every default filled in, and what does not apply is gone.

mod build;

pub use build::validate;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::names::{ConsumerName, GroupId, TopicName};
use crate::spec::{Commit, Format, Handler, Kafka, OffsetReset, OnOffsetLost, Pod, PodCount};

/// A `KafkaConsumer` that has passed every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedConsumer {
    /// The consumer group.
    pub group: GroupId,
    /// The consumer's name in spans and metrics.
    pub name: ConsumerName,
    /// The topics, at least one, none twice.
    pub topics: Vec<TopicName>,
    /// The order in which messages are passed to handlers.
    pub mode: ConsumeMode,
    /// The commit policy. Only Fast has [`Commit::Read`].
    pub commit: Commit,
    /// `true` if `spec.replicas` is 0.
    pub paused: bool,
    /// Most messages taken in one read, 1 to 10,000.
    pub consume_batch_size: NonZeroU32,
    /// The position at which a group without a committed offset begins.
    pub offset_reset: OffsetReset,
    /// The position at which a group continues after its offsets are lost.
    pub on_offset_lost: OnOffsetLost,
    /// The format of values.
    pub format: Format,
    /// The label `kafka_client_name`; may be blank.
    pub prometheus_client_name: String,
    /// Longest wait for messages in flight at a stop or a rebalance.
    pub stop_timeout: Duration,
    /// The cluster and how to connect to it.
    pub kafka: Kafka,
    /// The handler's image and transport.
    pub handler: Handler,
    /// The connection to the handler.
    pub endpoint: Endpoint,
    /// The attempts at a message, and the action after the last one.
    pub delivery: DeliveryPolicy,
    /// The way in which pods are replaced.
    pub rollout: RolloutPolicy,
    /// Settings of the pods.
    pub pod: Pod,
}

impl ValidatedConsumer {
    /// Pods that are wanted.
    pub fn replicas(&self) -> u32 {
        match self.mode {
            ConsumeMode::InOrder => u32::from(!self.paused),
            ConsumeMode::KeyOrdered { replicas, .. } | ConsumeMode::Fast { replicas, .. } => {
                replicas
            }
        }
    }
}

/// The modes, each with the settings that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeMode {
    /// One handler in one replica.
    InOrder,
    /// Handlers side by side, never two for one key.
    KeyOrdered {
        /// Handlers in each replica.
        handlers: Concurrency,
        /// Pods.
        replicas: u32,
    },
    /// Handlers side by side.
    Fast {
        /// Handlers in each replica.
        handlers: Concurrency,
        /// Pods.
        replicas: u32,
    },
}

impl ConsumeMode {
    /// Handlers in one replica.
    pub fn handlers(&self) -> usize {
        match self {
            Self::InOrder => 1,
            Self::KeyOrdered { handlers, .. } | Self::Fast { handlers, .. } => handlers.get(),
        }
    }
}

/// The way in which pods are replaced. InOrder has only [`RolloutPolicy::Recreate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutPolicy {
    /// New pods start after the last old one has ended.
    Recreate,
    /// Old pods end while new ones become ready. Not both of the numbers are 0.
    RollingUpdate {
        /// The maximum number of pods above the wanted number.
        max_surge: PodCount,
        /// The maximum number of pods below it.
        max_unavailable: PodCount,
    },
}

/// A number of handlers: 1 to 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Concurrency(u16);

impl Concurrency {
    /// The most handlers that one replica may have.
    pub const MAX: u16 = 10_000;

    /// Takes a number in range.
    pub fn new(handlers: i64) -> Option<Self> {
        u16::try_from(handlers)
            .ok()
            .filter(|n| (1..=Self::MAX).contains(n))
            .map(Self)
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0.into()
    }
}

/// The connection to the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Within the process.
    Embedded,
    /// In another process.
    Remote {
        /// The protocol.
        transport: Transport,
        /// The address on which it listens.
        address: Address,
    },
}

impl Endpoint {
    /// Returns the address of a handler in another process.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Embedded => None,
            Self::Remote { address, .. } => Some(address),
        }
    }
}

/// The protocol of a handler in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/1.1, one message a request.
    Http,
    /// HTTP/1.1, several messages a request.
    BatchHttp,
    /// gRPC, batches over one stream.
    Grpc,
}

/// The address on which a handler listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port on the loopback address.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Attempts, waits and what follows the last attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryPolicy {
    /// Attempts in all, 1 to 1,000.
    pub max_attempts: NonZeroU32,
    /// First wait.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Growth of the waits, 1 to 100.
    pub factor: f64,
    /// Share of each wait that is random, 0 to 1.
    pub jitter: f64,
    /// The action after the last attempt.
    pub on_failure: FailureAction,
}

/// The action after the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureAction {
    /// End the process.
    Stop,
    /// Log, count and continue.
    Skip,
    /// Write the message to this topic and continue.
    DeadLetter(TopicName),
}
