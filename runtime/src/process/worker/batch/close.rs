//! The end of the work on the messages of a batch: commit, settle, or return to the queue.

use tokio::time::Instant;
use tracing::Instrument as _;

use super::super::settled::Settled;
use super::super::{Deferral, Delivery, Ended, Failure, Job, Seat, Shared, report};
use super::item::{Batch, Item, State};
use crate::handler::BatchHandler;
use crate::handler::decode::Decoder;

/// A message that has not ended, and returns to the queue.
pub(super) enum Back {
    /// For an attempt after a wait, with the time at which the work on it began.
    Again(Instant, Deferral),
    /// Behind another message of its key, as if it had not been taken.
    Behind,
}

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    /// Closes the messages that have ended and need not wait for the next attempt at the
    /// others. All messages of a draining partition have ended, so that it is released.
    pub(super) async fn close_ended(
        &self,
        batch: &mut Batch<'_, D::Data>,
        settled: &mut Settled,
    ) -> Result<(), Failure> {
        // One commit for the prefix: it waits until no message of the partition is open.
        let whole = self.committer.is_some();
        let ended = batch.take_ended(self.in_order, whole);
        let (_, closed) = self.close_all(ended, batch.partitions(), settled).await;
        closed
    }

    /// Closes messages of this number of partitions. Returns the messages that go back to the
    /// queue, by their indices, and the first failure.
    pub(super) async fn close_all(
        &self,
        items: Vec<Item<'_, D::Data>>,
        partitions: usize,
        settled: &mut Settled,
    ) -> (Vec<(usize, Back)>, Result<(), Failure>) {
        let commits = match self.committer {
            Some(_) => commits(&items, partitions),
            None => vec![false; items.len()],
        };
        let now = Instant::now();
        let (mut back, mut closed) = (Vec::new(), Ok(()));
        for (item, commit) in items.into_iter().zip(commits) {
            let index = item.index;
            match self.close(item, commit, settled, now).await {
                Ok(goes_back) => back.extend(goes_back.map(|how| (index, how))),
                Err(failure) => closed = closed.and(Err(failure)),
            }
        }
        settled.note();
        (back, closed)
    }

    /// Ends the work on a message that was handled by `now`, or pauses it.
    async fn close(
        &self,
        mut item: Item<'_, D::Data>,
        commit: bool,
        settled: &mut Settled,
        now: Instant,
    ) -> Result<Option<Back>, Failure> {
        if commit {
            // The commit covers the earlier messages, which must be settled.
            settled.note();
        }
        // Running and pending messages were interrupted by a failure.
        let ended = match std::mem::replace(&mut item.state, State::Running) {
            State::Ended(ended) => self.conclude(&item, ended, commit).await,
            State::Pending { .. } | State::Running => Ok(Ended::Abandoned),
        };
        let (record, observation) = (item.record, item.observation);
        drop((item.active, item.span));
        match ended {
            Ok(Ended::Deferred(deferral)) => {
                return Ok(Some(Back::Again(observation.suspend(), deferral)));
            }
            Ok(Ended::Behind) => {
                observation.suspend();
                return Ok(Some(Back::Behind));
            }
            _ => {}
        }
        let now = match self.committer {
            // The commit took time.
            Some(_) => Instant::now(),
            None => now,
        };
        observation.finish_at(now, matches!(ended, Ok(Ended::Handled(_))));
        report(record, ended, settled).map(|()| None)
    }

    /// Makes the commit of InOrder mode, then records the latency and the offset.
    async fn conclude(
        &self,
        item: &Item<'_, D::Data>,
        ended: Ended,
        commit: bool,
    ) -> Result<Ended, Failure> {
        if matches!(
            ended,
            Ended::Abandoned | Ended::Invalid | Ended::Deferred(_) | Ended::Behind
        ) {
            return Ok(ended);
        }
        if commit
            && let Some(committer) = &self.committer
            && !committer
                .commit(item.record)
                .instrument(item.span.clone())
                .await?
        {
            return Ok(Ended::Abandoned);
        }
        let partition = item.record.assignment();
        if let Some(latency) = item.latency {
            partition.topic_metrics.latency.observe(latency);
        }
        partition.metrics.offset.set(item.record.offset());
        Ok(ended)
    }

    /// Returns the messages that have not ended to the queue, and releases the lanes of the
    /// others.
    pub(super) fn let_go(&self, jobs: Vec<Job>, back: Vec<(usize, Back)>, seat: &Seat) {
        let (mut behind, mut again, mut lanes) = (Vec::new(), Vec::new(), Vec::new());
        for (job, back) in each(jobs, back) {
            match back {
                Some(Back::Again(began, Deferral { wait, attempted })) => {
                    again.push((job.again(began, attempted), wait));
                }
                Some(Back::Behind) => behind.push(Delivery::Message(job)),
                None => lanes.extend(job.lane),
            }
        }
        // First, while the messages in front of them keep their lanes.
        let refused = seat.queue.take_back(behind, Delivery::may_begin);
        refused.into_iter().for_each(Delivery::abandon);
        seat.queue.leave(lanes);
        for (job, wait) in again {
            self.defer(job, wait, seat);
        }
        if self.defers {
            // The worker that gathers may sleep, and this one must wait for its turn.
            seat.queue.pass_on();
        }
    }
}

/// Returns each message of a batch, and how it returns to the queue, if it does; `back` has
/// indices in rising order.
fn each(jobs: Vec<Job>, back: Vec<(usize, Back)>) -> impl Iterator<Item = (Job, Option<Back>)> {
    let mut back = back.into_iter().peekable();
    jobs.into_iter().enumerate().map(move |(index, job)| {
        let back = back.next_if(|(of, _)| *of == index);
        (job, back.map(|(_, how)| how))
    })
}

/// Leaves the messages that have not ended to the next owners of their partitions.
pub(super) fn abandon(jobs: Vec<Job>, back: Vec<(usize, Back)>) {
    for (job, back) in each(jobs, back) {
        match back {
            Some(Back::Again(began, it)) => job.again(began, it.attempted).abandon(),
            Some(Back::Behind) => job.abandon(),
            None => {}
        }
    }
}

/// Returns for each message `true` if it is the last handled or given-up message of its
/// partition: its commit covers the earlier ones.
fn commits<T>(items: &[Item<'_, T>], partitions: usize) -> Vec<bool> {
    let mut seen = vec![false; partitions];
    let mut commits = vec![false; items.len()];
    for (item, commit) in items.iter().zip(&mut commits).rev() {
        if matches!(
            item.state,
            State::Ended(Ended::Handled(_) | Ended::GivenUp(_))
        ) {
            *commit = !std::mem::replace(&mut seen[item.partition], true);
        }
    }
    commits
}
