//! Programs as child processes: started, watched, signalled, and gone when the
//! test is.

mod binary;
mod ready;

pub use binary::find as find_binary;
pub use rustix::process::Signal;

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process, kill_process_group};

use crate::guard::Guard;
use crate::sync::lock;
use crate::wait::{self, TimedOut};

/// How many of a program's last lines an error shows.
const TAIL: usize = 40;

/// Names a directory for all that programs write, a file each.
const LOGS_VARIABLE: &str = "PENSTOCK_TEST_LOGS";

/// Something about a child process failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such binary of this workspace.
    #[error("{} does not exist: build it first, with `cargo build --workspace`", .0.display())]
    NoBinary(PathBuf),
    /// The program could not be started.
    #[error("{name} can't be started: {error}")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// A signal could not be sent, most often because the program has ended.
    #[error("{name} can't be signalled: {error}")]
    Signal {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The program ended before what was waited for.
    #[error("{name} ended with {status} before {what}; its last lines:\n{tail}")]
    Ended {
        /// Its name.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// What was waited for.
        what: String,
        /// What it wrote last.
        tail: String,
    },
    /// What was waited for did not come in time.
    #[error("{timed_out}; last lines of {name}:\n{tail}")]
    TimedOut {
        /// Its name.
        name: String,
        /// What did not come.
        timed_out: TimedOut,
        /// What it wrote last.
        tail: String,
    },
}

/// A program that is about to be started.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
    input: Input,
}

/// What a program reads.
#[derive(Debug)]
enum Input {
    None,
    Given(Vec<u8>),
    Open,
}

impl Program {
    /// A binary of this workspace, such as `penstock-runtime`. It must have been
    /// built: running a test builds the binaries of the test's own crate only.
    ///
    /// # Errors
    /// [`ProcessError::NoBinary`] when it has not been.
    pub fn workspace(name: &str) -> Result<Self, ProcessError> {
        find_binary(name).map(Self::new)
    }

    /// Any program, by path or looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program);
        Self {
            name: name.to_string_lossy().into_owned(),
            command: Command::new(program),
            input: Input::None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Keeps a variable of this process's environment from it.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the directory that it runs in.
    #[must_use]
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Gives it a standard input, which then ends. Without this it has none.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Given(input.into());
        self
    }

    /// Gives it a standard input that stays open, to be written by
    /// [`Process::write`] and ended by [`Process::end_input`].
    #[must_use]
    pub fn open_input(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// Lets another program run it: that gets this one's path and arguments after its
    /// own, as `perf stat` and `strace` want them.
    #[must_use]
    pub fn run_by(mut self, runner: Self) -> Self {
        let mut command = runner.command;
        command
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        self.command = command;
        self
    }

    /// Starts it, in a process group of its own.
    ///
    /// # Errors
    /// [`ProcessError::Start`] when the system refuses.
    pub fn start(mut self) -> Result<Process, ProcessError> {
        let stdin = match self.input {
            Input::None => Stdio::null(),
            Input::Given(_) | Input::Open => Stdio::piped(),
        };
        self.command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let name = self.name;
        let fail = |error| ProcessError::Start {
            name: name.clone(),
            error,
        };
        let mut child = self.command.spawn().map_err(fail)?;
        let guard = Guard::kill_group(child.id()).map_err(fail)?;

        let stdin = match (self.input, child.stdin.take()) {
            (Input::Given(input), Some(mut stdin)) => {
                // The program may end without reading it all, which is its own affair.
                thread::spawn(move || stdin.write_all(&input));
                None
            }
            (_, stdin) => stdin,
        };
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = log_file(&name, child.id()).map_err(fail)?;
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(read_lines(
                out,
                Stream::Out,
                Arc::clone(&lines),
                log.clone(),
            ));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(read_lines(err, Stream::Err, Arc::clone(&lines), log));
        }
        Ok(Process {
            pid: Pid::from_child(&child),
            name,
            child: Mutex::new(child),
            stdin: Mutex::new(stdin),
            lines,
            readers,
            _guard: guard,
        })
    }
}

/// Where a program wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line that a program wrote.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where.
    pub stream: Stream,
    /// What, without the line break.
    pub text: String,
    /// When it was read.
    pub at: Instant,
}

/// A running program. When dropped it is killed, with all that it started in its
/// process group; the same happens when the test process ends in any way. When
/// dropped by a panic it shows its last lines.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    stdin: Mutex<Option<ChildStdin>>,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
    _guard: Guard,
}

impl Process {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Writes to its input, which [`Program::open_input`] keeps open.
    ///
    /// # Errors
    /// When the program has closed it, or [`Process::end_input`] was called.
    pub fn write(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match lock(&self.stdin).as_mut() {
            Some(stdin) => stdin.write_all(bytes.as_ref()),
            None => Err(io::Error::other(format!("{} has no input", self.name))),
        }
    }

    /// Ends its input.
    pub fn end_input(&self) {
        lock(&self.stdin).take();
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// [`ProcessError::Signal`] when it has already ended; so for all signals.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// Ends it at once (SIGKILL). What it started lives on, as after a crash.
    ///
    /// # Errors
    /// As [`Process::terminate`].
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// As [`Process::terminate`].
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::pause`] (SIGCONT).
    ///
    /// # Errors
    /// As [`Process::terminate`].
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// Sends it any signal.
    ///
    /// # Errors
    /// As [`Process::terminate`].
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let fail = |error| ProcessError::Signal {
            name: self.name.clone(),
            error,
        };
        // Held while signalling: once waited for, the id may belong to another.
        let mut child = lock(&self.child);
        if let Some(status) = child.try_wait().map_err(fail)? {
            return Err(fail(io::Error::other(format!("it ended with {status}"))));
        }
        kill_process(self.pid, signal).map_err(|errno| fail(errno.into()))
    }

    /// Asks it and all that it started to end (SIGINT), as Ctrl-C in a terminal does.
    ///
    /// # Errors
    /// As [`Process::terminate`].
    pub fn interrupt_all(&self) -> Result<(), ProcessError> {
        kill_process_group(self.pid, Signal::INT).map_err(|errno| ProcessError::Signal {
            name: self.name.clone(),
            error: errno.into(),
        })
    }

    /// How it ended, or nothing while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Waits until it has ended; then its lines are complete.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`] when it still runs after `limit`.
    pub async fn wait(&self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        let status = wait::value(format!("{} to end", self.name), limit, async || {
            self.status().ok_or("running")
        })
        .await
        .map_err(|timed_out| self.timed_out(timed_out))?;
        // What it started may hold its output open, so this can't be waited for long.
        let _ = wait::until("its output", Duration::from_secs(1), async || {
            self.output_ended()
        })
        .await;
        Ok(status)
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.lines).clone()
    }

    /// How many lines so far hold `text`.
    pub fn count(&self, text: &str) -> usize {
        lock(&self.lines)
            .iter()
            .filter(|line| line.text.contains(text))
            .count()
    }

    /// Waits for a line that holds `text`, and returns the first.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`] after `limit`, [`ProcessError::Ended`] when the
    /// program ends without it.
    pub async fn wait_for_line(&self, text: &str, limit: Duration) -> Result<Line, ProcessError> {
        let what = format!("it wrote {text:?}");
        let found = wait::value(&what, limit, async || {
            let over = self.status().filter(|_| self.output_ended());
            let line = lock(&self.lines)
                .iter()
                .find(|line| line.text.contains(text))
                .cloned();
            match (line, over) {
                (Some(line), _) => Ok(Ok(line)),
                (None, Some(status)) => Ok(Err(status)),
                (None, None) => Err("not yet"),
            }
        })
        .await
        .map_err(|timed_out| self.timed_out(timed_out))?;
        found.map_err(|status| ProcessError::Ended {
            name: self.name.clone(),
            status,
            what,
            tail: self.tail(),
        })
    }

    /// What it wrote last, as an error shows it.
    pub fn tail(&self) -> String {
        let lines = lock(&self.lines);
        let shown = lines.iter().skip(lines.len().saturating_sub(TAIL));
        shown
            .map(|line| format!("  {}\n", line.text))
            .collect::<String>()
    }

    fn output_ended(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    fn timed_out(&self, timed_out: TimedOut) -> ProcessError {
        ProcessError::TimedOut {
            name: self.name.clone(),
            timed_out,
            tail: self.tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group outlives its leader while other members run, and its id stays
        // theirs. No such group: all have ended, as wanted.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = lock(&self.child).wait();
        if thread::panicking() {
            eprintln!("last lines of {}:\n{}", self.name, self.tail());
        }
    }
}

/// Where all that a program writes is kept beyond the test, if anywhere.
fn log_file(name: &str, id: u32) -> io::Result<Option<Arc<File>>> {
    let Some(directory) = env::var_os(LOGS_VARIABLE) else {
        return Ok(None);
    };
    let path = Path::new(&directory).join(format!("{name}-{id}.log"));
    Ok(Some(Arc::new(File::create(path)?)))
}

fn read_lines(
    from: impl Read + Send + 'static,
    stream: Stream,
    into: Arc<Mutex<Vec<Line>>>,
    log: Option<Arc<File>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while matches!(from.read_until(b'\n', &mut bytes), Ok(1..)) {
            if let Some(mut log) = log.as_deref() {
                // A full disk ends the log, not the test.
                let _ = log.write_all(&bytes);
            }
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            lock(&into).push(Line {
                stream,
                text,
                at: Instant::now(),
            });
            bytes.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Program::new("sh").arg("-c").arg(script).start().unwrap()
    }

    #[tokio::test]
    async fn lines_of_both_streams_are_kept() {
        let process = shell("echo one; echo two >&2; exit 3");
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
        let mut lines: Vec<_> = process
            .lines()
            .into_iter()
            .map(|l| (l.text, l.stream == Stream::Err))
            .collect();
        lines.sort();
        assert_eq!(lines, [("one".into(), false), ("two".into(), true)]);
    }

    #[tokio::test]
    async fn input_is_given_and_ends() {
        let process = Program::new("sort").input("b\na\n").start().unwrap();
        process.wait(SOON).await.unwrap();
        assert_eq!(process.tail(), "  a\n  b\n");
    }

    #[tokio::test]
    async fn a_program_is_run_by_another_with_its_arguments_and_variables() {
        let program = Program::new("sh").args(["-c", "echo $0 $A", "b"]);
        let runner = Program::new("env").arg("B=1");
        let process = program.env("A", "c").run_by(runner).start().unwrap();
        assert!(process.wait(SOON).await.unwrap().success());
        assert_eq!(process.tail(), "  b c\n");
    }

    #[tokio::test]
    async fn what_a_program_started_is_interrupted_with_it() {
        // The inner shell says it; the outer waits for it.
        let inner = "trap 'echo asked; exit' INT; echo ready; while :; do sleep 0.01; done";
        let script = format!("trap : INT; sh -c \"{inner}\"");
        let process = shell(&script);
        process.wait_for_line("ready", SOON).await.unwrap();
        process.interrupt_all().unwrap();
        process.wait_for_line("asked", SOON).await.unwrap();
    }

    #[tokio::test]
    async fn open_input_is_written_and_ended_by_the_test() {
        let process = Program::new("cat").open_input().start().unwrap();
        for line in ["one", "two"] {
            process.write(format!("{line}\n")).unwrap();
            process.wait_for_line(line, SOON).await.unwrap();
        }
        process.end_input();
        assert!(process.wait(SOON).await.unwrap().success());
        assert!(process.write("three").is_err());
    }

    #[tokio::test]
    async fn a_line_that_never_comes_fails_as_soon_as_the_program_ends() {
        let error = shell("echo before; exit 1")
            .wait_for_line("after", Duration::from_secs(60))
            .await
            .unwrap_err();
        assert!(matches!(error, ProcessError::Ended { .. }), "{error}");
        assert!(error.to_string().contains("before"), "{error}");
    }

    #[tokio::test]
    async fn signals_arrive_and_then_are_refused() {
        let process =
            shell("trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        process.wait_for_line("ready", SOON).await.unwrap();
        process.pause().unwrap();
        process.terminate().unwrap();
        process.resume().unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(0));
        assert_eq!(process.count("asked"), 1);
        assert!(matches!(process.kill(), Err(ProcessError::Signal { .. })));
    }

    #[tokio::test]
    async fn dropping_kills_what_it_started_too() {
        let process = shell("sleep 1000 & echo $!; wait");
        let line = process.wait_for_line("", SOON).await.unwrap();
        let proc = PathBuf::from("/proc").join(&line.text);
        assert!(proc.exists());
        drop(process);
        wait::until("the grandchild to end", SOON, async || {
            // Without an init that reaps, a killed orphan stays as a zombie.
            std::fs::read_to_string(proc.join("stat")).map_or(true, |stat| stat.contains(") Z "))
        })
        .await
        .unwrap();
    }
}
