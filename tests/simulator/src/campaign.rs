//! Plays many seeds side by side.

use std::fmt;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use penstock_runtime::simulation::Scenario;

use crate::rules::{Rule, Violation, judge};
use crate::shrink::shrink;
use crate::story;

/// Runs that the shrinker takes, unless told otherwise.
pub const SHRINK_RUNS: usize = 2_000;

/// The longest time for one run, which takes some hundredths of a second.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// How often runs are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Which seeds to play, and how.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// The number of seeds.
    pub seeds: u64,
    /// Ends the campaign before all seeds are played.
    pub time: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// Runs that the shrinker may take; 0 leaves a scenario as it is.
    pub shrink_runs: usize,
}

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that were played.
    pub played: u64,
    /// Simulated time of all of them.
    pub simulated: Duration,
    /// Time that it took.
    pub took: Duration,
    /// The failures, at most one a thread: a campaign ends with the first.
    pub failures: Vec<Failure>,
}

/// A seed that breaks a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What it breaks.
    pub violations: Vec<Violation>,
    /// The smallest scenario that breaks the first of these rules.
    pub smallest: Scenario,
    /// What happened in that.
    pub story: String,
}

impl Campaign {
    /// Plays the seeds; `progress` is told now and then how many were played.
    ///
    /// Ends the process where a run spins: no time passes in it, and nothing can end it.
    pub fn play(&self, progress: impl Fn(u64) + Sync) -> Report {
        silence_scripted_panics();
        let began = Instant::now();
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let report = Mutex::new(Report::default());
        let watch = Watch::new(self.jobs.max(1));
        thread::scope(|scope| {
            scope.spawn(|| watch.run(|| lock(&report).played));
            for current in &watch.current {
                let (next, over, report, watch) = (&next, &over, &report, &watch);
                let progress = &progress;
                scope.spawn(move || {
                    let _ended = Ended(&watch.ended);
                    while !over.load(Ordering::Relaxed)
                        && self.time.is_none_or(|time| began.elapsed() < time)
                    {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= self.seeds {
                            return;
                        }
                        let seed = self.from + index;
                        let scenario = Scenario::from_seed(seed);
                        *lock(current) = Some((seed, Instant::now()));
                        let (run, violations) = judge(&scenario);
                        *lock(current) = None;
                        {
                            let mut report = lock(report);
                            report.played += 1;
                            report.simulated += run.simulated;
                            progress(report.played);
                        }
                        if !violations.is_empty() {
                            over.store(true, Ordering::Relaxed);
                            let failure =
                                Failure::of(seed, &scenario, violations, self.shrink_runs);
                            lock(report).failures.push(failure);
                        }
                    }
                });
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.took = began.elapsed();
        report
    }
}

/// Looks for runs that spin.
struct Watch {
    /// What each thread plays, and since when.
    current: Vec<Mutex<Option<(u64, Instant)>>>,
    /// Threads that play no more.
    ended: AtomicUsize,
}

impl Watch {
    fn new(jobs: usize) -> Self {
        Self {
            current: (0..jobs).map(|_| Mutex::new(None)).collect(),
            ended: AtomicUsize::new(0),
        }
    }

    /// Watches until all threads have ended; ends the process if a run spins.
    fn run(&self, played: impl Fn() -> u64) {
        while self.ended.load(Ordering::Relaxed) < self.current.len() {
            thread::sleep(LOOK);
            let mut running = self.current.iter().filter_map(|it| *lock(it));
            if let Some((seed, _)) = running.find(|it| it.1.elapsed() > RUN_LIMIT) {
                let violation = Violation {
                    rule: Rule::NothingHangs,
                    message: None,
                    text: format!("the run spins, and no time passes in it: {RUN_LIMIT:?}"),
                };
                println!("seed {seed} breaks rules:\n  {violation}");
                println!("{} seeds, 1 failed", played() + 1);
                process::exit(1);
            }
        }
    }
}

/// A thread that plays no more once this is dropped.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Failure {
    fn of(seed: u64, scenario: &Scenario, violations: Vec<Violation>, runs: usize) -> Self {
        let smallest = shrink(scenario, violations[0].rule, runs);
        let (run, found) = judge(&smallest);
        let message = found.first().and_then(|found| found.message);
        Self {
            seed,
            story: story::tell(&run, message),
            violations,
            smallest,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} breaks rules:", self.seed)?;
        for violation in self.violations.iter().take(5) {
            writeln!(f, "  {violation}")?;
        }
        writeln!(
            f,
            "the smallest scenario that was found:\n{:?}",
            self.smallest
        )?;
        f.write_str(&self.story)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the panics of a scenario's handlers, which are part of it, from being printed.
pub fn silence_scripted_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let scripted = info
                .payload()
                .downcast_ref::<&str>()
                .is_some_and(|text| text.contains("the scenario's handler"));
            if !scripted {
                usual(info);
            }
        }));
    });
}
