//! `penstock completion`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap_complete::Shell;

use crate::args;

/// Prints a completion script.
pub fn main(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "penstock", &mut script);
    match io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the script can't be written: {error}");
            ExitCode::from(2)
        }
    }
}
