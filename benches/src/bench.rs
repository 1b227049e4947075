//! Running the sides, in turns.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use penstock_tests::process::{Process, ProcessError, Program};
use serde::Serialize;
use tempfile::{NamedTempFile, TempDir};
use thiserror::Error;

use crate::meter::Measure;
use crate::pairs::{self, Pair, Runner, RunnerProgram, Transport};
use crate::peer::{Built, Peer, PeerError};
use crate::side::Side;
use crate::source::{Mode, Source, SourceError};
use crate::tool::{Tool, ToolError};
use crate::workload::Topic;

/// Longest time for one run of one side.
const RUN_LIMIT: Duration = Duration::from_secs(180);

/// Longest time for the HTTP server to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// A side could not be run.
#[derive(Debug, Error)]
pub enum BenchError {
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It failed, or printed something else than its result.
    #[error("{side} gave no result; its last lines:\n{tail}")]
    NoResult {
        /// What was run.
        side: String,
        /// What it printed last.
        tail: String,
    },
    /// The source or a peer is not there.
    #[error("{0}")]
    Missing(String),
    /// What it asked of the system.
    #[error(transparent)]
    Count(#[from] ToolError),
    /// This program's own path, or a temporary file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What both sides of a pair gave.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The pair's name.
    pub name: &'static str,
    /// The reference, in words.
    pub reference_is: &'static str,
    /// Ours, in words.
    pub ours_is: &'static str,
    /// What is to be reached.
    pub goal: Option<f64>,
    /// Whether it was; absent without a goal and where nothing was run.
    pub met: Option<bool>,
    /// Median of the rounds' ratios of the rates, ours by the reference's.
    pub ratio: Option<f64>,
    /// The same of the CPU time for a message: below 1, ours needs less.
    pub cpu_ratio: Option<f64>,
    /// The same of the peak RSS.
    pub memory_ratio: Option<f64>,
    /// What that is to be at most.
    pub memory_goal: Option<f64>,
    /// Whether it was; absent as `met` is.
    pub memory_met: Option<bool>,
    /// The reference's runs, in order.
    pub reference: Vec<Measure>,
    /// Our runs, each after the reference's of the same round.
    pub ours: Vec<Measure>,
    /// Why nothing was run.
    pub not_run: Option<String>,
}

impl Outcome {
    /// Of nothing yet.
    fn of(pair: &Pair) -> Self {
        Self {
            name: pair.name,
            reference_is: pair.reference_is,
            ours_is: pair.ours_is,
            goal: pair.goal,
            met: None,
            ratio: None,
            cpu_ratio: None,
            memory_ratio: None,
            memory_goal: pair.memory_goal,
            memory_met: None,
            reference: Vec::new(),
            ours: Vec::new(),
            not_run: None,
        }
    }

    /// Compares round by round: what slows the machine down for a while slows both.
    fn conclude(&mut self) {
        let ratio = |of: fn(&Measure) -> f64| {
            let rounds = self.reference.iter().zip(&self.ours);
            median(rounds.map(|(reference, ours)| of(ours) / of(reference)))
        };
        self.ratio = ratio(Measure::rate);
        self.cpu_ratio = ratio(Measure::cpu_micros);
        self.memory_ratio = ratio(|run| run.peak_rss_kib as f64);
        self.met = self.ratio.zip(self.goal).map(|(ratio, goal)| ratio >= goal);
        let memory = self.memory_ratio.zip(self.memory_goal);
        self.memory_met = memory.map(|(ratio, goal)| ratio <= goal);
    }
}

/// The middle value, or the mean of the two in the middle; nothing of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], upper),
        _ => upper,
    })
}

/// Everything that the sides need.
pub struct Bench {
    own: PathBuf,
    bootstrap: String,
    server: HttpServer,
    sources: Vec<(Mode, Result<Source, SourceError>)>,
    peers: Vec<(Peer, Result<Built, PeerError>)>,
}

/// The HTTP server that is running.
struct HttpServer {
    port: String,
    socket: PathBuf,
    _process: Process,
    _dir: TempDir,
}

impl HttpServer {
    async fn start(own: &PathBuf) -> Result<Self, BenchError> {
        let dir = TempDir::with_prefix("penstock-bench-")?;
        let socket = dir.path().join("http.sock");
        let process = Program::new(own)
            .args(["serve", "--socket"])
            .arg(&socket)
            .start()?;
        let line = process.wait_for_line("port=", LISTEN_LIMIT).await?;
        Ok(Self {
            port: line.text.replace("port=", ""),
            socket,
            _process: process,
            _dir: dir,
        })
    }
}

impl Bench {
    /// Starts the HTTP server; installs the source and builds the peers that are among
    /// these programs.
    pub async fn prepare(
        programs: impl IntoIterator<Item = RunnerProgram>,
        bootstrap: &str,
    ) -> Result<Self, BenchError> {
        let own = env::current_exe()?;
        let (mut sources, mut peers) = (Vec::new(), Vec::new());
        for program in programs {
            match program {
                RunnerProgram::Source { mode, .. } if !has(&sources, mode) => {
                    sources.push((mode, Source::install(mode).await));
                }
                RunnerProgram::Peer { peer, .. } if !has(&peers, peer) => {
                    peers.push((peer, peer.build().await));
                }
                _ => {}
            }
        }
        Ok(Self {
            server: HttpServer::start(&own).await?,
            own,
            bootstrap: bootstrap.to_owned(),
            sources,
            peers,
        })
    }

    /// Reads a topic once, uncounted: the broker compiles what it runs often.
    pub async fn warm_up(&self, topic: &Topic) -> Result<(), BenchError> {
        self.run(&pairs::WARM_UP, topic).await.map(drop)
    }

    /// Runs both sides of a pair in turns, the reference first. What others' programs
    /// fail with is told in the outcome.
    pub async fn compare(
        &self,
        pair: &Pair,
        topic: &Topic,
        rounds: usize,
    ) -> Result<Outcome, BenchError> {
        let mut outcome = Outcome::of(pair);
        for _ in 0..rounds {
            match self.run(&pair.reference, topic).await {
                Err(error) if pair.is_beside_others() => {
                    outcome.not_run = Some(error.to_string());
                    return Ok(outcome);
                }
                reference => outcome.reference.push(reference?),
            }
            outcome.ours.push(self.run(&pair.ours, topic).await?);
        }
        outcome.conclude();
        Ok(outcome)
    }

    /// Runs one side.
    pub async fn run(&self, runner: &Runner, topic: &Topic) -> Result<Measure, BenchError> {
        let count = runner.count.of(topic.count);
        let program = self.program(runner, topic)?;
        self.finish(runner, self.on(program, topic, count)).await
    }

    /// Runs one side with so many messages, and counts what it asks of the system from its
    /// start to its end.
    pub async fn asks(
        &self,
        runner: &Runner,
        topic: &Topic,
        count: u64,
        tool: Tool,
    ) -> Result<u64, BenchError> {
        let file = NamedTempFile::new()?;
        let program = self.program(runner, topic)?;
        let program = self.on(program, topic, count);
        let program = match runner.program {
            // Its own process is not the one to be counted, but the one that it starts.
            RunnerProgram::Peer {
                peer: Peer::Sender(_),
                ..
            } => program.arg("--calls").arg(file.path()),
            _ => tool.count(program, file.path()),
        };
        self.finish(runner, program).await?;
        Ok(tool.read(file.path())?)
    }

    /// The program, but for what it is to read.
    fn program(&self, runner: &Runner, topic: &Topic) -> Result<Program, BenchError> {
        match runner.program {
            RunnerProgram::Side(side) => Ok(self.side(side, runner, topic)),
            RunnerProgram::Source { mode, batch } => match find(&self.sources, mode) {
                Some(Ok(source)) => Ok(source.program(runner.handlers, batch)),
                Some(Err(error)) => Err(BenchError::Missing(error.to_string())),
                None => Err(BenchError::Missing("it is not installed".into())),
            },
            RunnerProgram::Peer { peer, batch } => match find(&self.peers, peer) {
                Some(Ok(built)) => Ok(built.program(peer, &self.own, runner.handlers, batch)),
                Some(Err(error)) => Err(BenchError::Missing(error.to_string())),
                None => Err(BenchError::Missing("it is not built".into())),
            },
        }
    }

    fn side(&self, side: Side, runner: &Runner, topic: &Topic) -> Program {
        let program = Program::new(&self.own)
            .args(["side", &side.name()])
            .arg(format!("--handlers={}", runner.handlers))
            .arg(format!("--value-size={}", topic.value_size));
        let program = match runner.threads {
            Some(threads) => program.env("TOKIO_WORKER_THREADS", threads.to_string()),
            None => program,
        };
        match runner.transport {
            Some(Transport::Tcp) => program.args(["--port", &self.server.port]),
            Some(Transport::Unix) => program.arg("--socket").arg(&self.server.socket),
            None => program,
        }
    }

    fn on(&self, program: Program, topic: &Topic, count: u64) -> Program {
        program
            .args(["--bootstrap", &self.bootstrap, "--topic", &topic.name])
            .arg(format!("--count={count}"))
    }

    async fn finish(&self, runner: &Runner, program: Program) -> Result<Measure, BenchError> {
        let process = program.start()?;
        let status = process.wait(RUN_LIMIT).await?;
        let lines = process.lines();
        let mut results = lines.iter().map(|line| serde_json::from_str(&line.text));
        results
            .find_map(Result::ok)
            .filter(|_| status.success())
            .ok_or_else(|| BenchError::NoResult {
                side: format!("{:?}", runner.program),
                tail: process.tail(),
            })
    }
}

fn has<K: PartialEq, V>(list: &[(K, V)], key: K) -> bool {
    list.iter().any(|(known, _)| *known == key)
}

fn find<K: PartialEq, V>(list: &[(K, V)], key: K) -> Option<&V> {
    let mut list = list.iter();
    list.find_map(|(known, value)| (*known == key).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(rate: f64) -> Measure {
        Measure {
            messages: 1000,
            seconds: 1000.0 / rate,
            cpu_seconds: 1000.0 / rate,
            switches: None,
            peak_rss_kib: 1,
        }
    }

    fn outcome(reference: &[f64], ours: &[f64], goal: f64) -> Outcome {
        let mut outcome = Outcome::of(&pairs::all()[0]);
        outcome.goal = Some(goal);
        outcome.memory_goal = Some(0.5);
        outcome.reference = reference.iter().map(|rate| measure(*rate)).collect();
        outcome.ours = ours.iter().map(|rate| measure(*rate)).collect();
        outcome.conclude();
        outcome
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        // The second round met a machine that was ten times slower for both.
        let outcome = outcome(&[1000.0, 100.0, 1000.0], &[800.0, 90.0, 700.0], 0.8);
        assert!((outcome.ratio.unwrap() - 0.8).abs() < 1e-9);
        assert!((outcome.cpu_ratio.unwrap() - 1.25).abs() < 1e-9);
    }

    #[test]
    fn a_goal_is_met_or_missed() {
        assert_eq!(outcome(&[100.0], &[81.0], 0.8).met, Some(true));
        assert_eq!(outcome(&[100.0], &[79.0], 0.8).met, Some(false));
        assert_eq!(outcome(&[], &[], 0.8).met, None);
        assert_eq!(outcome(&[100.0], &[79.0], 0.8).memory_met, Some(false));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
