//! A Kubernetes cluster to try things on, or to share among test binaries.
//!
//! ```text
//! penstock-test-cluster up [--keep]    bring it up; with --keep, leave it up
//! penstock-test-cluster down           take it down, and what an interrupted run left
//! penstock-test-cluster run COMMAND…   bring it up, run a command with it, take it down
//! ```
//!
//! `up` without `--keep` serves until it is interrupted. `run` ends as the command
//! does. A command finds the cluster by `KUBECONFIG`, kubectl and helm in `PATH`,
//! the directory in `PENSTOCK_TEST_CLUSTER` and Kafka in `PENSTOCK_TEST_CLUSTER_KAFKA`.
//!
//! A machine can have 16 clusters. `PENSTOCK_TEST_CLUSTER_NUMBER` says which is meant,
//! where it is not 0, the one that people and tests use.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use penstock_tests::kubernetes::{Cluster, RunningCluster, cluster_number, down};
use penstock_tests::serving;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: penstock-test-cluster up [--keep] | down | run COMMAND…";

/// What serves until something ends it.
enum Until {
    Interrupted,
    InputEnds,
    CommandEnds(Vec<OsString>),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("penstock-test-cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<OsString>) -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        ["up"] => serve(Until::Interrupted).await,
        ["up", "--until-input-ends"] => serve(Until::InputEnds).await,
        ["up", "--keep"] => {
            print_use(&Cluster::leave_up().await?);
            Ok(ExitCode::SUCCESS)
        }
        ["down"] => {
            down(cluster_number()?).await?;
            Ok(ExitCode::SUCCESS)
        }
        ["run", _, ..] => {
            let command = arguments.into_iter().skip(1).collect();
            serve(Until::CommandEnds(command)).await
        }
        _ => Err(USAGE.into()),
    }
}

/// Brings a cluster up, and takes it down when `until` says so or on a signal.
async fn serve(until: Until) -> Result<ExitCode, Box<dyn Error>> {
    let number = cluster_number()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    };
    tokio::pin!(interrupted);

    let running = tokio::select! {
        running = RunningCluster::start(number) => running?,
        () = &mut interrupted => {
            down(number).await?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let asked_to_serve = matches!(until, Until::Interrupted | Until::InputEnds);
    let outcome = tokio::select! {
        outcome = use_until(running.cluster(), until) => outcome,
        () = &mut interrupted => Ok(match asked_to_serve {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
    };
    running.stop().await?;
    outcome
}

async fn use_until(cluster: &Cluster, until: Until) -> Result<ExitCode, Box<dyn Error>> {
    match until {
        Until::CommandEnds(words) => run_command(cluster, &words).await,
        Until::InputEnds => {
            serving::input_ended().await;
            Ok(ExitCode::SUCCESS)
        }
        Until::Interrupted => {
            print_use(cluster);
            std::future::pending().await
        }
    }
}

async fn run_command(cluster: &Cluster, words: &[OsString]) -> Result<ExitCode, Box<dyn Error>> {
    let (program, arguments) = words.split_first().ok_or(USAGE)?;
    serving::run_command(program, arguments, cluster.environment()).await
}

/// Lines for a shell, and what else people want to know as comments.
fn print_use(cluster: &Cluster) {
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("export PATH={}:$PATH", cluster.binaries().dir().display());
    // Tests, and hack/it, then use this cluster.
    for (name, value) in cluster.environment() {
        if name.starts_with("PENSTOCK_") {
            println!("export {name}={}", value.display());
        }
    }
    println!("# Kafka for pods and for you: {}", cluster.kafka());
    println!("# images: {}", cluster.images().join(" "));
}
