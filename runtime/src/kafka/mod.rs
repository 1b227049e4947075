//! The Kafka client: connecting, events, and the messages themselves.

mod connect;
mod context;
mod errors;
mod native;

pub use connect::{ConnectError, METADATA_TIMEOUT, unknown_topic};
pub(crate) use connect::{Target, connect};
pub(crate) use context::{
    CommitOutcome, Context, Event, TopicPartition, log_client_error, log_librdkafka, log_revoked,
};
pub(crate) use errors::mends_itself;
pub(crate) use native::{
    ConsumeError, MessageQueue, NativeMessage, PartitionHandle, c_name, commit, high_watermark,
    member_id, metadata,
};

/// The librdkafka consumer with our callbacks.
pub(crate) type Consumer = rdkafka::consumer::BaseConsumer<Context>;
