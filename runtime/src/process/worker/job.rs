//! The items of the queue: messages, and errors in their place.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::group::partition::Partition;
use crate::handler::record::Record;
use crate::kafka::ConsumeError;
use crate::observe::observation::Observation;
use crate::queue::Queued;
use crate::queue::lane::Lane;

/// An item of the queue.
pub(crate) enum Delivery {
    Message(Job),
    Error(ConsumeError),
}

/// A message for a handler, perhaps not for the first time.
pub(crate) struct Job {
    pub(crate) record: Record,
    /// The lane in which it waits for the messages of its key, if these are ordered.
    pub(crate) lane: Option<Lane>,
    /// The number of failed attempts.
    pub(crate) failed: u32,
    /// The number of pauses since then, in which no attempt was made.
    pub(crate) pauses: u32,
    /// The time at which the work on it began, unless it is new.
    pub(crate) began: Option<Instant>,
}

impl Job {
    /// Creates a job from a message that the pump has read; see [`arrive`].
    pub(crate) fn new(record: Record, lane: Option<Lane>) -> Self {
        Self {
            lane,
            failed: 0,
            pauses: 0,
            began: None,
            record,
        }
    }

    /// Returns the job after a failed attempt, or after one that was not made.
    pub(super) fn again(self, began: Instant, attempted: bool) -> Self {
        let (failed, pauses) = match attempted {
            true => (self.failed + 1, 0),
            false => (self.failed, self.pauses.saturating_add(1)),
        };
        Self {
            failed,
            pauses,
            began: Some(began),
            ..self
        }
    }

    /// Returns `true` if an attempt may begin. If not, the job must not wait in the queue
    /// either.
    pub(super) fn may_begin(&self) -> bool {
        self.record.assignment().may_begin()
    }

    /// Leaves the message to the next owner of its partition.
    pub(crate) fn abandon(self) {
        let partition = self.record.assignment();
        if let Some(began) = self.began {
            Observation::start(&partition.topic_metrics, began).finish(false);
        }
        partition.abandon(self.record.offset());
    }
}

impl Delivery {
    /// Returns `true` if an attempt may begin, as [`Job::may_begin`] does.
    pub(super) fn may_begin(&self) -> bool {
        match self {
            Self::Message(job) => job.may_begin(),
            Self::Error(_) => true,
        }
    }

    fn partition(&self) -> Option<&Arc<Partition>> {
        match self {
            Self::Message(job) => Some(job.record.assignment()),
            Self::Error(_) => None,
        }
    }

    fn job(&mut self) -> Option<&mut Job> {
        match self {
            Self::Message(job) => Some(job),
            Self::Error(_) => None,
        }
    }

    /// Leaves a message to the next owner, as [`Job::abandon`] does.
    pub(crate) fn abandon(self) {
        if let Self::Message(job) = self {
            job.abandon();
        }
    }
}

/// Notes messages that were just read with their partitions: those of a run under one lock.
/// Messages that an earlier owner handled are dropped, and its attempts count.
pub(crate) fn arrive(read: &mut VecDeque<Delivery>) {
    let (mut handled, mut place) = (Vec::new(), 0);
    let (front, back) = read.as_mut_slices();
    let runs = front
        .chunk_by_mut(are_of_one_partition)
        .chain(back.chunk_by_mut(are_of_one_partition));
    for run in runs {
        if let Some(partition) = run[0].partition().cloned() {
            let jobs = run.iter_mut().filter_map(Delivery::job);
            let already = partition.deliver(jobs.map(|job| {
                let (offset, time) = (job.record.offset(), job.record.timestamp());
                (offset, time, &mut job.failed)
            }));
            handled.extend(already.into_iter().map(|at| place + at));
        }
        place += run.len();
    }
    if !handled.is_empty() {
        let mut place = 0..;
        read.retain(|_| {
            let place = place.next();
            place.is_some_and(|place| handled.binary_search(&place).is_err())
        });
    }
}

fn are_of_one_partition(one: &Delivery, other: &Delivery) -> bool {
    let partitions = one.partition().zip(other.partition());
    partitions.is_some_and(|(one, other)| Arc::ptr_eq(one, other))
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
