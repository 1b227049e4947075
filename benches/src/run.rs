//! Comparing the pairs: `penstock-bench run`.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use penstock_tests::kafka::{Kafka, KafkaError};

use crate::bench::Bench;
use crate::machine::Machine;
use crate::memory;
use crate::pairs::{self, Pair};
use crate::report::{self, Report};
use crate::workload::{Topic, Workload};

/// Messages in the topic: a poll loop takes seconds for them.
pub const MESSAGES: u64 = 2_000_000;

/// The same with `--quick`.
const FEW_MESSAGES: u64 = 500_000;

/// Rounds of each pair.
const ROUNDS: usize = 5;

/// Name by which the measurement of memory is chosen.
const MEMORY: &str = "memory";

/// Name by which all pairs are chosen whose reference is a program of others.
const PEERS: &str = "peers";

/// Messages of the smaller backlog: 137 MB of values.
const BACKLOG: u64 = 700_000;

/// What to compare.
#[derive(Debug, Args)]
pub struct Run {
    /// Pairs to compare, by name, `peers` for all beside programs of others, or `memory`;
    /// all unless named
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

/// Compares the pairs, prints the table and writes the JSON.
pub async fn run(options: Run) -> Result<(), Box<dyn Error>> {
    let (messages, rounds, interval) = match options.quick {
        true => (FEW_MESSAGES, 1, Duration::from_secs(2)),
        false => (MESSAGES, ROUNDS, Duration::from_secs(5)),
    };
    let messages = options.count.unwrap_or(messages);
    let rounds = options.rounds.unwrap_or(rounds).max(1);
    let pairs = choose(&options.names, &[MEMORY])?;
    let machine = Machine::look();
    println!("{}", report::head(&machine, messages, rounds));

    let kafka = start_kafka().await?;
    let bootstrap = kafka.bootstrap();
    let topic = Workload::of(messages).produce(bootstrap).await?;
    let mut report = Report {
        machine,
        messages,
        rounds,
        others: pairs::others(pairs.iter().flat_map(Pair::programs)),
        pairs: Vec::new(),
        memory: Vec::new(),
    };

    if !pairs.is_empty() {
        compare(&pairs, &topic, bootstrap, &mut report).await?;
    }
    if options.names.is_empty() || options.names.iter().any(|name| name == MEMORY) {
        let small = Workload::of(BACKLOG).produce(bootstrap).await?;
        for topic in [&small, &topic] {
            let outcome = memory::watch(bootstrap, topic, interval).await?;
            println!("{}", report::memory_line(&outcome));
            report.memory.push(outcome);
        }
    }
    report::write_json(options.json.as_deref(), &report)
}

async fn compare(
    pairs: &[Pair],
    topic: &Topic,
    bootstrap: &str,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let programs = pairs.iter().flat_map(Pair::programs);
    let bench = Bench::prepare(programs, bootstrap).await?;
    bench.warm_up(topic).await?;
    println!("{}\n\n{}", report::others(&report.others), report::titles());
    for (number, pair) in pairs.iter().enumerate() {
        eprintln!("{} of {}: {}", number + 1, pairs.len(), pair.name);
        let outcome = bench.compare(pair, topic, report.rounds).await?;
        println!("{}", report::line(&outcome));
        if let Some(reason) = &outcome.not_run {
            eprintln!("{} was not run: {reason}", outcome.name);
        }
        report.pairs.push(outcome);
    }
    println!("{}", report::legend(&report.pairs));
    Ok(())
}

/// The broker: with the compiler that the harness switches off for a fast start, and
/// memory.
pub async fn start_kafka() -> Result<Kafka, KafkaError> {
    Kafka::builder()
        .java_option("-XX:TieredStopAtLevel=4")
        .java_option("-Xmx1g")
        .start()
        .await
}

/// The pairs of these names; all when there are none. Names of `others` choose no pair.
pub fn choose(names: &[String], others: &[&str]) -> Result<Vec<Pair>, String> {
    let all = pairs::all();
    let known = all.iter().map(|pair| pair.name).chain([PEERS]);
    let known: Vec<_> = known.chain(others.iter().copied()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "there is no pair '{name}'; choose of {}",
            known.join(", ")
        ));
    }
    let is_chosen = |pair: &Pair| {
        let mut names = names.iter();
        names.any(|name| name == pair.name || (name == PEERS && pair.is_beside_others()))
    };
    let chosen = all.into_iter();
    Ok(chosen
        .filter(|pair| names.is_empty() || is_chosen(pair))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<&'static str>, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let pairs = choose(&names, &[MEMORY])?;
        Ok(pairs.iter().map(|pair| pair.name).collect())
    }

    #[test]
    fn pairs_are_chosen_by_name_or_as_peers() {
        assert_eq!(chosen(&["fast", "memory"]).unwrap(), ["fast"]);
        let peers = chosen(&["peers"]).unwrap();
        assert!(peers.contains(&"dapr-http") && peers.contains(&"source-fast"));
        assert!(!peers.contains(&"fast"));
        assert_eq!(chosen(&[]).unwrap().len(), pairs::all().len());
        assert!(chosen(&["fats"]).unwrap_err().contains("fast"));
    }
}
