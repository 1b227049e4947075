//! Penstock beside its references, on a real Kafka: `penstock-bench run`.
//!
//! Rates depend on the machine and on what else it does; so each of ours is run in
//! turns with a reference, and the ratio is what counts.

#![forbid(unsafe_code)]

mod bench;
mod consumer;
mod count;
mod machine;
mod memory;
mod meter;
mod operator;
mod pairs;
mod peer;
mod plot;
mod report;
mod run;
mod server;
mod side;
mod source;
mod sweep;
mod tool;
mod workload;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use penstock_crds::spec::HumanDuration;

use crate::count::Count;
use crate::peer::Sender;
use crate::peer::receiver::{self, Receive};
use crate::plot::Plot;
use crate::report::write_json;
use crate::run::Run;
use crate::side::{Side, Work};
use crate::sweep::Sweep;
use crate::tool::Counted;
use crate::workload::Workload;

/// Penstock beside its references
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Compare all pairs, or those named, on a Kafka of its own
    Run(Run),
    /// Measure how ours and the references grow, on a Kafka of its own
    Sweep(Sweep),
    /// Count the system calls for a message, of all pairs or those named
    Syscalls(Count),
    /// Count the allocations for a message, of all pairs without programs of others or those
    /// named
    Allocations(Count),
    /// Draw what `run --json` or `sweep --json` wrote
    Plot(Plot),
    /// Measure the operator with very many consumers, on an API server of its own
    Operator(OperatorRun),
    /// Run one side and print what it needed as JSON: for a profiler
    Side {
        /// Which
        side: Side,
        #[command(flatten)]
        work: Work,
    },
    /// Run a peer that sends over HTTP, receive that, and print what it needed as JSON
    Peer {
        /// Which
        sender: Sender,
        #[command(flatten)]
        receive: Receive,
    },
    /// Produce the messages to a new topic, print its name
    Produce {
        /// Broker, host:port
        #[arg(long)]
        bootstrap: String,
        /// Messages
        #[arg(long, default_value_t = run::MESSAGES)]
        count: u64,
    },
    /// Serve HTTP as the handler that both sides send to
    Serve {
        /// Unix socket to listen on beside a port
        #[arg(long)]
        socket: PathBuf,
    },
}

#[derive(Debug, Args)]
struct OperatorRun {
    /// KafkaConsumers
    #[arg(long)]
    consumers: Option<usize>,
    /// How long to look at it with nothing to do
    #[arg(long)]
    idle: Option<HumanDuration>,
    /// A tenth of the consumers and 30 s without anything to do
    #[arg(long)]
    quick: bool,
    /// Where to write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// KafkaConsumers.
const CONSUMERS: usize = 10_000;

/// How long the operator is looked at with nothing to do.
const IDLE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(options) => run::run(options).await,
        Command::Sweep(options) => sweep::run(options).await,
        Command::Syscalls(options) => count::run(Counted::SystemCalls, options).await,
        Command::Allocations(options) => count::run(Counted::Allocations, options).await,
        Command::Plot(options) => plot::run(&options),
        Command::Operator(options) => run_operator(options).await,
        Command::Side { side, work } => run_side(side, work).await,
        Command::Peer { sender, receive } => run_peer(sender, &receive).await,
        Command::Produce { bootstrap, count } => produce(&bootstrap, count).await,
        Command::Serve { socket } => server::serve(&socket).await.map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run_side(side: Side, work: Work) -> Result<(), Box<dyn Error>> {
    let measure = side::run(side, work).await?;
    println!("{}", serde_json::to_string(&measure)?);
    Ok(())
}

async fn run_peer(sender: Sender, receive: &Receive) -> Result<(), Box<dyn Error>> {
    let measure = receiver::run(sender, receive).await?;
    println!("{}", serde_json::to_string(&measure)?);
    Ok(())
}

async fn produce(bootstrap: &str, count: u64) -> Result<(), Box<dyn Error>> {
    println!("{}", Workload::of(count).produce(bootstrap).await?.name);
    Ok(())
}

async fn run_operator(options: OperatorRun) -> Result<(), Box<dyn Error>> {
    let (consumers, idle) = match options.quick {
        true => (CONSUMERS / 10, Duration::from_secs(30)),
        false => (CONSUMERS, IDLE),
    };
    let consumers = options.consumers.unwrap_or(consumers);
    let idle = options.idle.map_or(idle, |idle| idle.get());
    let report = operator::measure(consumers, idle).await?;
    println!("{}", report.text());
    write_json(options.json.as_deref(), &report)
}
