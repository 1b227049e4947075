//! The command line's arguments.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum, ValueHint};
use clap_complete::Shell;
use penstock_crds::spec::HumanDuration;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const METRICS_ADDRESS: SocketAddr = SocketAddr::new(LOOPBACK, 6060);
const HEALTH_ADDRESS: SocketAddr = SocketAddr::new(LOOPBACK, 9090);

const EXAMPLES: &str = "\
Examples:
  Try a handler, with a Kafka broker inside this process:
    penstock dev -f consumer.yaml --produce orders.jsonl -- python3 handler.py

  The same on real Kafka:
    penstock dev -f consumer.yaml --brokers kafka:9092 -- python3 handler.py

  Check manifests before they are applied:
    penstock check deploy/*.yaml

  Install the resource type in a cluster:
    penstock crd | kubectl apply --server-side -f -";

const DEV_EXAMPLES: &str = "\
Examples:
  Handle each line of a file as a message, then end:
    penstock dev -f consumer.yaml --produce orders.jsonl --exit-when-done -- python3 handler.py

  Handle what is typed, a key and a value with a colon between, on a line:
    penstock dev -f consumer.yaml --produce - --key-separator : -- node handler.js

  Consume real Kafka:
    penstock dev -f consumer.yaml --brokers kafka:9092 -- ./handler

  With a handler that runs already, perhaps in a debugger:
    penstock dev -f consumer.yaml

The handler gets PORT, or PENSTOCK_HANDLER_SOCKET where the manifest names a socket, and must
listen there. Ctrl-C stops reading, waits for the messages in flight, and ends the handler.";

const CHECK_EXAMPLES: &str = "\
Examples:
  penstock check consumer.yaml
  helm template . | penstock check -
  penstock check --output json deploy/*.yaml

Exit codes: 0 all valid, 1 something invalid or no KafkaConsumer at all, 2 a file can't be read or
the arguments are wrong.";

/// Runs a Kafka consumer on this machine from its KafkaConsumer manifest, and checks manifests.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Run a consumer here: the manifest, a Kafka broker and the handler with one command
    #[command(after_help = DEV_EXAMPLES)]
    Dev(Box<DevArguments>),
    /// Check manifests without a cluster, as the operator checks them
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// Print the CustomResourceDefinition as YAML
    Crd,
    /// Print a script that completes commands and options in a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub struct DevArguments {
    /// File with one KafkaConsumer manifest; `-` is standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Kafka brokers to use, instead of one inside this process; the manifest's bootstrapServers is
    /// never used
    #[arg(long, value_name = "HOST:PORT,…")]
    pub brokers: Option<String>,

    /// Partitions of each topic on the broker inside this process
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000), conflicts_with = "brokers")]
    pub partitions: u16,

    /// Produce each line of a file as a message; `-` is standard input. Empty lines are ignored
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub produce: Option<PathBuf>,

    /// Topic to produce to [default: the manifest's first]
    #[arg(long, value_name = "TOPIC", requires = "produce")]
    pub produce_topic: Option<String>,

    /// Separator between a line's key and its value; `\t` is a tab [default: lines have no key]
    #[arg(long, value_name = "TEXT", requires = "produce", value_parser = separator)]
    pub key_separator: Option<String>,

    /// End when all produced messages are handled
    #[arg(long, requires = "produce")]
    pub exit_when_done: bool,

    /// Directory with the Secrets that the manifest names, as SECRET/ENTRY
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub secrets: Option<PathBuf>,

    /// Port for the handler, instead of the manifest's; 0 takes any free port
    #[arg(long, value_name = "PORT")]
    pub handler_port: Option<u16>,

    /// Time in which the handler must accept connections
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub start_timeout: HumanDuration,

    /// Address of the metrics page; port 0 takes any free port
    #[arg(long, value_name = "HOST:PORT", default_value_t = METRICS_ADDRESS)]
    pub metrics_address: SocketAddr,

    /// Address of the health pages; port 0 takes any free port
    #[arg(long, value_name = "HOST:PORT", default_value_t = HEALTH_ADDRESS)]
    pub health_address: SocketAddr,

    /// Log lines to show, in the syntax of RUST_LOG, such as `info` or `debug`
    /// [default: warnings and errors]
    #[arg(long, value_name = "FILTER", env = "PENSTOCK_LOG")]
    pub log: Option<String>,

    /// The handler's program and its arguments. With protocol Embedded, the consumer's program
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

impl DevArguments {
    /// Returns the time in which the handler must accept connections.
    pub fn start_limit(&self) -> Duration {
        self.start_timeout.get()
    }
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Files to check; `-` is standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,

    /// Format of the findings
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How `check` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object, as docs/local-mode.md describes it
    Json,
}

/// Reads the arguments. Ends the process if they are wrong or ask for help.
pub fn parse() -> Arguments {
    let matches = command().get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The command, by the name that it was called by: kubectl runs a program called
/// `kubectl-penstock` as its own subcommand.
pub fn command() -> clap::Command {
    let command = Arguments::command();
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    match called.to_string_lossy().strip_prefix("kubectl-") {
        Some(plugin) => command.bin_name(format!("kubectl {plugin}")),
        None => command,
    }
}

fn separator(text: &str) -> Result<String, String> {
    match text.replace("\\t", "\t") {
        text if text.is_empty() => Err("must not be empty".to_owned()),
        text => Ok(text),
    }
}
