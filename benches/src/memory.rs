//! Memory of the runtime before a slow handler with a backlog behind it.

use std::env;
use std::time::Duration;

use penstock_tests::process::Program;
use penstock_tests::usage::{self, Memory};
use serde::Serialize;

use crate::bench::BenchError;
use crate::side::Side;
use crate::workload::Topic;

/// Most memory that the runtime may have in RAM, in MB (10⁶ bytes).
pub const GOAL_MB: f64 = 80.0;

/// Samples of one run.
const SAMPLES: u32 = 3;

/// Handlers, each with one message for [`DELAY`].
const HANDLERS: u32 = 64;

/// Milliseconds for one message: with all handlers 3,200 messages a second, so
/// that the backlog stays.
const DELAY: u64 = 20;

/// What was seen with one backlog.
#[derive(Debug, Serialize)]
pub struct MemoryOutcome {
    /// Bytes of the values that were waiting, in MB.
    pub backlog_mb: f64,
    /// Seconds between the samples.
    pub interval: f64,
    /// The samples.
    pub samples: Vec<Memory>,
    /// Whether the peak stayed within [`GOAL_MB`].
    pub met: bool,
}

/// MB of KiB.
pub fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

/// Runs the runtime in a process of its own on a topic and
/// looks at its memory at intervals.
pub async fn watch(
    bootstrap: &str,
    topic: &Topic,
    interval: Duration,
) -> Result<MemoryOutcome, BenchError> {
    let process = Program::new(env::current_exe()?)
        .args(["side", &Side::Slow.name()])
        .args(["--bootstrap", bootstrap, "--topic", &topic.name])
        .arg(format!("--handlers={HANDLERS}"))
        .arg(format!("--delay={DELAY}"))
        .arg(format!("--count={}", topic.count))
        .start()?;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        tokio::time::sleep(interval).await;
        let sample = usage::memory(&process.id().to_string());
        samples.push(sample.ok_or_else(|| BenchError::NoResult {
            side: format!("{:?}", Side::Slow),
            tail: process.tail(),
        })?);
    }
    let peak = samples.iter().map(|sample| sample.peak_kib).max();
    Ok(MemoryOutcome {
        backlog_mb: (topic.count * topic.value_size as u64) as f64 / 1e6,
        interval: interval.as_secs_f64(),
        met: peak.is_some_and(|peak| mb(peak) <= GOAL_MB),
        samples,
    })
}
