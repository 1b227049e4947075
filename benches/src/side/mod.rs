//! The sides that are compared. Each run has a process of its own, so that CPU
//! time and memory are its own too.

mod consume;
pub mod grpc;
mod http;
mod limits;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use penstock_crds::manifest::ManifestErrors;
use penstock_runtime::RunError;
use penstock_runtime::handler::http::HttpHandlerError;
use rdkafka::error::KafkaError;
use thiserror::Error;

use crate::meter::{Measure, Meter};
use crate::workload;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Reference: poll, and decode the JSON to a struct.
    LoopJson,
    /// Reference: poll, and nothing else.
    LoopRaw,
    /// Reference: poll, decode the JSON, commit and wait for it.
    LoopCommit,
    /// Reference: requests over kept-alive connections, without Kafka.
    HttpPair,
    /// Penstock: Fast, Embedded, Json.
    FastJson,
    /// Penstock: Fast, Embedded, Raw.
    FastRaw,
    /// Penstock: Fast, Embedded, Json, commit Handled.
    FastHandled,
    /// Penstock: InOrder, Embedded, Json.
    InOrder,
    /// Penstock: KeyOrdered, Embedded, Json.
    KeyOrdered,
    /// Penstock: Fast, Grpc, Json.
    FastGrpc,
    /// Penstock: Fast, Grpc, Raw.
    FastGrpcRaw,
    /// Penstock: KeyOrdered, Grpc, Json.
    KeyOrderedGrpc,
    /// Penstock: KeyOrdered, Grpc, Raw.
    KeyOrderedGrpcRaw,
    /// Penstock: Fast, Http.
    FastHttp,
    /// Penstock: Fast, Embedded, commit Handled, each message takes its time.
    Slow,
}

impl Side {
    /// The name by which a process is told to run it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What a side works on.
#[derive(Clone, Debug, Args)]
pub struct Work {
    /// Broker, host:port
    #[arg(long)]
    pub bootstrap: String,
    /// Topic with the messages
    #[arg(long)]
    pub topic: String,
    /// Messages to be handled
    #[arg(long)]
    pub count: u64,
    /// Handlers side by side, or requests in flight
    #[arg(long, default_value_t = 16)]
    pub handlers: u32,
    /// Port of the HTTP server
    #[arg(long)]
    pub port: Option<u16>,
    /// Unix socket of the HTTP server
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// Bytes of a value, for the side that sends without Kafka
    #[arg(long, default_value_t = workload::VALUE_SIZE)]
    pub value_size: usize,
    /// A librdkafka property of the consumer's, as NAME=VALUE; may come several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub properties: Vec<String>,
    /// Milliseconds that a message takes in the side `slow`
    #[arg(long, default_value_t = 10)]
    pub delay: u64,
}

/// Why a side gave no result.
#[derive(Debug, Error)]
pub enum Failed {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The runtime ended by itself.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The handler's address.
    #[error(transparent)]
    Handler(#[from] HttpHandlerError),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failed {
    /// An error without a kind of its own.
    pub fn other(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

/// Runs a side to its end.
pub async fn run(side: Side, work: Work) -> Result<Measure, Failed> {
    let meter = std::sync::Arc::new(Meter::new(work.count));
    match side {
        Side::LoopJson => limits::poll_json(&work, &meter)?,
        Side::LoopRaw => limits::poll_raw(&work, &meter)?,
        Side::LoopCommit => limits::commit_each(&work, &meter)?,
        Side::HttpPair => http::pair(&work, &meter).await?,
        Side::FastJson => consume::fast_json(&work, "Read", &meter).await?,
        Side::FastHandled => consume::fast_json(&work, "Handled", &meter).await?,
        Side::FastRaw => consume::fast_raw(&work, &meter).await?,
        Side::InOrder => consume::in_order(&work, &meter).await?,
        Side::KeyOrdered => consume::key_ordered(&work, &meter).await?,
        Side::FastGrpc => grpc::fast_json(&work, &meter).await?,
        Side::FastGrpcRaw => grpc::fast_raw(&work, &meter).await?,
        Side::KeyOrderedGrpc => grpc::key_ordered_json(&work, &meter).await?,
        Side::KeyOrderedGrpcRaw => grpc::key_ordered_raw(&work, &meter).await?,
        Side::FastHttp => consume::fast_http(&work, &meter).await?,
        Side::Slow => consume::slow(&work, &meter).await?,
    }
    meter
        .measure()
        .ok_or_else(|| Failed::other("it ended before its last message"))
}
