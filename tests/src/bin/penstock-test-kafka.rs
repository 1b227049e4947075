//! A broker to try things on, or to share among test binaries.
//!
//! Alone, it prints `bootstrap=HOST:PORT` and serves until it is interrupted or its
//! standard input ends. With a command behind it, it runs that with the address in
//! `PENSTOCK_TEST_BOOTSTRAP` and ends as the command does:
//!
//! ```text
//! penstock-test-kafka cargo test --workspace
//! ```

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use penstock_tests::kafka::{BOOTSTRAP_VARIABLE, Kafka};
use penstock_tests::serving;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("penstock-test-kafka: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<OsString>) -> Result<ExitCode, Box<dyn Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::select! {
        outcome = serve(&arguments) => outcome,
        () = interrupted => Ok(match arguments.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
    }
}

async fn serve(arguments: &[OsString]) -> Result<ExitCode, Box<dyn Error>> {
    let kafka = Kafka::start().await?;
    let Some((program, arguments)) = arguments.split_first() else {
        println!("bootstrap={}", kafka.bootstrap());
        serving::input_ended().await;
        return Ok(ExitCode::SUCCESS);
    };
    let bootstrap = [(BOOTSTRAP_VARIABLE, kafka.bootstrap().into())];
    serving::run_command(program, arguments, bootstrap).await
}
