//! Counting messages, and what they cost between the first and the last.

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_tests::usage::{field, memory};
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

/// Counts messages up to a number. Costs one atomic addition a message, on every
/// side alike.
pub struct Meter {
    target: u64,
    seen: AtomicU64,
    first: OnceLock<Snapshot>,
    last: OnceLock<Snapshot>,
    done: CancellationToken,
}

struct Snapshot {
    at: Instant,
    cpu: Duration,
    switches: u64,
}

impl Snapshot {
    fn take() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            at: Instant::now(),
            cpu: Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32),
            switches: switches(),
        }
    }
}

impl Meter {
    /// A meter that ends at `target` messages, at least 2.
    pub fn new(target: u64) -> Self {
        Self {
            target: target.max(2),
            seen: AtomicU64::new(0),
            first: OnceLock::new(),
            last: OnceLock::new(),
            done: CancellationToken::new(),
        }
    }

    /// Counts a message. `false`: that was the last to be counted, or one more.
    pub fn count(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == 1 {
            self.first.get_or_init(Snapshot::take);
        } else if seen == self.target {
            self.last.get_or_init(Snapshot::take);
            self.done.cancel();
        }
        seen < self.target
    }

    /// Cancelled at the last message.
    pub fn done(&self) -> CancellationToken {
        self.done.clone()
    }

    /// The result; nothing before the last message.
    pub fn measure(&self) -> Option<Measure> {
        let (first, last) = (self.first.get()?, self.last.get()?);
        Some(Measure {
            messages: self.target - 1,
            seconds: last.at.duration_since(first.at).as_secs_f64(),
            cpu_seconds: last.cpu.saturating_sub(first.cpu).as_secs_f64(),
            switches: Some(last.switches.saturating_sub(first.switches)),
            peak_rss_kib: memory("self").map_or(0, |memory| memory.peak_kib),
        })
    }
}

/// Context switches of all threads of this process.
fn switches() -> u64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
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
}
