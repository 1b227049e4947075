//! Messages several at a time, for handlers that gain by it.
//!
//! Each message has its own timer, gauge, attempts and verdict, as if it came
//! alone. In order, a verdict after a failed one does not count: those messages
//! are given again behind it. So it is with those of one key, where a batch has several.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::gather::AtWork;
use super::settled::Settled;
use super::{
    Delivery, Ended, Failure, Job, Seat, Shared, log_failure, note_retry, panicked, report,
    timed_out,
};
use crate::decode::Decoder;
use crate::delivery::{Attempts, Next};
use crate::handler::{BatchHandler, HandlerError};
use crate::lanes::Lane;
use crate::observation::{Active, Observation};
use crate::partition::Partition;
use crate::produce::Done;
use crate::progress::Busy;
use crate::record::{Message, Record};

/// Works until the queue is closed and empty, or a message ends the consumer.
/// Takes what waits, at most `most` messages, each time.
pub(crate) async fn work_in_batches<D, H>(
    shared: Arc<Shared<D, H>>,
    seat: Seat,
    most: usize,
) -> Result<(), Failure>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    while let Some((deliveries, _at_work)) = shared.next_batch(&seat, most).await {
        shared
            .process_batch(deliveries, &seat)
            .await
            .inspect_err(log_failure)?;
    }
    Ok(())
}

/// One message of a batch.
struct Item<'a, T> {
    record: &'a Record,
    lane: Option<Lane>,
    observation: Observation<'a>,
    active: Active<'a>,
    span: Span,
    data: Option<T>,
    latency: Option<f64>,
    attempts: Attempts<'a>,
    ended: Option<Ended>,
}

/// A message that has not ended, and goes back to the queue.
enum Back {
    /// For another attempt, after a wait; since when it is at work.
    Again(Instant, Duration),
    /// Behind another of its key, as if it had not been taken.
    Behind,
}

/// A message that failed and is tried again, or ends the consumer.
enum Verdict {
    Wait(Duration),
    Ended(Ended),
    Failed(Failure),
}

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    /// What is to be handled next; `None` once the queue is closed and empty.
    async fn next_batch(
        &self,
        seat: &Seat,
        most: usize,
    ) -> Option<(Vec<Delivery>, Option<AtWork<'_>>)> {
        if self.defers {
            let runs = self.handler.keeps_key_order();
            let (deliveries, at_work) = self.gathering.gather(seat, most, runs).await?;
            return Some((deliveries, Some(at_work)));
        }
        let mut deliveries = vec![seat.queue.take().await?];
        seat.queue
            .take_more(most.saturating_sub(1), &mut deliveries);
        seat.queue.pass_on();
        Some((deliveries, None))
    }

    /// The source's steps for several messages.
    pub(crate) async fn process_batch(
        &self,
        deliveries: Vec<Delivery>,
        seat: &Seat,
    ) -> Result<(), Failure> {
        let (mut jobs, mut error) = (Vec::with_capacity(deliveries.len()), None);
        for delivery in deliveries {
            match delivery {
                Delivery::Message(job) => jobs.push(job),
                Delivery::Error(failed) => error = error.or(Some(failed)),
            }
        }
        let now = Instant::now();
        let mut items: Vec<_> = jobs.iter().map(|job| self.open(job, now)).collect();
        let mut settled = Settled::default();
        let attempted = self.attempt_all(&mut items, &mut settled, &seat.busy).await;
        let mut failure = attempted.err();
        let commits = match self.committer {
            Some(_) => commits(&items),
            None => vec![false; items.len()],
        };
        let now = Instant::now();
        let mut back = Vec::new();
        for (place, (item, commit)) in items.into_iter().zip(commits).enumerate() {
            match self.close(item, commit, &mut settled, now).await {
                Ok(goes_back) => back.extend(goes_back.map(|how| (place, how))),
                Err(failed) => failure = failure.or(Some(failed)),
            }
        }
        settled.note();
        if let Some(failure) = failure {
            // The consumer ends, and what was cut short comes again: no lane is left, as
            // those behind it come only then.
            abandon(jobs, back);
            return Err(failure);
        }
        self.let_go(jobs, back, seat);
        match error {
            Some(error) => Err(self.fail(error)),
            None => Ok(()),
        }
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
            // It says that those before it are done with.
            settled.note();
        }
        // What has not ended was cut short by a failure.
        let ended = match item.ended.take() {
            Some(ended) => self.conclude(&item, ended, commit).await,
            None => Ok(Ended::Abandoned),
        };
        let (record, observation) = (item.record, item.observation);
        drop((item.active, item.span));
        match ended {
            Ok(Ended::Deferred(wait)) => {
                return Ok(Some(Back::Again(observation.suspend(), wait)));
            }
            Ok(Ended::Behind) => {
                observation.suspend();
                return Ok(Some(Back::Behind));
            }
            _ => {}
        }
        let now = match self.committer {
            // A commit takes time of its own.
            Some(_) => Instant::now(),
            None => now,
        };
        observation.finish_at(now, matches!(ended, Ok(Ended::Handled(_))));
        report(record, ended, settled).map(|()| None)
    }

    /// Takes those that have not ended back into the queue; lets the others' lanes go.
    fn let_go(&self, jobs: Vec<Job>, back: Vec<(usize, Back)>, seat: &Seat) {
        let (mut behind, mut again, mut lanes) = (Vec::new(), Vec::new(), Vec::new());
        for (job, back) in each(jobs, back) {
            match back {
                Some(Back::Again(began, wait)) => again.push((job.again(began), wait)),
                Some(Back::Behind) => behind.push(Delivery::Message(job)),
                None => lanes.extend(job.lane),
            }
        }
        // First, while those that they are behind keep their lanes.
        let refused = seat.queue.take_back(behind, Delivery::is_active);
        refused.into_iter().for_each(Delivery::abandon);
        seat.queue.leave(lanes);
        for (job, wait) in again {
            self.defer(job, wait, seat);
        }
        if self.defers {
            // Whoever gathers may sleep, and this handler must wait for its turn.
            seat.queue.pass_on();
        }
    }

    /// Begins a message `now`, unless it was begun before.
    fn open<'a>(&'a self, job: &'a Job, now: Instant) -> Item<'a, D::Data> {
        let record = &job.record;
        let began = job.began.unwrap_or(now);
        let observation = Observation::start(&record.assignment().topic_metrics, began);
        let span = self.open_span(record);
        let active = observation.active();
        let decoded = span.in_scope(|| self.decode(record));
        let ended = decoded.is_none().then_some(Ended::Invalid);
        let (data, latency) = decoded.unzip();
        Item {
            record,
            lane: job.lane,
            observation,
            active,
            span,
            data,
            latency: latency.flatten(),
            attempts: Attempts::after(&self.policy, job.failed),
            ended,
        }
    }

    /// Attempts until every message has ended, or one ends the consumer.
    async fn attempt_all(
        &self,
        items: &mut Vec<Item<'_, D::Data>>,
        settled: &mut Settled,
        busy: &Busy,
    ) -> Result<(), Failure> {
        while let Some(first) = items.iter().position(|item| item.ended.is_none()) {
            let verdicts = {
                // A handler that keeps the time itself may be at a batch for longer than one
                // attempt, and says when it gets further.
                let busy = match self.handler.keeps_time() {
                    true => busy.watch(),
                    false => busy.start(),
                };
                let span = items[first].span.clone();
                self.call_batch(items, &|| busy.renew())
                    .instrument(span)
                    .await
            };
            for item in items.iter_mut().filter(|item| item.ended.is_none()) {
                if item.record.assignment().is_revoked() {
                    item.ended = Some(Ended::Abandoned);
                }
            }
            let mut wait = Duration::ZERO;
            let mut stopped = HashSet::new();
            for (place, verdict) in verdicts {
                let item = &mut items[place];
                item.fall_behind(&stopped);
                if let Err(error) = &verdict
                    && self.defers
                    && error.stops_key()
                {
                    stopped.extend(item.lane);
                }
                if item.ended.is_some() {
                    continue;
                }
                match self.judge(item, verdict).await {
                    Verdict::Ended(ended) => {
                        let given_up = matches!(ended, Ended::GivenUp(_));
                        item.ended = Some(ended);
                        if given_up && self.in_order {
                            break;
                        }
                    }
                    Verdict::Failed(failure) => return Err(failure),
                    Verdict::Wait(time) if self.defers => {
                        item.ended = Some(Ended::Deferred(time));
                    }
                    Verdict::Wait(time) => {
                        wait = wait.max(time);
                        if self.in_order {
                            break;
                        }
                    }
                }
            }
            if !wait.is_zero() {
                if self.committer.is_none() {
                    // What is done with need not wait for the others.
                    let now = Instant::now();
                    for item in items.extract_if(.., |item| item.ended.is_some()) {
                        self.close(item, false, settled, now).await?;
                    }
                    settled.note();
                }
                self.wait(items, wait).await;
            }
        }
        Ok(())
    }

    async fn judge(
        &self,
        item: &mut Item<'_, D::Data>,
        verdict: Result<Done, HandlerError>,
    ) -> Verdict {
        let error = match self.accept(verdict) {
            Ok(done) => return Verdict::Ended(Ended::Handled(done)),
            Err(error) => error,
        };
        let attempt = item.attempts.number();
        match item.attempts.failed(&error) {
            Next::Retry(wait) => {
                note_retry(item.record, attempt, &error, wait);
                Verdict::Wait(wait)
            }
            Next::GiveUp => match self.give_up(item.record, attempt, &error).await {
                Ok(ended) => Verdict::Ended(ended),
                Err(failure) => Verdict::Failed(failure),
            },
        }
    }

    /// One call for all messages that have not ended: the place of each and its
    /// verdict. None at all if a partition was given up meanwhile; the messages
    /// of the others are then given again, at the same attempt.
    async fn call_batch(
        &self,
        items: &[Item<'_, D::Data>],
        alive: &(dyn Fn() + Sync),
    ) -> Vec<(usize, Result<Done, HandlerError>)> {
        let (mut places, mut messages) = (Vec::new(), Vec::new());
        for (place, item) in items.iter().enumerate() {
            if let (None, Some(data)) = (&item.ended, &item.data) {
                places.push(place);
                messages.push(Message {
                    record: item.record,
                    data,
                    attempt: item.attempts.number(),
                });
            }
        }
        let call =
            AssertUnwindSafe(self.handler.handle_batch_alive(&messages, alive)).catch_unwind();
        let limit = match self.handler.keeps_time() {
            true => Duration::MAX,
            false => self.timeout,
        };
        let mut partitions: Vec<_> = places
            .iter()
            .map(|place| items[*place].record.assignment())
            .collect();
        partitions.sort_unstable_by_key(|partition| Arc::as_ptr(partition));
        partitions.dedup_by_key(|partition| Arc::as_ptr(partition));
        let revoked = partitions
            .iter()
            .map(|partition| Box::pin(partition.when_revoked()));
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(limit, call) => outcome,
            _ = select_all(revoked) => return Vec::new(),
        };
        let mut verdicts = match outcome {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(panic)) => vec![Err(panicked(&*panic)); places.len()],
            Err(_) => vec![Err(timed_out(self.timeout)); places.len()],
        };
        verdicts.resize_with(places.len(), || {
            Err(HandlerError::retryable("the handler gave no verdict"))
        });
        places.into_iter().zip(verdicts).collect()
    }

    /// Waits before the next attempt; ends those whose partition is about to go.
    async fn wait(&self, items: &mut [Item<'_, D::Data>], wait: Duration) {
        let mut open: Vec<_> = items
            .iter_mut()
            .filter(|item| item.ended.is_none())
            .collect();
        let draining = select_all(
            open.iter()
                .map(|item| Box::pin(item.record.assignment().when_draining())),
        );
        let drained = tokio::select! {
            () = tokio::time::sleep(wait) => None,
            ((), first, _) = draining => Some(first),
        };
        if let Some(first) = drained {
            open[first].ended = Some(Ended::Abandoned);
        }
    }

    /// The commit in order, then the latency and the offset.
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
}

impl<T> Item<'_, T> {
    /// Goes back if its key was stopped before it: its verdict does not count.
    fn fall_behind(&mut self, stopped: &HashSet<Lane>) {
        let is_behind = || self.lane.is_some_and(|lane| stopped.contains(&lane));
        if self.ended.is_none() && is_behind() {
            self.ended = Some(Ended::Behind);
        }
    }
}

/// Each message of a batch, and how it goes back, if it does; `back` names places in order.
fn each(jobs: Vec<Job>, back: Vec<(usize, Back)>) -> impl Iterator<Item = (Job, Option<Back>)> {
    let mut back = back.into_iter().peekable();
    jobs.into_iter().enumerate().map(move |(place, job)| {
        let back = back.next_if(|(of, _)| *of == place);
        (job, back.map(|(_, how)| how))
    })
}

/// Leaves those that have not ended to whoever is assigned their partitions next.
fn abandon(jobs: Vec<Job>, back: Vec<(usize, Back)>) {
    for (job, back) in each(jobs, back) {
        match back {
            Some(Back::Again(began, _)) => job.again(began).abandon(),
            Some(Back::Behind) => job.abandon(),
            None => {}
        }
    }
}

/// For each message whether it is the last of its partition that was dealt
/// with: committing that one commits those before it.
fn commits<T>(items: &[Item<'_, T>]) -> Vec<bool> {
    let mut seen: Vec<*const Partition> = Vec::new();
    let mut last: Vec<_> = items
        .iter()
        .rev()
        .map(|item| {
            let partition = Arc::as_ptr(item.record.assignment());
            let done = matches!(item.ended, Some(Ended::Handled(_) | Ended::GivenUp(_)));
            let last = done && !seen.contains(&partition);
            if last {
                seen.push(partition);
            }
            last
        })
        .collect();
    last.reverse();
    last
}
