//! How ours and the references grow: `penstock-bench sweep`.

mod axis;

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::bench::{Bench, BenchError, median};
use crate::machine::Machine;
use crate::memory::mb;
use crate::meter::Measure;
use crate::pairs::{self, RunnerProgram};
use crate::peer::Version;
use crate::report::{self, number, write_json};
use crate::run::start_kafka;
use crate::workload::Topic;
use axis::{Axis, Series};

/// Messages in a topic, where that does not grow itself.
const MESSAGES: u64 = 500_000;

/// Rounds of each point.
const ROUNDS: usize = 3;

/// What to let grow.
#[derive(Debug, Args)]
pub struct Sweep {
    /// What grows; all unless named
    axes: Vec<Axis>,
    /// Messages in a topic, and the most of a growing backlog in sixths
    #[arg(long, default_value_t = MESSAGES)]
    count: u64,
    /// Rounds of each point
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Leave out the programs of others
    #[arg(long)]
    ours: bool,
    /// Where to write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    rounds: usize,
    others: Vec<Version>,
    axes: Vec<Grown>,
}

/// What was seen along one axis.
#[derive(Debug, Serialize)]
struct Grown {
    name: &'static str,
    /// What the numbers along it are.
    unit: &'static str,
    series: Vec<Line>,
}

/// One program along an axis.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    points: Vec<Point>,
    /// Why the points after the last were not run.
    not_run: Option<String>,
}

/// One program at one place of an axis.
#[derive(Debug, Serialize)]
struct Point {
    at: u64,
    runs: Vec<Measure>,
}

/// Measures, prints the tables and writes the JSON.
pub async fn run(options: Sweep) -> Result<(), Box<dyn Error>> {
    let axes = match options.axes.as_slice() {
        [] => Axis::ALL.to_vec(),
        axes => axes.to_vec(),
    };
    let rounds = options.rounds.max(1);
    let is_wanted = |series: &Series| !(options.ours && series.program.is_of_others());
    let series = |axis: Axis| axis.series().into_iter().filter(is_wanted);
    let programs: Vec<RunnerProgram> = axes
        .iter()
        .flat_map(|axis| series(*axis))
        .map(|series| series.program)
        .collect();
    let mut report = Report {
        machine: Machine::look(),
        rounds,
        others: pairs::others(programs.iter().copied()),
        axes: Vec::new(),
    };
    println!("{}", report::head(&report.machine, options.count, rounds));
    println!("{}", report::others(&report.others));
    let kafka = start_kafka().await?;
    let bench = Bench::prepare(programs, kafka.bootstrap()).await?;
    for axis in axes {
        let mut grown = Grown::of(axis, series(axis));
        for at in axis.places(options.count) {
            eprintln!("{} {at}", axis.unit());
            let workload = axis.workload(at, options.count);
            let topic = workload.produce(kafka.bootstrap()).await?;
            bench.warm_up(&topic).await?;
            grown
                .measure(&bench, series(axis), &topic, at, rounds)
                .await?;
        }
        println!("\n{}", grown.table());
        report.axes.push(grown);
        // Each axis takes a quarter of an hour: what is there is kept.
        write_json(options.json.as_deref(), &report)?;
    }
    Ok(())
}

impl Grown {
    fn of(axis: Axis, series: impl Iterator<Item = Series>) -> Self {
        let lines = series.map(|series| Line {
            name: series.name,
            points: Vec::new(),
            not_run: None,
        });
        Self {
            name: axis.name(),
            unit: axis.unit(),
            series: lines.collect(),
        }
    }

    /// Runs each program at one place, in turns.
    async fn measure(
        &mut self,
        bench: &Bench,
        series: impl Iterator<Item = Series>,
        topic: &Topic,
        at: u64,
        rounds: usize,
    ) -> Result<(), BenchError> {
        let series: Vec<Series> = series.collect();
        for line in &mut self.series {
            let runs = Vec::new();
            line.points.push(Point { at, runs });
        }
        for _ in 0..rounds {
            for (line, series) in self.series.iter_mut().zip(&series) {
                line.run_at_last(bench, series, topic, at).await?;
            }
        }
        Ok(())
    }

    /// Rate, CPU time and memory of each program at each place.
    fn table(&self) -> String {
        let mut text = format!(
            "{:<24} {:>10} {:>11} {:>8} {:>6}",
            self.name, self.unit, "messages/s", "µs", "MB"
        );
        for line in &self.series {
            for Point { at, runs } in &line.points {
                let of = |of: fn(&Measure) -> f64| median(runs.iter().map(of));
                text += &format!(
                    "\n{:<24} {at:>10} {:>11} {:>8} {:>6}",
                    line.name,
                    number(of(Measure::rate), 0),
                    number(of(Measure::cpu_micros), 2),
                    number(of(|run| mb(run.peak_rss_kib)), 0),
                );
            }
            if let Some(reason) = &line.not_run {
                text += &format!("\n{:<24} not run: {reason}", line.name);
            }
        }
        text
    }
}

impl Line {
    /// One run at the last place. What a program of others fails with ends its line.
    async fn run_at_last(
        &mut self,
        bench: &Bench,
        series: &Series,
        topic: &Topic,
        at: u64,
    ) -> Result<(), BenchError> {
        if self.not_run.is_some() {
            return Ok(());
        }
        match bench.run(&series.runner(at), topic).await {
            Err(error) if series.program.is_of_others() => {
                eprintln!("{} ends at {at}: {error}", self.name);
                self.not_run = Some(error.to_string());
            }
            run => {
                if let Some(point) = self.points.last_mut() {
                    point.runs.push(run?);
                }
            }
        }
        Ok(())
    }
}
