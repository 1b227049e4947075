//! The results, as a table and as JSON.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::bench::{Outcome, median};
use crate::machine::Machine;
use crate::memory::{GOAL_MB, MemoryOutcome, mb};
use crate::meter::Measure;
use crate::peer::Version;
use crate::workload::{KEYS, PARTITIONS, VALUE_SIZE};

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and with what.
    pub machine: Machine,
    /// Messages in the topic.
    pub messages: u64,
    /// Rounds of each pair.
    pub rounds: usize,
    /// Versions of others' programs.
    pub others: Vec<Version>,
    /// The pairs.
    pub pairs: Vec<Outcome>,
    /// Memory, by backlog.
    pub memory: Vec<MemoryOutcome>,
}

/// What the machine is and what is read, ahead of the table.
pub fn head(machine: &Machine, messages: u64, rounds: usize) -> String {
    let Machine {
        cores,
        cpu,
        kernel,
        load,
        kafka,
        librdkafka,
        rustc,
        commit,
    } = machine;
    format!(
        "{cores} cores of {cpu}, kernel {kernel}, load at the start {load}
Apache Kafka {kafka} (one node), librdkafka {librdkafka}, {rustc}, commit {commit}
{messages} messages of {VALUE_SIZE} bytes with {KEYS} keys in {PARTITIONS} partitions; \
medians of {rounds} rounds, each the reference and then ours
"
    )
}

/// The versions of others' programs, below the head.
pub fn others(versions: &[Version]) -> String {
    let versions = versions.iter();
    let versions: Vec<_> = versions
        .map(|Version { name, version }| format!("{name} {version}"))
        .collect();
    versions.join(", ")
}

/// The titles of the table.
pub fn titles() -> String {
    let titles = format!(
        "{:<25} {:>11} {:>11} {:>7} {:>6} {:<6}  {:>8} {:>8} {:>6}  {:>7} {:>7}  \
         {:>6} {:>6} {:>6} {:>6} {:<6}",
        "pair",
        "reference/s",
        "ours/s",
        "ratio",
        "goal",
        "",
        "ref µs",
        "our µs",
        "ratio",
        "ref sw",
        "our sw",
        "ref MB",
        "our MB",
        "ratio",
        "goal",
        "",
    );
    format!("{titles}\n{}", "-".repeat(titles.chars().count()))
}

/// One line of the table.
pub fn line(outcome: &Outcome) -> String {
    if let Some(reason) = &outcome.not_run {
        let mut lines = reason.lines().map(str::trim);
        let first = lines.next().unwrap_or_default();
        let last = lines.next_back().unwrap_or_default();
        return format!("{:<25} not run: {first} {last}", outcome.name);
    }
    let of = |runs: &[Measure], of: fn(&Measure) -> f64| median(runs.iter().map(of));
    let both = |value| [of(&outcome.reference, value), of(&outcome.ours, value)];
    let [reference, ours] = both(Measure::rate).map(|value| number(value, 0));
    let [reference_cpu, our_cpu] = both(Measure::cpu_micros).map(|value| number(value, 2));
    let [reference_mb, our_mb] = both(|run| mb(run.peak_rss_kib)).map(|value| number(value, 0));
    let [reference_switches, our_switches] =
        both(switches).map(|value| number(value.filter(|value| value.is_finite()), 3));
    let (met, memory_met) = (verdict(outcome.met), verdict(outcome.memory_met));
    let goal = |goal: Option<f64>| goal.map_or_else(String::new, |goal| goal.to_string());
    format!(
        "{:<25} {reference:>11} {ours:>11} {:>7} {:>6} {met:<6}  \
         {reference_cpu:>8} {our_cpu:>8} {:>6}  {reference_switches:>7} {our_switches:>7}  \
         {reference_mb:>6} {our_mb:>6} {:>6} {:>6} {memory_met:<6}",
        outcome.name,
        number(outcome.ratio, 2),
        goal(outcome.goal),
        number(outcome.cpu_ratio, 2),
        number(outcome.memory_ratio, 2),
        goal(outcome.memory_goal),
    )
    .trim_end()
    .to_owned()
}

fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    }
}

/// What the columns and the names of the pairs mean.
pub fn legend(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\nratio: ours by the reference's, median of the rounds. µs: CPU time of the process for a \
         message. sw: context switches for a message. MB: peak RSS.\n",
    );
    for outcome in outcomes {
        let Outcome {
            name,
            reference_is,
            ours_is,
            ..
        } = outcome;
        let _ = writeln!(text, "  {name:<25} {reference_is} | {ours_is}");
    }
    text
}

/// The memory of the runtime with one backlog.
pub fn memory_line(outcome: &MemoryOutcome) -> String {
    let samples: Vec<_> = outcome
        .samples
        .iter()
        .map(|sample| format!("{:.1}", mb(sample.now_kib)))
        .collect();
    let peak = outcome.samples.iter().map(|sample| sample.peak_kib).max();
    format!(
        "memory, slow handlers, backlog {:.0} MB: RSS {} MB every {} s, peak {:.1} MB, \
         goal {GOAL_MB} MB: {}",
        outcome.backlog_mb,
        samples.join(", "),
        outcome.interval,
        mb(peak.unwrap_or_default()),
        if outcome.met { "met" } else { "MISSED" },
    )
}

fn switches(run: &Measure) -> f64 {
    run.switches
        .map_or(f64::NAN, |switches| switches as f64 / run.messages as f64)
}

/// A figure of the table, or `-`.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// Writes a report to a file, if one is given.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<(), Box<dyn Error>> {
    if let Some(path) = path {
        fs::write(path, serde_json::to_string_pretty(report)? + "\n")
            .map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    }
    Ok(())
}
