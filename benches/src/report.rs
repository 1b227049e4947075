//! The results, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bench::{Outcome, median};
use crate::machine::Machine;
use crate::memory::{GOAL_MB, MemoryOutcome, mb};
use crate::meter::Measure;
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

/// The titles of the table.
pub fn titles() -> String {
    let titles = format!(
        "{:<16} {:>11} {:>11} {:>7} {:>6} {:<6}  {:>8} {:>8} {:>6}  {:>7} {:>7}  {:>6} {:>6}",
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
    );
    format!("{titles}\n{}", "-".repeat(titles.chars().count()))
}

/// One line of the table.
pub fn line(outcome: &Outcome) -> String {
    if let Some(reason) = &outcome.not_run {
        return format!("{:<16} not run: {reason}", outcome.name);
    }
    let of = |runs: &[Measure], of: fn(&Measure) -> f64| median(runs.iter().map(of));
    let both = |value| [of(&outcome.reference, value), of(&outcome.ours, value)];
    let [reference, ours] = both(Measure::rate).map(|value| number(value, 0));
    let [reference_cpu, our_cpu] = both(Measure::cpu_micros).map(|value| number(value, 2));
    let [reference_mb, our_mb] = both(|run| mb(run.peak_rss_kib)).map(|value| number(value, 0));
    let [reference_switches, our_switches] =
        both(switches).map(|value| number(value.filter(|value| value.is_finite()), 3));
    let verdict = match outcome.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    format!(
        "{:<16} {reference:>11} {ours:>11} {:>7} {:>6} {verdict:<6}  \
         {reference_cpu:>8} {our_cpu:>8} {:>6}  {reference_switches:>7} {our_switches:>7}  \
         {reference_mb:>6} {our_mb:>6}",
        outcome.name,
        number(outcome.ratio, 2),
        outcome
            .goal
            .map_or_else(String::new, |goal| goal.to_string()),
        number(outcome.cpu_ratio, 2),
    )
}

/// What the columns and the names of the pairs mean.
pub fn legend(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\nratio: median of the rounds. µs: CPU time of the process for a message. \
         sw: context switches for a message. MB: peak RSS.\n",
    );
    for outcome in outcomes {
        let Outcome {
            name,
            reference_is,
            ours_is,
            ..
        } = outcome;
        let _ = writeln!(text, "  {name:<16} {reference_is} | {ours_is}");
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

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}
