//! What the programs that serve a broker or a cluster have in common: they end with
//! a command that they run, or with their input.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::ExitCode;
use std::thread;

use tokio::process::Command;
use tokio::sync::oneshot;

/// Runs a command with these variables; its exit code is the program's too.
///
/// # Errors
/// When it can't be started.
pub async fn run_command(
    program: &OsStr,
    arguments: &[OsString],
    environment: impl IntoIterator<Item = (&'static str, OsString)>,
) -> Result<ExitCode, Box<dyn Error>> {
    let status = Command::new(program)
        .args(arguments)
        .envs(environment)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("{} can't be started: {error}", program.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Waits for the end of standard input. It is read in a thread of its own, which does
/// not hold up the end of main.
pub async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    thread::spawn(move || {
        // An error ends the input too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        ended.send(())
    });
    let _ = wait.await;
}
