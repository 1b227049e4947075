//! The operator's knowledge of the Kafka clusters: their topics, and the positions of the groups.
//!
//! Consumers of a namespace with the same brokers and credentials share one listing, which is
//! renewed periodically. The operator reconciles a consumer when the answer for it changes.

mod client;
mod cluster;
mod directory;
mod lag;
mod offsets;
mod policy;
mod positions;
mod search;
mod settings;
mod slots;

pub use client::ListError;
pub use directory::Directory;
pub use lag::{LagReader, LagTarget};
pub use policy::{AllowedBrokers, BrokerPolicy, DeniedNetworks, NotAllowed, PolicyError};
pub use positions::{Lag, Loss, PartitionLag, Positions};
pub use search::SearchPath;
pub use settings::Connection;

/// The result of the search for a consumer's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Every topic exists.
    Found,
    /// The brokers have not been asked yet.
    Pending,
    /// These topics do not exist.
    Missing(Vec<String>),
    /// No broker answered in time.
    Unreachable {
        /// The bootstrap servers.
        brokers: String,
        /// The client's error.
        error: String,
    },
    /// The brokers refuse the connection: wrong credentials or certificates.
    Refused {
        /// The bootstrap servers.
        brokers: String,
        /// The client's error.
        error: String,
    },
    /// The operator may not connect to this broker.
    NotAllowed(NotAllowed),
    /// The connection needs a Secret that does not exist.
    NoSecret(String),
}
