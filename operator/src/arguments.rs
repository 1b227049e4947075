//! The operator's settings, as flags or environment variables.

use std::net::SocketAddr;

use clap::{ArgAction, Parser, Subcommand};
use http::Uri;
use penstock_crds::spec::HumanDuration;
use penstock_runtime::telemetry::LogFormat;

use crate::kafka::{AllowedBrokers, DeniedNetworks};

/// Keeps a Deployment running for each KafkaConsumer.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Arguments {
    /// Something else to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What to do otherwise.
    #[command(flatten)]
    pub settings: Option<Settings>,
}

/// Something other than operating.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a page of an operator, and succeed when it answers 200
    Probe {
        /// The page, such as http://penstock-operator:8080/readyz
        url: Uri,
    },
}

/// How to operate.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Image of the runtime, for the pods of consumers
    #[arg(long, env = "PENSTOCK_RUNTIME_IMAGE")]
    pub runtime_image: String,

    /// When nodes pull the runtime's image
    #[arg(
        long,
        env = "PENSTOCK_RUNTIME_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent",
        value_parser = ["Always", "IfNotPresent", "Never"]
    )]
    pub runtime_image_pull_policy: String,

    /// Secrets to pull the runtime's image with, in the consumers' namespaces
    #[arg(
        long,
        env = "PENSTOCK_RUNTIME_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub runtime_image_pull_secrets: Vec<String>,

    /// The only namespace to look after; all without it
    #[arg(long, env = "PENSTOCK_WATCH_NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub watch_namespace: Option<String>,

    /// The namespace that the operator runs in, where its Lease is
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,

    /// The name of the Lease, which operators that agree on one share
    #[arg(long, env = "PENSTOCK_LEASE_NAME", default_value = crate::NAME)]
    pub lease_name: String,

    /// The name of this operator among others; its host's by default
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,

    /// Whether several operators agree by a Lease on one that works
    #[arg(
        long,
        env = "PENSTOCK_LEADER_ELECTION",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub leader_election: bool,

    /// How often topics and lags are read again
    #[arg(long, env = "PENSTOCK_RECHECK_INTERVAL", default_value = "60s")]
    pub recheck_interval: HumanDuration,

    /// Brokers that the operator may connect to, as [NAMESPACE=]HOST:PORT with * for any
    /// and *. for all below; without NAMESPACE for all namespaces that have no pattern of
    /// their own. Any broker without it
    #[arg(long, env = "PENSTOCK_ALLOWED_BROKERS", value_delimiter = ',')]
    pub allowed_brokers: Vec<AllowedBrokers>,

    /// Networks that the operator never connects to, whatever a manifest says: loopback,
    /// link-local, or networks such as 10.96.0.0/12, the cluster's Services
    #[arg(
        long,
        env = "PENSTOCK_DENIED_BROKER_NETWORKS",
        value_delimiter = ',',
        default_value = "loopback,link-local"
    )]
    pub denied_broker_networks: Vec<DeniedNetworks>,

    /// Where to serve /livez, /readyz and /metrics
    #[arg(long, env = "PENSTOCK_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// Which log lines to write, in the syntax of RUST_LOG
    #[arg(long, env = "PENSTOCK_LOG", default_value = "info")]
    pub log: String,

    /// How to write log lines
    #[arg(long, env = "PENSTOCK_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}
