//! What a program asks of the system, by the tools that count it: system calls and
//! allocations.

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

/// Takes the place of `malloc`, for librdkafka as for Rust, and counts for each thread. At
/// the end of the program it writes its counts to where errors go.
const JEMALLOC: [&str; 2] = [
    "-c",
    // $0 is the file.
    "exec env LD_PRELOAD=libjemalloc.so.2 \
     MALLOC_CONF=stats_print:true,stats_print_opts:Jabldxg \"$@\" 2>\"$0\"",
];

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Of a program and all that it starts.
    SystemCalls,
    /// Of a program that leaves memory to `malloc`.
    Allocations,
}

impl Counted {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemCalls => "system calls",
            Self::Allocations => "allocations",
        }
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Self::SystemCalls => &[Tool::Perf, Tool::Strace],
            Self::Allocations => &[Tool::Jemalloc],
        }
    }

    /// The first tool that works here; else why each does not.
    pub fn tool(self) -> Result<Tool, ToolError> {
        let mut reasons = Vec::new();
        for tool in self.tools() {
            match tool.try_out() {
                Ok(()) => return Ok(*tool),
                Err(reason) => reasons.push(format!("{}: {reason}", tool.name())),
            }
        }
        Err(ToolError::None {
            counted: self.name(),
            reasons: reasons.join("; "),
        })
    }
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `perf stat`
    Perf,
    /// `strace -c`
    Strace,
    /// Debian's `libjemalloc2`
    Jemalloc,
}

/// Nothing can be counted.
#[derive(Debug, Error)]
pub enum ToolError {
    /// No tool works here.
    #[error("{counted} can't be counted: {reasons}")]
    None {
        /// What.
        counted: &'static str,
        /// Why, of each tool.
        reasons: String,
    },
    /// The file of the count.
    #[error("{file}: {error}")]
    File {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// There is no count in it.
    #[error("no count in {0:?}")]
    NoCount(String),
}

impl Tool {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Strace => "strace",
            Self::Jemalloc => "jemalloc",
        }
    }

    /// The program that lets another be counted, whose file for the count comes next.
    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Perf => ("perf", &PERF),
            Self::Strace => ("strace", &STRACE),
            Self::Jemalloc => ("sh", &JEMALLOC),
        }
    }

    /// Lets it count for a program. The count is in `file` once the program has ended.
    pub fn count(self, program: Program, file: &Path) -> Program {
        let (tool, arguments) = self.command();
        program.run_by(Program::new(tool).args(arguments).arg(file))
    }

    /// The count that [`Tool::count`] left.
    pub fn read(self, file: &Path) -> Result<u64, ToolError> {
        let text = fs::read_to_string(file).map_err(|error| ToolError::File {
            file: file.display().to_string(),
            error,
        })?;
        let count = match self {
            Self::Perf => perf_count(&text),
            Self::Strace => strace_count(&text),
            Self::Jemalloc => jemalloc_count(&text),
        };
        count.ok_or(ToolError::NoCount(text))
    }

    /// Counts for a program that does nothing.
    fn try_out(self) -> Result<(), String> {
        let file = NamedTempFile::new().map_err(|error| error.to_string())?;
        let (tool, arguments) = self.command();
        let output = Command::new(tool)
            .args(arguments)
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

/// `{"jemalloc":{…}}` in a line of its own, behind what the program wrote there itself.
/// Requests, not what threads took in advance.
fn jemalloc_count(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("{\"jemalloc\""))?;
    let stats: serde_json::Value = serde_json::from_str(line).ok()?;
    let arenas = &stats["jemalloc"]["stats.arenas"]["merged"];
    let requests = |size: &str| arenas[size]["nrequests"].as_u64();
    Some(requests("small")? + requests("large")?)
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
        let jemalloc = r#"a warning
{"jemalloc":{"stats.arenas":{"merged":{"small":{"nmalloc":9,"nrequests":28},"large":{"nrequests":1}}}}}
"#;
        assert_eq!(jemalloc_count(jemalloc), Some(29));
        assert_eq!(jemalloc_count("a warning\n{\"jemalloc\":{}}\n"), None);
    }
}
