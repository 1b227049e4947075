//! Counting messages, and what they cost between the first and the last.

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_tests::usage::{self, field};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// What one side needed for its messages. Written as JSON by the process that ran
/// the side, and read by the one that compares.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// Messages after the first, up to the last.
    pub messages: u64,
    /// Time between the first and the last.
    pub seconds: f64,
    /// CPU time of the process in between.
    pub cpu_seconds: f64,
    /// Context switches of its threads in between; absent where not counted.
    pub switches: Option<u64>,
    /// Most memory that the process had in RAM, in KiB.
    pub peak_rss_kib: u64,
}

impl Measure {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// CPU time for a message, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.messages as f64
    }
}

/// Whose cost is counted.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// This process.
    Own,
    /// The processes of a group, by the group's id. Their CPU time comes in hundredths
    /// of a second.
    Group(u32),
}

impl Subject {
    fn processes(self) -> Vec<String> {
        match self {
            Self::Own => vec!["self".into()],
            Self::Group(id) => usage::group(id),
        }
    }

    fn cpu(self) -> Duration {
        match self {
            Self::Own => {
                let cpu = clock_gettime(ClockId::ProcessCPUTime);
                Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32)
            }
            Self::Group(_) => {
                let processes = self.processes();
                processes.iter().filter_map(|id| usage::cpu(id)).sum()
            }
        }
    }

    fn peak_kib(self) -> u64 {
        let processes = self.processes();
        let memory = processes.iter().filter_map(|id| usage::memory(id));
        memory.map(|memory| memory.peak_kib).sum()
    }
}

/// Counts messages up to a number. Costs one atomic addition a message, on every
/// side alike.
pub struct Meter {
    target: u64,
    subject: Subject,
    seen: AtomicU64,
    first: OnceLock<Snapshot>,
    last: OnceLock<Snapshot>,
    done: CancellationToken,
}

struct Snapshot {
    seen: u64,
    at: Instant,
    cpu: Duration,
    switches: u64,
}

impl Snapshot {
    fn take(subject: Subject, seen: u64) -> Self {
        Self {
            seen,
            at: Instant::now(),
            cpu: subject.cpu(),
            switches: subject.processes().iter().map(|id| switches(id)).sum(),
        }
    }
}

impl Meter {
    /// A meter of this process that ends at `target` messages, at least 2.
    pub fn new(target: u64) -> Self {
        Self::of(Subject::Own, target)
    }

    /// A meter of other processes.
    pub fn of(subject: Subject, target: u64) -> Self {
        Self {
            target: target.max(2),
            subject,
            seen: AtomicU64::new(0),
            first: OnceLock::new(),
            last: OnceLock::new(),
            done: CancellationToken::new(),
        }
    }

    /// Counts a message. `false`: that was the last to be counted, or one more.
    pub fn count(&self) -> bool {
        self.count_many(1)
    }

    /// Counts messages that came together; where they are the first, the time begins
    /// after them all.
    pub fn count_many(&self, messages: u64) -> bool {
        let before = self.seen.fetch_add(messages, Ordering::Relaxed);
        let seen = before + messages;
        if before == 0 {
            self.first
                .get_or_init(|| Snapshot::take(self.subject, seen));
        } else if before < self.target && seen >= self.target {
            self.last.get_or_init(|| Snapshot::take(self.subject, seen));
            self.done.cancel();
        }
        seen < self.target
    }

    /// Cancelled at the last message.
    pub fn done(&self) -> CancellationToken {
        self.done.clone()
    }

    /// The result; nothing before the last message. The processes must still run.
    pub fn measure(&self) -> Option<Measure> {
        let (first, last) = (self.first.get()?, self.last.get()?);
        Some(Measure {
            messages: last.seen - first.seen,
            seconds: last.at.duration_since(first.at).as_secs_f64(),
            cpu_seconds: last.cpu.saturating_sub(first.cpu).as_secs_f64(),
            switches: Some(last.switches.saturating_sub(first.switches)),
            peak_rss_kib: self.subject.peak_kib(),
        })
    }
}

/// Context switches of all threads of a process.
fn switches(process: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten();
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .map(|status| {
            field(&status, "voluntary_ctxt_switches").unwrap_or(0)
                + field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use penstock_tests::process::Program;

    use super::*;

    #[test]
    fn the_meter_ends_at_its_target() {
        let meter = Meter::new(3);
        assert!(meter.count());
        assert!(meter.count());
        assert!(meter.measure().is_none());
        assert!(!meter.count());
        assert!(meter.done().is_cancelled());
        let measure = meter.measure().unwrap();
        assert_eq!(measure.messages, 2);
        assert!(measure.seconds > 0.0 && measure.peak_rss_kib > 0);
    }

    #[test]
    fn messages_that_come_together_are_counted_after_the_first_of_them() {
        let meter = Meter::new(25);
        assert!(meter.count_many(10));
        assert!(meter.count_many(10));
        assert!(!meter.count_many(10));
        assert_eq!(meter.measure().unwrap().messages, 20);
    }

    #[test]
    fn other_processes_are_measured_together() {
        let script = "sleep 60 & while :; do :; done";
        let process = Program::new("sh").args(["-c", script]).start().unwrap();
        let subject = Subject::Group(process.id());
        let meter = Meter::of(subject, 2);
        meter.count();
        let before = subject.cpu();
        while subject.processes().len() < 2 || subject.cpu() == before {
            assert_eq!(process.status(), None);
        }
        meter.count();
        let measure = meter.measure().unwrap();
        assert!(measure.cpu_seconds > 0.0, "{measure:?}");
        assert!(measure.peak_rss_kib > 0, "{measure:?}");
    }
}
