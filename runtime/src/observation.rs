//! The timer, gauge and counter around the work on one message.

use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::Instant;

use crate::metrics::TopicMetrics;

/// The timer and the counter of one message: each is recorded exactly once,
/// last of all, however the work on it ends, even when it is cut short.
pub(crate) struct Observation<'a> {
    topic: &'a TopicMetrics,
    started: Instant,
    ended: Option<Duration>,
    success: bool,
}

impl<'a> Observation<'a> {
    /// Takes the timer on that began then.
    pub(crate) fn start(topic: &'a TopicMetrics, began: Instant) -> Self {
        Self {
            topic,
            started: began,
            ended: None,
            success: false,
        }
    }

    /// Records nothing yet: the work goes on later. When it began.
    pub(crate) fn suspend(self) -> Instant {
        std::mem::ManuallyDrop::new(self).started
    }

    /// Counts the message as active until the guard goes.
    pub(crate) fn active(&self) -> Active<'a> {
        self.topic.active.inc();
        Active(&self.topic.active)
    }

    /// Ends the observation with the value of the label `kafka_success`; how
    /// long it took.
    pub(crate) fn finish(self, success: bool) -> Duration {
        self.finish_at(Instant::now(), success)
    }

    /// The same with the time at which it ended, which those of a batch share.
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

/// A message that is being worked on.
pub(crate) struct Active<'a>(&'a IntGauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
