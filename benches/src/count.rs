//! What a message asks of the system: `penstock-bench syscalls` and
//! `penstock-bench allocations`.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::bench::{Bench, BenchError};
use crate::machine::Machine;
use crate::pairs::{Pair, Runner};
use crate::report::{number, write_json};
use crate::run::{choose, start_kafka};
use crate::tool::{Counted, Tool};
use crate::workload::{Topic, Workload};

/// Messages in the topic.
const MESSAGES: u64 = 500_000;

/// Where to count.
#[derive(Debug, Args)]
pub struct Count {
    /// Pairs, by name, or `peers` for all beside programs of others; all unless named
    names: Vec<String>,
    /// Messages in the topic
    #[arg(long, default_value_t = MESSAGES)]
    count: u64,
    /// Where to write the counts as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// All that was counted.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    counted: Counted,
    tool: Tool,
    pairs: Vec<Counts>,
}

/// How many for a message, of both sides of a pair.
#[derive(Debug, Serialize)]
struct Counts {
    name: &'static str,
    reference_is: &'static str,
    ours_is: &'static str,
    reference: Option<f64>,
    ours: Option<f64>,
    not_run: Option<String>,
}

/// Counts, prints the table and writes the JSON.
pub async fn run(counted: Counted, options: Count) -> Result<(), Box<dyn Error>> {
    let mut pairs = choose(&options.names, &[])?;
    if counted == Counted::Allocations {
        // Java, Python and Go have allocators of their own.
        pairs.retain(|pair| !pair.is_beside_others());
        if pairs.is_empty() {
            return Err("allocations are counted of Penstock and its own references only".into());
        }
    }
    let tool = counted.tool()?;
    let mut report = Report {
        machine: Machine::look(),
        counted,
        tool,
        pairs: Vec::new(),
    };
    println!(
        "{} for a message, counted by {}, commit {}",
        counted.name(),
        tool.name(),
        report.machine.commit
    );
    let kafka = start_kafka().await?;
    let topic = Workload::of(options.count)
        .produce(kafka.bootstrap())
        .await?;
    let programs = pairs.iter().flat_map(Pair::programs);
    let bench = Bench::prepare(programs, kafka.bootstrap()).await?;
    bench.warm_up(&topic).await?;

    println!("{:<25} {:>10} {:>10}", "pair", "reference", "ours");
    let mut known = Known {
        bench: &bench,
        topic: &topic,
        tool,
        counts: Vec::new(),
    };
    for pair in &pairs {
        let counts = count(pair, &mut known).await?;
        println!("{}", line(&counts));
        report.pairs.push(counts);
    }
    write_json(options.json.as_deref(), &report)
}

async fn count(pair: &Pair, known: &mut Known<'_>) -> Result<Counts, BenchError> {
    let mut counts = Counts {
        name: pair.name,
        reference_is: pair.reference_is,
        ours_is: pair.ours_is,
        reference: None,
        ours: None,
        not_run: None,
    };
    match known.count(&pair.reference).await {
        Err(error) if pair.is_beside_others() => counts.not_run = Some(error.to_string()),
        reference => counts.reference = Some(reference?),
    }
    counts.ours = Some(known.count(&pair.ours).await?);
    Ok(counts)
}

fn line(counts: &Counts) -> String {
    let name = counts.name;
    let [reference, ours] = [counts.reference, counts.ours].map(|count| number(count, 3));
    let line = format!("{name:<25} {reference:>10} {ours:>10}");
    match &counts.not_run {
        Some(reason) => format!("{line}  not run: {reason}"),
        None => line,
    }
}

/// What was counted so far: several pairs share a side.
struct Known<'a> {
    bench: &'a Bench,
    topic: &'a Topic,
    tool: Tool,
    counts: Vec<(Runner, f64)>,
}

impl Known<'_> {
    async fn count(&mut self, runner: &Runner) -> Result<f64, BenchError> {
        let known = self.counts.iter().find(|(known, _)| known == runner);
        if let Some((_, count)) = known {
            return Ok(*count);
        }
        let count = self.for_a_message(runner).await?;
        self.counts.push((*runner, count));
        Ok(count)
    }

    /// A long run less a short one, so that neither start nor end counts.
    async fn for_a_message(&self, runner: &Runner) -> Result<f64, BenchError> {
        let many = runner.count.of(self.topic.count);
        let few = many / 4;
        let mut counts = [0.0; 2];
        for (counted, count) in counts.iter_mut().zip([few, many]) {
            let asks = self.bench.asks(runner, self.topic, count, self.tool);
            *counted = asks.await? as f64;
        }
        let [of_few, of_many] = counts;
        Ok((of_many - of_few) / (many - few) as f64)
    }
}
