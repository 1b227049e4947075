//! The properties that librdkafka knows, and the configuration that follows from a
//! consumer.

pub mod config;
mod connection;
pub mod properties;
mod table;

pub use config::{ConsumerConfig, TRANSACTION_TIMEOUT, consumer_config};
pub use connection::{SecretError, SecretRef, Setting, oauth_token, oauth_token_path};
