//! What is known of the Kafka clusters: which topics they have, and how far the
//! groups have come. Consumers of a namespace with the same brokers and credentials share
//! one listing, which is renewed on a timer; a consumer is looked at again when the
//! answer for it changes.

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

/// What became of a consumer's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Every topic is there.
    Found,
    /// The brokers have not been asked yet.
    Pending,
    /// These are not.
    Missing(Vec<String>),
    /// No broker answered in time.
    Unreachable {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said.
        error: String,
    },
    /// The brokers refuse the connection: wrong credentials or certificates.
    Refused {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said.
        error: String,
    },
    /// The operator may not connect to this broker.
    NotAllowed(NotAllowed),
    /// The connection needs a Secret that is not there.
    NoSecret(String),
}
