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
use std::io;
use std::process::ExitCode;
use std::thread;

use penstock_tests::kafka::{BOOTSTRAP_VARIABLE, Kafka};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

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
        input_ended().await;
        return Ok(ExitCode::SUCCESS);
    };
    let status = Command::new(program)
        .args(arguments)
        .env(BOOTSTRAP_VARIABLE, kafka.bootstrap())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Reads in a thread of its own, which does not hold up the end of main.
async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    thread::spawn(move || {
        // An error ends the input too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        ended.send(())
    });
    let _ = wait.await;
}
