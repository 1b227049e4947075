//! Plays seeds and says what they break.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_runtime::simulation::{Scenario, run};
use penstock_simulator::campaign::{Campaign, Report, SHRINK_RUNS, silence_scripted_panics};
use penstock_simulator::rules::violations;

/// Plays seeded runs of the runtime on a simulated Kafka.
#[derive(Parser)]
struct Arguments {
    /// The number of seeds to play.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Ends after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads; as many as there are cores, unless it is set.
    #[arg(long)]
    jobs: Option<usize>,
    /// Leaves a scenario that breaks a rule as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Plays this seed alone, and prints all that happened.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => show(seed),
        None => play(&arguments),
    }
}

fn show(seed: u64) -> ExitCode {
    silence_scripted_panics();
    let scenario = Scenario::from_seed(seed);
    let played = run(&scenario, true);
    let found = violations(&scenario, &played);
    println!("{scenario:?}\n{}", played.log);
    for delivery in &played.deliveries {
        println!("{delivery:?}");
    }
    for message in &played.produced {
        println!("{message:?}");
    }
    for loss in &played.losses {
        println!("{loss:?}");
    }
    for violation in &found {
        println!("{violation}");
    }
    match found.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn play(arguments: &Arguments) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let campaign = Campaign {
        from: arguments.from,
        seeds: arguments.seeds,
        time: arguments
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        jobs: arguments.jobs.unwrap_or(cores),
        shrink_runs: match arguments.no_shrink {
            true => 0,
            false => SHRINK_RUNS,
        },
    };
    let report = campaign.play(|played| {
        if played.is_multiple_of(1_000) {
            eprintln!("{played} seeds played");
        }
    });
    print(&report);
    match report.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn print(report: &Report) {
    for failure in &report.failures {
        println!("{failure}");
    }
    let rate = report.played as f64 / report.took.as_secs_f64();
    println!(
        "{} seeds, {:.1} simulated hours, {rate:.0} seeds a second, {} failed",
        report.played,
        report.simulated.as_secs_f64() / 3600.0,
        report.failures.len()
    );
}
