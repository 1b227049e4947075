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
    /// A command other than to operate.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The settings of an operator, without a command.
    #[command(flatten)]
    pub settings: Option<Settings>,
}

/// A command other than to operate.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a page of an operator, and succeed if it answers 200
    Probe {
        /// URL of the page, such as http://penstock-operator:8080/readyz
        url: Uri,
    },
}

/// The settings of an operator.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// Image of the runtime, for the pods of consumers
    #[arg(long, env = "PENSTOCK_RUNTIME_IMAGE")]
    pub runtime_image: String,

    /// Pull policy of the runtime's image
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

    /// The only namespace whose consumers the operator reconciles; all namespaces if absent
    #[arg(long, env = "PENSTOCK_WATCH_NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub watch_namespace: Option<String>,

    /// The namespace that the operator runs in, with its Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,

    /// The name of the Lease; operators with the same name elect one leader
    #[arg(long, env = "PENSTOCK_LEASE_NAME", default_value = crate::NAME)]
    pub lease_name: String,

    /// The name of this operator among others; the host's name by default
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,

    /// Elect a leader with a Lease, so that one of several operators works
    #[arg(
        long,
        env = "PENSTOCK_LEADER_ELECTION",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub leader_election: bool,

    /// Time after which topics and lags are read again
    #[arg(long, env = "PENSTOCK_RECHECK_INTERVAL", default_value = "60s")]
    pub recheck_interval: HumanDuration,

    /// Brokers that the operator may connect to, as [NAMESPACE=]HOST:PORT with * for any and *. for
    /// all below. A pattern without NAMESPACE is for all namespaces without a pattern. Any broker
    /// if absent
    #[arg(long, env = "PENSTOCK_ALLOWED_BROKERS", value_delimiter = ',')]
    pub allowed_brokers: Vec<AllowedBrokers>,

    /// Networks that the operator never connects to, whatever a manifest contains: loopback,
    /// link-local, or networks such as 10.96.0.0/12, the cluster's Services
    #[arg(
        long,
        env = "PENSTOCK_DENIED_BROKER_NETWORKS",
        value_delimiter = ',',
        default_value = "loopback,link-local"
    )]
    pub denied_broker_networks: Vec<DeniedNetworks>,

    /// Address of /livez, /readyz and /metrics
    #[arg(long, env = "PENSTOCK_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// Log lines to write, in the syntax of RUST_LOG
    #[arg(long, env = "PENSTOCK_LOG", default_value = "info")]
    pub log: String,

    /// Format of log lines
    #[arg(long, env = "PENSTOCK_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}
