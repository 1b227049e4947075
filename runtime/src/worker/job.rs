//! What the pump puts into the queue: a message to be dealt with, or an error in its
//! place.

use std::time::Instant;

use crate::kafka::ConsumeError;
use crate::lanes::Lane;
use crate::observation::Observation;
use crate::queue::Queued;
use crate::record::Record;

/// What the pump puts into the queue.
pub(crate) enum Delivery {
    Message(Job),
    Error(ConsumeError),
}

/// A message on its way to a handler, perhaps not for the first time.
pub(crate) struct Job {
    pub(crate) record: Record,
    /// Ordered by key: where it waits for the messages of its key.
    pub(crate) lane: Option<Lane>,
    /// Attempts that failed so far.
    pub(crate) failed: u32,
    /// When the work on it began, unless it is new.
    pub(crate) began: Option<Instant>,
}

impl Job {
    /// A message that the pump has read. Attempts by earlier owners count.
    pub(crate) fn new(record: Record, lane: Option<Lane>) -> Self {
        Self {
            lane,
            failed: record.assignment().attempts(record.offset()),
            began: None,
            record,
        }
    }

    /// The message after another failed attempt.
    pub(super) fn again(self, began: Instant) -> Self {
        Self {
            failed: self.failed + 1,
            began: Some(began),
            ..self
        }
    }

    /// Leaves the message to whoever is assigned its partition next.
    pub(crate) fn abandon(self) {
        let partition = self.record.assignment();
        if let Some(began) = self.began {
            Observation::start(&partition.topic_metrics, Some(began)).finish(false);
        }
        partition.abandon(self.record.offset());
    }
}

impl Delivery {
    /// Whether it may wait in the queue: its partition is not about to go.
    pub(super) fn is_active(&self) -> bool {
        match self {
            Self::Message(job) => job.record.assignment().is_active(),
            Self::Error(_) => true,
        }
    }

    /// As [`Job::abandon`].
    pub(crate) fn abandon(self) {
        if let Self::Message(job) = self {
            job.abandon();
        }
    }
}

impl Queued for Delivery {
    fn weight(&self) -> usize {
        match self {
            Self::Message(job) => job.record.weight(),
            Self::Error(_) => 0,
        }
    }

    fn lane(&self) -> Option<Lane> {
        match self {
            Self::Message(job) => job.lane,
            Self::Error(_) => None,
        }
    }

    fn hold(&self, held: bool) {
        if let Self::Message(job) = self {
            let weight = job.record.weight();
            job.record.assignment().hold(weight, held);
        }
    }
}
