//! Running the sides, in turns.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use penstock_tests::process::{Process, ProcessError, Program};
use serde::Serialize;
use tempfile::TempDir;
use thiserror::Error;

use crate::meter::Measure;
use crate::pairs::{Count, Pair, Runner, RunnerProgram, Transport};
use crate::side::Side;
use crate::source::{Mode, Source, SourceError};

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
    /// The source is not there.
    #[error("{0}")]
    Source(String),
    /// This program's own path, or a temporary directory.
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
    /// The reference's runs, in order.
    pub reference: Vec<Measure>,
    /// Our runs, each after the reference's of the same round.
    pub ours: Vec<Measure>,
    /// Why nothing was run.
    pub not_run: Option<String>,
}

impl Outcome {
    /// Compares round by round: what slows the machine down for a while slows both.
    fn conclude(&mut self) {
        let ratio = |of: fn(&Measure) -> f64| {
            let rounds = self.reference.iter().zip(&self.ours);
            median(rounds.map(|(reference, ours)| of(ours) / of(reference)))
        };
        self.ratio = ratio(Measure::rate);
        self.cpu_ratio = ratio(Measure::cpu_micros);
        self.met = self
            .goal
            .and_then(|goal| self.ratio.map(|ratio| ratio >= goal));
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
    topic: String,
    /// Messages in the topic.
    count: u64,
    rounds: usize,
    server: HttpServer,
    sources: Vec<(Mode, Result<Source, SourceError>)>,
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
    /// Starts the HTTP server and installs the source, where these pairs need it.
    pub async fn prepare(
        pairs: &[Pair],
        bootstrap: &str,
        topic: &str,
        count: u64,
        rounds: usize,
    ) -> Result<Self, BenchError> {
        let own = env::current_exe()?;
        let mut sources = Vec::new();
        for mode in [Mode::Fast, Mode::InOrder] {
            if pairs.iter().any(|pair| pair.has_source(mode)) {
                sources.push((mode, Source::install(mode).await));
            }
        }
        Ok(Self {
            server: HttpServer::start(&own).await?,
            own,
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            count,
            rounds,
            sources,
        })
    }

    /// Reads the topic once, uncounted: the broker compiles what it runs often.
    pub async fn warm_up(&self) -> Result<(), BenchError> {
        let runner = Runner {
            program: RunnerProgram::Side(Side::LoopRaw),
            count: Count::All,
            handlers: 1,
            transport: None,
            threads: None,
        };
        self.run(&runner).await.map(drop)
    }

    /// Runs both sides of a pair in turns, the reference first.
    pub async fn compare(&self, pair: &Pair) -> Result<Outcome, BenchError> {
        let mut outcome = Outcome {
            name: pair.name,
            reference_is: pair.reference_is,
            ours_is: pair.ours_is,
            goal: pair.goal,
            met: None,
            ratio: None,
            cpu_ratio: None,
            reference: Vec::new(),
            ours: Vec::new(),
            not_run: None,
        };
        if let Some(error) = self.missing(pair) {
            outcome.not_run = Some(error.to_string());
            return Ok(outcome);
        }
        for _ in 0..self.rounds {
            outcome.reference.push(self.run(&pair.reference).await?);
            outcome.ours.push(self.run(&pair.ours).await?);
        }
        outcome.conclude();
        Ok(outcome)
    }

    fn program(&self, runner: &Runner) -> Result<Program, BenchError> {
        Ok(match runner.program {
            RunnerProgram::Side(side) => {
                let program = Program::new(&self.own)
                    .args(["side", &side.name()])
                    .arg(format!("--handlers={}", runner.handlers));
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
            RunnerProgram::Source { mode, batch } => {
                let found = self.sources.iter().find(|(known, _)| *known == mode);
                match found {
                    Some((_, Ok(source))) => source.program(runner.handlers, batch),
                    Some((_, Err(error))) => return Err(BenchError::Source(error.to_string())),
                    None => return Err(BenchError::Source("it is not installed".into())),
                }
            }
        })
    }

    /// Why a pair can't be run.
    fn missing(&self, pair: &Pair) -> Option<BenchError> {
        let sides = [&pair.reference, &pair.ours];
        sides.into_iter().find_map(|side| self.program(side).err())
    }

    async fn run(&self, runner: &Runner) -> Result<Measure, BenchError> {
        let count = match runner.count {
            Count::All => self.count,
            Count::UpTo(most) => most.min(self.count),
        };
        let process = self
            .program(runner)?
            .args(["--bootstrap", &self.bootstrap, "--topic", &self.topic])
            .arg(format!("--count={count}"))
            .start()?;
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
        let mut outcome = Outcome {
            name: "a",
            reference_is: "a",
            ours_is: "a",
            goal: Some(goal),
            met: None,
            ratio: None,
            cpu_ratio: None,
            reference: reference.iter().map(|rate| measure(*rate)).collect(),
            ours: ours.iter().map(|rate| measure(*rate)).collect(),
            not_run: None,
        };
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
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
