//! The Kafka client: connecting, events, messages, and the traits that separate the engine from
//! any client.

mod causes;
pub mod client;
mod connect;
mod context;
mod errors;
mod fetch_errors;
mod librdkafka;
pub(crate) mod native;
pub mod oauth;
#[cfg(test)]
pub(crate) mod scripted;
mod seam;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod simulated;

pub use causes::ConnectCause;
pub use connect::{ConnectError, METADATA_TIMEOUT, unknown_topic};
pub(crate) use connect::{Target, connect};
pub(crate) use context::{Context, log_client_error, log_librdkafka, log_revoked};
pub use errors::error_text;
pub(crate) use errors::{
    FetchError, end_code, is_between_generations, is_for_good, is_of_the_batch, is_refused_record,
    judge_fetch, mends_itself,
};
pub(crate) use fetch_errors::FetchErrors;
pub(crate) use librdkafka::commit_list;
use native::metadata;
pub(crate) use native::{NativeMessage, c_name};
pub(crate) use seam::{
    Client, CommitEntry, CommitOutcome, Committed, ConsumeError, Edge, Event, Fetched, Fetcher,
    FoundEdges, LookUpError, OutOfRange, PartitionHandle, PollError, StartOffset, TopicId,
    TopicPartition, Transactional,
};

/// librdkafka's consumer with Penstock's callbacks.
pub(crate) type Consumer = rdkafka::consumer::BaseConsumer<Context>;
