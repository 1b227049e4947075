//! Commands that are run to their end.

use std::io::{Seek, Write};
use std::process::Command;

use serde_json::Value;

use super::ClusterError;

/// Runs `command` and gives what it wrote to its standard output.
///
/// # Errors
/// [`ClusterError::Command`] with all that it wrote when it fails.
pub(super) fn run(command: &mut Command) -> Result<String, ClusterError> {
    let called = describe(command);
    let output = command
        .output()
        .map_err(ClusterError::io(format!("starting {called}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::Command {
        command: called,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&text).trim_end().into(),
    })
}

/// Runs a `kubectl` that shows objects, and reads them.
///
/// # Errors
/// As [`run`].
pub(super) fn run_json(command: &mut Command) -> Result<Value, ClusterError> {
    let text = run(command.args(["-o", "json"]))?;
    serde_json::from_str(&text)
        .map_err(|error| ClusterError::io(format!("reading {}", describe(command)))(error.into()))
}

/// Runs `command` on an input and gives what it wrote to its standard output.
///
/// # Errors
/// As [`run`].
pub(super) fn run_on(command: &mut Command, input: &str) -> Result<String, ClusterError> {
    let mut file = tempfile::tempfile().map_err(ClusterError::io("a temporary file"))?;
    file.write_all(input.as_bytes())
        .and_then(|()| file.rewind())
        .map_err(ClusterError::io("a temporary file"))?;
    run(command.stdin(file))
}

/// As one would type it, without the directory of the program.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
