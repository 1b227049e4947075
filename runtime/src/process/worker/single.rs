//! Work on one message at a time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::hand::Hand;
use super::{
    Deferral, Delivery, Ended, Failure, Job, SLOW, Seat, Shared, log_failure, note_repeat,
    note_retry, panicked, report, timed_out,
};
use crate::handler::decode::Decoder;
use crate::handler::produce::Done;
use crate::handler::record::Message;
use crate::handler::{Handler, HandlerError};
use crate::observe::observation::Observation;
use crate::process::delivery::{Attempts, Next};

/// Works until the queue is closed and empty, or a message ends the consumer.
pub(crate) async fn work<D, H>(shared: Arc<Shared<D, H>>, seat: Seat) -> Result<(), Failure>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    let mut hand = shared.hand();
    while let Some(delivery) = hand.next(&seat).await {
        shared
            .process(delivery, &seat, &mut hand)
            .await
            .inspect_err(log_failure)?;
    }
    Ok(())
}

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    /// An empty hand.
    pub(super) fn hand(&self) -> Hand {
        Hand::new(!self.in_order && !self.defers && self.committer.is_none())
    }

    /// Executes baseplate's steps for one message.
    pub(super) async fn process(
        &self,
        delivery: Delivery,
        seat: &Seat,
        hand: &mut Hand,
    ) -> Result<(), Failure> {
        let job = match delivery {
            Delivery::Message(job) => job,
            Delivery::Error(error) => return Err(self.fail(error)),
        };
        if !job.may_begin() {
            // It was taken before the pump removed such messages, and counts as if it had not
            // been.
            self.refuse(job, seat);
            return Ok(());
        }
        let record = &job.record;
        let began = job.began.unwrap_or_else(Instant::now);
        let observation = Observation::start(&record.assignment().topic_metrics, began);
        let span = self.open_span(record);
        let active = observation.active();
        let ended = self.handle(&job, seat, hand).instrument(span).await;
        drop(active);
        if let Ok(Ended::Deferred(Deferral { wait, attempted })) = ended {
            let began = observation.suspend();
            self.defer(job.again(began, attempted), wait, seat);
            return Ok(());
        }
        let took = observation.finish(matches!(ended, Ok(Ended::Handled(_))));
        // With a failure the consumer ends, and the message comes again: later messages of its
        // key wait for it.
        report(record, ended, hand.settled())?;
        hand.close();
        seat.queue.leave(job.lane);
        if took > SLOW {
            hand.pass_on(seat);
        }
        Ok(())
    }

    async fn handle(&self, job: &Job, seat: &Seat, hand: &mut Hand) -> Result<Ended, Failure> {
        let record = &job.record;
        let Some((data, latency)) = self.decode(record) else {
            return Ok(Ended::Invalid);
        };
        let ended = self.attempt(job, &data, seat, hand).await?;
        if matches!(ended, Ended::Abandoned | Ended::Deferred(_)) {
            return Ok(ended);
        }
        if let Some(committer) = &self.committer
            && !committer.commit(record).await?
        {
            return Ok(Ended::Abandoned);
        }
        let partition = record.assignment();
        if let Some(latency) = latency {
            partition.topic_metrics.latency.observe(latency);
        }
        partition.metrics.offset.set(record.offset());
        Ok(ended)
    }

    /// Makes attempts until the message is handled, or settled otherwise.
    async fn attempt(
        &self,
        job: &Job,
        data: &D::Data,
        seat: &Seat,
        hand: &mut Hand,
    ) -> Result<Ended, Failure> {
        let record = &job.record;
        let mut attempts = Attempts::after(&self.policy, job.failed).paused(job.pauses);
        // Each attempt asks, and there is no `await` between this and the call.
        while job.may_begin() {
            let attempt = attempts.number();
            let message = Message {
                record,
                data,
                attempt,
            };
            let outcome = self.call(message, seat, hand).await;
            let error = match outcome.map(|given| self.accept(given)) {
                Some(Ok(done)) => return Ok(Ended::Handled(done)),
                Some(Err(error)) => error,
                None => return Ok(Ended::Abandoned),
            };
            let (wait, attempted) = match attempts.failed(&error) {
                Next::Retry(wait) => {
                    note_retry(record, attempt, &error, wait);
                    (wait, true)
                }
                Next::Repeat(wait) => {
                    note_repeat(record, attempt, &error, wait);
                    (wait, false)
                }
                Next::GiveUp => {
                    hand.pass_on(seat);
                    return self.give_up(record, attempt, &error).await;
                }
            };
            if self.defers {
                return Ok(Ended::Deferred(Deferral { wait, attempted }));
            }
            hand.pass_on(seat);
            tokio::select! {
                biased;
                () = record.assignment().when_draining() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(Ended::Abandoned)
    }

    /// Makes one attempt, at most as long as the timeout. Returns `None` if the partition was
    /// revoked meanwhile, and the attempt dropped.
    async fn call(
        &self,
        message: Message<'_, D::Data>,
        seat: &Seat,
        hand: &mut Hand,
    ) -> Option<Result<Done, HandlerError>> {
        let partition = message.record.assignment();
        // A handler that keeps the time may take longer than an attempt, and reports when it
        // advances.
        let (busy, limit) = match self.handler.keeps_time() {
            true => (seat.busy.watch(), Duration::MAX),
            false => (seat.busy.start(), self.timeout),
        };
        let alive = || busy.renew();
        let call = self.handler.handle_alive(message, &alive);
        let call = AssertUnwindSafe(call).catch_unwind();
        tokio::pin!(call);
        // Most embedded handlers return immediately; only the others need a timer.
        let outcome = match (&mut call).now_or_never() {
            Some(outcome) => {
                hand.was_at_once();
                Ok(outcome)
            }
            None => {
                hand.pass_on(seat);
                tokio::select! {
                    biased;
                    outcome = tokio::time::timeout(limit, call) => outcome,
                    () = partition.when_revoked() => return None,
                }
            }
        };
        if partition.is_revoked() {
            return None;
        }
        Some(match outcome {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(panicked(&*panic)),
            Err(_) => Err(timed_out(self.timeout)),
        })
    }
}
