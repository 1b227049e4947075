//! A handler that is started again when it ends, as the kubelet does.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_tests::process::{Process, ProcessError, Program};
use penstock_tests::wait;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Longest time for a handler to end once it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The exit code with which a handler asks to be away for a while.
const AWAY: i32 = 75;

/// The time for which it then is.
const ABSENCE: Duration = Duration::from_secs(3);

/// Between two looks at the process.
const PAUSE: Duration = Duration::from_millis(20);

type Make = Box<dyn Fn() -> Program + Send + Sync>;

/// Keeps a handler running.
pub struct Supervisor {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    make: Make,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// None while it is away.
    process: Option<Process>,
    /// The lines of earlier ones.
    lines: Vec<String>,
    ends: usize,
    error: Option<ProcessError>,
}

impl Supervisor {
    /// Starts the handler.
    pub fn start(make: impl Fn() -> Program + Send + Sync + 'static) -> Result<Self, ProcessError> {
        let state = State {
            make: Box::new(make),
            current: Mutex::default(),
        };
        state.start()?;
        let state = Arc::new(state);
        let watched = Arc::clone(&state);
        let task = tokio::spawn(async move { watched.watch().await });
        Ok(Self { state, task })
    }

    /// How often the handler has ended.
    pub fn ends(&self) -> usize {
        self.state.current().ends
    }

    /// All that it wrote.
    pub fn lines(&self) -> Vec<String> {
        let current = self.state.current();
        let last = current.process.iter().flat_map(Process::lines);
        let last = last.map(|line| line.text);
        current.lines.iter().cloned().chain(last).collect()
    }

    /// The last lines that it wrote.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let from = lines.len().saturating_sub(40);
        lines[from..]
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect()
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&self) -> Result<(), Box<dyn Error>> {
        self.task.abort();
        let ended = async || {
            let current = self.state.current();
            current
                .process
                .as_ref()
                .is_none_or(|process| process.status().is_some())
        };
        if let Some(process) = &self.state.current().process {
            // It may end at this moment.
            let _ = process.terminate();
        }
        let stopped = wait::until("the handler to end", STOP_LIMIT, ended).await;
        stopped.map_err(|error| format!("{error}\nhandler:\n{}", self.tail()))?;
        match self.state.current().error.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

impl State {
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<(), ProcessError> {
        let process = (self.make)().start()?;
        self.current().process = Some(process);
        Ok(())
    }

    async fn watch(&self) {
        loop {
            sleep(PAUSE).await;
            let Some(code) = self.ended() else {
                continue;
            };
            if code == Some(AWAY) {
                sleep(ABSENCE).await;
            }
            if let Err(error) = self.start() {
                self.current().error = Some(error);
                return;
            }
        }
    }

    /// Takes the process away if it has ended, and returns its exit code.
    fn ended(&self) -> Option<Option<i32>> {
        let mut current = self.current();
        let status = current.process.as_ref()?.status()?;
        let process = current.process.take()?;
        current
            .lines
            .extend(process.lines().into_iter().map(|line| line.text));
        current
            .lines
            .push(format!("(the handler ended with {status})"));
        current.ends += 1;
        Some(status.code())
    }
}
