//! The handler, or an embedded consumer, as a child process.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::DevError;
use super::guard::Guard;
use crate::console::{Console, Stream};

/// What stands before each line of a child.
const PREFIX: &[u8] = b"handler | ";

/// Lets Python write each line at once. It buffers output to a pipe, and SIGTERM
/// discards the buffer, so that a handler which prints would show nothing.
const UNBUFFERED: &str = "PYTHONUNBUFFERED";

/// Longest piece of a line that is held in memory; a longer line is broken.
const LONGEST_LINE: u64 = 64 * 1024;

/// Longest command that is shown in full, in characters.
const SHOWN: usize = 80;

/// How long the output of a child that has ended is still waited for: what it
/// started may hold the pipe open.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// How long a handler may take to end once the consumer has.
pub const HANDLER_STOP_LIMIT: Duration = Duration::from_secs(10);

/// A child with a process group of its own, so that Ctrl-C reaches this process
/// alone, which then decides. Dropped: the group is killed.
pub struct Child {
    process: tokio::process::Child,
    /// Absent once the child has been waited for: the id may then be another's.
    group: Option<Pid>,
    program: String,
    output: Vec<JoinHandle<()>>,
    /// Absent where there is no shell, and once the child has ended.
    guard: Option<Guard>,
    /// Until when output is waited for; set when the child has ended.
    output_deadline: Option<Instant>,
}

impl Child {
    /// Starts a command, and shows each line that it writes.
    pub fn start(
        command: &[OsString],
        environment: &[(&str, OsString)],
        console: &Console,
    ) -> Result<Self, DevError> {
        let (program, arguments) = command.split_first().ok_or(DevError::NoProgram)?;
        let name = program.to_string_lossy().into_owned();
        let mut process = prepare(program, environment, env::var_os(UNBUFFERED))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| DevError::Start {
                program: name.clone(),
                source,
            })?;
        let mut output = Vec::new();
        if let Some(stdout) = process.stdout.take() {
            output.push(tokio::spawn(show(stdout, Stream::Out, console.clone())));
        }
        if let Some(stderr) = process.stderr.take() {
            output.push(tokio::spawn(show(stderr, Stream::Err, console.clone())));
        }
        Ok(Self {
            guard: process.id().and_then(|id| Guard::of_group(id).ok()),
            group: process.id().and_then(|id| Pid::from_raw(id.cast_signed())),
            process,
            program: shown(command),
            output,
            output_deadline: None,
        })
    }

    /// The command, for messages.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Waits until it ends. Its last lines have then been shown. Waiting may be
    /// broken off and begun again.
    pub async fn ended(&mut self) -> Result<ExitStatus, DevError> {
        let status = self.process.wait().await;
        // What it started and left behind may hold its port and this pipe.
        self.signal(Signal::KILL);
        self.group = None;
        self.guard = None;
        let deadline = *self
            .output_deadline
            .get_or_insert_with(|| Instant::now() + OUTPUT_LIMIT);
        while let Some(output) = self.output.last_mut() {
            // When the time is over, whatever still comes is not its own.
            let _ = tokio::time::timeout_at(deadline, output).await;
            self.output.pop();
        }
        status.map_err(|error| DevError::Task(error.to_string()))
    }

    /// Asks it to end and waits; after `limit` it is killed. How it ended by
    /// itself.
    pub async fn stop(&mut self, limit: Duration) -> Result<Option<ExitStatus>, DevError> {
        self.signal(Signal::TERM);
        match tokio::time::timeout(limit, self.ended()).await {
            Ok(ended) => ended.map(Some),
            Err(_) => {
                self.signal(Signal::KILL);
                self.ended().await.map(|_| None)
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Fails when the whole group has ended: then there is nothing to do.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Returns a command with the environment of a handler. `unbuffered` is the value of
/// [`UNBUFFERED`] in this process, which the handler keeps, as it keeps the manifest's.
fn prepare(
    program: &OsStr,
    environment: &[(&str, OsString)],
    unbuffered: Option<OsString>,
) -> Command {
    let mut command = Command::new(program);
    command
        .env(UNBUFFERED, unbuffered.unwrap_or_else(|| "1".into()))
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// A command on one line, cut where it is long.
pub fn shown(command: &[OsString]) -> String {
    let words: Vec<_> = command
        .iter()
        .map(|word| OsStr::to_string_lossy(word))
        .collect();
    let line = words.join(" ");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Shows what a child writes, line by line.
async fn show(pipe: impl AsyncRead + Unpin, stream: Stream, console: Console) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(PREFIX);
        let read = (&mut pipe)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await;
        match read {
            Ok(1..) => {
                if !line.ends_with(b"\n") {
                    line.push(b'\n');
                }
                console.write(stream, &line);
            }
            Ok(0) | Err(_) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_writes_each_line_at_once_unless_somebody_says_otherwise() {
        let value = |environment: &[(&str, OsString)], inherited: Option<&str>| {
            let command = prepare("python3".as_ref(), environment, inherited.map(Into::into));
            let mut variables = command.as_std().get_envs();
            let found = variables.find(|(name, _)| *name == UNBUFFERED);
            found.and_then(|(_, value)| value.map(OsStr::to_owned))
        };
        assert_eq!(value(&[], None), Some("1".into()));
        assert_eq!(value(&[], Some("")), Some("".into()));
        let manifest = [(UNBUFFERED, OsString::from("x"))];
        assert_eq!(value(&manifest, None), Some("x".into()));
        assert_eq!(value(&manifest, Some("1")), Some("x".into()));
    }
}
