//! Penstock beside its references, on a real Kafka: `penstock-bench run`.
//!
//! Rates depend on the machine and on what else it does; so each of ours is run in
//! turns with a reference, and the ratio is what counts.

#![forbid(unsafe_code)]

mod bench;
mod consumer;
mod machine;
mod memory;
mod meter;
mod operator;
mod pairs;
mod report;
mod server;
mod side;
mod source;
mod workload;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use penstock_crds::spec::HumanDuration;
use penstock_tests::kafka::Kafka;
use serde::Serialize;

use crate::bench::Bench;
use crate::machine::Machine;
use crate::report::Report;
use crate::side::{Side, Work};

/// Penstock beside its references
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Compare all pairs, or those named, on a Kafka of its own
    Run(Run),
    /// Measure the operator with very many consumers, on an API server of its own
    Operator(OperatorRun),
    /// Run one side and print what it needed as JSON: for a profiler
    Side {
        /// Which
        side: Side,
        #[command(flatten)]
        work: Work,
    },
    /// Produce the messages to a new topic, print its name
    Produce {
        /// Broker, host:port
        #[arg(long)]
        bootstrap: String,
        /// Messages
        #[arg(long, default_value_t = MESSAGES)]
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
struct Run {
    /// Pairs to compare, by name, or `memory`; all unless named
    names: Vec<String>,
    /// Messages in the topic
    #[arg(long)]
    count: Option<u64>,
    /// Rounds of each pair
    #[arg(long)]
    rounds: Option<usize>,
    /// One round of a quarter of the messages
    #[arg(long)]
    quick: bool,
    /// Where to write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
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

/// Messages in the topic: a poll loop takes seconds for them.
const MESSAGES: u64 = 2_000_000;

/// The same with `--quick`.
const FEW_MESSAGES: u64 = 500_000;

/// Rounds of each pair.
const ROUNDS: usize = 5;

/// Name by which the measurement of memory is chosen.
const MEMORY: &str = "memory";

/// Messages of the smaller backlog: 137 MB of values.
const BACKLOG: u64 = 700_000;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(options) => run(options).await,
        Command::Operator(options) => run_operator(options).await,
        Command::Side { side, work } => run_side(side, work).await,
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

async fn produce(bootstrap: &str, count: u64) -> Result<(), Box<dyn Error>> {
    println!("{}", workload::produce(bootstrap, count).await?);
    Ok(())
}

async fn run(options: Run) -> Result<(), Box<dyn Error>> {
    let (messages, rounds, interval) = match options.quick {
        true => (FEW_MESSAGES, 1, Duration::from_secs(2)),
        false => (MESSAGES, ROUNDS, Duration::from_secs(5)),
    };
    let messages = options.count.unwrap_or(messages);
    let rounds = options.rounds.unwrap_or(rounds).max(1);
    let pairs = choose(&options.names)?;
    let machine = Machine::look();
    println!("{}", report::head(&machine, messages, rounds));

    // The compiler that the harness switches off for a fast start, and memory.
    let kafka = Kafka::builder()
        .java_option("-XX:TieredStopAtLevel=4")
        .java_option("-Xmx1g")
        .start()
        .await?;
    let bootstrap = kafka.bootstrap();
    let topic = workload::produce(bootstrap, messages).await?;
    let mut report = Report {
        machine,
        messages,
        rounds,
        pairs: Vec::new(),
        memory: Vec::new(),
    };

    if !pairs.is_empty() {
        let bench = Bench::prepare(&pairs, bootstrap, &topic, messages, rounds).await?;
        bench.warm_up().await?;
        println!("{}", report::titles());
        for pair in &pairs {
            let outcome = bench.compare(pair).await?;
            println!("{}", report::line(&outcome));
            report.pairs.push(outcome);
        }
        println!("{}", report::legend(&report.pairs));
    }
    if options.names.is_empty() || options.names.iter().any(|name| name == MEMORY) {
        let small = workload::produce(bootstrap, BACKLOG).await?;
        for (topic, count) in [(&small, BACKLOG), (&topic, messages)] {
            let outcome = memory::watch(bootstrap, topic, count, interval).await?;
            println!("{}", report::memory_line(&outcome));
            report.memory.push(outcome);
        }
    }
    write_json(options.json, &report)
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
    write_json(options.json, &report)
}

fn write_json(path: Option<PathBuf>, report: &impl Serialize) -> Result<(), Box<dyn Error>> {
    if let Some(path) = path {
        fs::write(&path, serde_json::to_string_pretty(report)? + "\n")
            .map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    }
    Ok(())
}

/// The pairs of these names; all when there are none.
fn choose(names: &[String]) -> Result<Vec<pairs::Pair>, String> {
    let all = pairs::all();
    let known: Vec<_> = all.iter().map(|pair| pair.name).chain([MEMORY]).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "there is no pair '{name}'; choose of {}",
            known.join(", ")
        ));
    }
    Ok(all
        .into_iter()
        .filter(|pair| names.is_empty() || names.iter().any(|name| name == pair.name))
        .collect())
}
