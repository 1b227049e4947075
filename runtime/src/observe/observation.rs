//! The timer, gauge and counter around the work on one message.

use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::Instant;

use crate::observe::metrics::TopicMetrics;

/// The timer and the counter of one message. Each is recorded exactly once, last of all,
/// regardless of how the work on it ends, even by an interruption.
pub(crate) struct Observation<'a> {
    topic: &'a TopicMetrics,
    started: Instant,
    ended: Option<Duration>,
    success: bool,
}

impl<'a> Observation<'a> {
    /// Continues a timer that began then.
    pub(crate) fn start(topic: &'a TopicMetrics, began: Instant) -> Self {
        Self {
            topic,
            started: began,
            ended: None,
            success: false,
        }
    }

    /// Records nothing yet, because the work continues later. Returns the time at which it
    /// began.
    pub(crate) fn suspend(self) -> Instant {
        std::mem::ManuallyDrop::new(self).started
    }

    /// Counts the message as active until the guard is dropped.
    pub(crate) fn active(&self) -> Active<'a> {
        self.topic.active.inc();
        Active(&self.topic.active)
    }

    /// Ends the observation with the value of the label `kafka_success`. Returns its duration.
    pub(crate) fn finish(self, success: bool) -> Duration {
        self.finish_at(Instant::now(), success)
    }

    /// Ends the observation at a time that the messages of a batch share.
    pub(crate) fn finish_at(mut self, now: Instant, success: bool) -> Duration {
        let took = now.saturating_duration_since(self.started);
        self.success = success;
        self.ended = Some(took);
        took
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        let outcome = if self.success {
            &self.topic.success
        } else {
            &self.topic.failure
        };
        let took = self.ended.unwrap_or_else(|| self.started.elapsed());
        outcome.time.observe(took.as_secs_f64());
        outcome.count.inc();
    }
}

/// An active message.
pub(crate) struct Active<'a>(&'a IntGauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
