//! System calls that a program makes, by the tools that count them.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use penstock_tests::process::Program;
use serde::Serialize;
use tempfile::NamedTempFile;
use thiserror::Error;

/// The kernel's own counter, which slows nothing down.
const PERF: [&str; 5] = ["stat", "--field-separator=,", "--event", EVENT, "--output"];

/// Every entry into the kernel by a system call.
const EVENT: &str = "raw_syscalls:sys_enter";

/// Stops the program at each call, so that rates mean nothing beside it.
const STRACE: [&str; 4] = [
    "--summary-only",
    "--follow-forks",
    "--quiet=all",
    "--output",
];

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `perf stat`
    Perf,
    /// `strace -c`
    Strace,
}

/// Calls can't be counted.
#[derive(Debug, Error)]
pub enum CallsError {
    /// No tool works here.
    #[error("system calls can't be counted: {0}")]
    NoTool(String),
    /// The file of the count.
    #[error("{file}: {error}")]
    File {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// There is no count in it.
    #[error("no count of system calls in {0:?}")]
    NoCount(String),
}

impl Tool {
    /// The first tool that works here; else why each does not.
    pub fn find() -> Result<Self, CallsError> {
        let mut reasons = Vec::new();
        for tool in [Self::Perf, Self::Strace] {
            match tool.try_out() {
                Ok(()) => return Ok(tool),
                Err(reason) => reasons.push(format!("{}: {reason}", tool.name())),
            }
        }
        Err(CallsError::NoTool(reasons.join("; ")))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Perf => &PERF,
            Self::Strace => &STRACE,
        }
    }

    /// Lets it count the calls of a program and all that this starts. The count is in
    /// `file` once the program has ended.
    pub fn count(self, program: Program, file: &Path) -> Program {
        let tool = Program::new(self.name()).args(self.arguments()).arg(file);
        program.run_by(tool)
    }

    /// The count that [`Tool::count`] left.
    pub fn read(self, file: &Path) -> Result<u64, CallsError> {
        let text = fs::read_to_string(file).map_err(|error| CallsError::File {
            file: file.display().to_string(),
            error,
        })?;
        let count = match self {
            Self::Perf => perf_count(&text),
            Self::Strace => strace_count(&text),
        };
        count.ok_or(CallsError::NoCount(text))
    }

    /// Counts the calls of a program that does nothing.
    fn try_out(self) -> Result<(), String> {
        let file = NamedTempFile::new().map_err(|error| error.to_string())?;
        let output = Command::new(self.name())
            .args(self.arguments())
            .arg(file.path())
            .arg("true")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(said.lines().next().unwrap_or("it failed").to_owned());
        }
        let counted = self.read(file.path());
        counted.map(drop).map_err(|error| error.to_string())
    }
}

/// `12345,,raw_syscalls:sys_enter,…`
fn perf_count(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(EVENT))?;
    line.split(',').next()?.parse().ok()
}

/// `100.00    0.000000           0        29         1 total`
fn strace_count(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let perf = "# started on …\n\n29,,raw_syscalls:sys_enter,1046568,100.00,,\n";
        assert_eq!(perf_count(perf), Some(29));
        assert_eq!(
            perf_count("<not counted>,,raw_syscalls:sys_enter,0,0.00,,"),
            None
        );
        let strace = "  0.00  0.0  0  1  rseq\n------ -----\n100.00  0.000000  0  29  1 total\n";
        assert_eq!(strace_count(strace), Some(29));
        assert_eq!(strace_count("nothing"), None);
    }
}
