//! System calls for a message: `penstock-bench syscalls`.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::bench::{Bench, BenchError, Topic};
use crate::calls::Tool;
use crate::machine::Machine;
use crate::pairs::{Pair, Runner};
use crate::report::{number, write_json};
use crate::run::{choose, start_kafka};
use crate::workload::Workload;

/// Messages in the topic.
const MESSAGES: u64 = 500_000;

/// What to count.
#[derive(Debug, Args)]
pub struct Syscalls {
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
    tool: Tool,
    pairs: Vec<Counted>,
}

/// System calls for a message, of both sides of a pair.
#[derive(Debug, Serialize)]
struct Counted {
    name: &'static str,
    reference_is: &'static str,
    ours_is: &'static str,
    reference: Option<f64>,
    ours: Option<f64>,
    not_run: Option<String>,
}

/// Counts, prints the table and writes the JSON.
pub async fn run(options: Syscalls) -> Result<(), Box<dyn Error>> {
    let pairs = choose(&options.names, &[])?;
    let tool = Tool::find()?;
    let mut report = Report {
        machine: Machine::look(),
        tool,
        pairs: Vec::new(),
    };
    println!(
        "system calls for a message, counted by {}, commit {}",
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
        let counted = count(pair, &mut known).await?;
        println!("{}", line(&counted));
        report.pairs.push(counted);
    }
    write_json(options.json.as_deref(), &report)
}

async fn count(pair: &Pair, known: &mut Known<'_>) -> Result<Counted, BenchError> {
    let mut counted = Counted {
        name: pair.name,
        reference_is: pair.reference_is,
        ours_is: pair.ours_is,
        reference: None,
        ours: None,
        not_run: None,
    };
    match known.count(&pair.reference).await {
        Err(error) if pair.is_beside_others() => counted.not_run = Some(error.to_string()),
        reference => counted.reference = Some(reference?),
    }
    counted.ours = Some(known.count(&pair.ours).await?);
    Ok(counted)
}

fn line(counted: &Counted) -> String {
    let name = counted.name;
    let [reference, ours] = [counted.reference, counted.ours].map(|calls| number(calls, 3));
    let line = format!("{name:<25} {reference:>10} {ours:>10}");
    match &counted.not_run {
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
        if let Some((_, calls)) = known {
            return Ok(*calls);
        }
        let calls = self.for_a_message(runner).await?;
        self.counts.push((*runner, calls));
        Ok(calls)
    }

    /// A long run less a short one, so that neither start nor end counts.
    async fn for_a_message(&self, runner: &Runner) -> Result<f64, BenchError> {
        let many = runner.count.of(self.topic.count);
        let few = many / 4;
        let mut calls = [0.0; 2];
        for (calls, count) in calls.iter_mut().zip([few, many]) {
            let counted = self.bench.calls(runner, self.topic, count, self.tool);
            *calls = counted.await? as f64;
        }
        let [of_few, of_many] = calls;
        Ok((of_many - of_few) / (many - few) as f64)
    }
}
