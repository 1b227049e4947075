//! The rounds of a batch: one attempt at each message that is due, in one call.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::super::settled::Settled;
use super::super::{Ended, Failure, Shared, note_retry, panicked, timed_out};
use super::item::{Batch, Item, State};
use crate::decode::Decoder;
use crate::delivery::Next;
use crate::handler::{BatchHandler, HandlerError};
use crate::produce::Done;
use crate::progress::Busy;

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    /// Attempts until every message has ended, or one ends the consumer.
    pub(super) async fn attempt_all(
        &self,
        batch: &mut Batch<'_, D::Data>,
        settled: &mut Settled,
        busy: &Busy,
    ) -> Result<(), Failure> {
        loop {
            // Nothing is awaited between this and the call: no attempt begins once its
            // partition drains.
            if batch.abandon_draining(self.in_order) {
                self.close_ended(batch, settled).await?;
                continue;
            }
            let now = Instant::now();
            let Some(start) = batch.next_start(self.in_order, now) else {
                return Ok(());
            };
            if start > now {
                self.close_ended(batch, settled).await?;
                tokio::select! {
                    biased;
                    () = batch.when_one_drains() => {}
                    () = tokio::time::sleep_until(start) => {}
                }
                continue;
            }
            batch.start(self.in_order, now);
            let span = batch.span();
            let verdicts = self.call_batch(batch, busy).instrument(span).await;
            self.judge_all(batch, verdicts).await?;
        }
    }

    /// Gives the running messages to the handler, in one call, and returns the verdict on
    /// each. A revocation ends the call only when no verdict on it would count any more;
    /// there are none then.
    async fn call_batch(
        &self,
        batch: &Batch<'_, D::Data>,
        busy: &Busy,
    ) -> Vec<Result<Done, HandlerError>> {
        let messages = batch.messages();
        let keeps_time = self.handler.keeps_time();
        // A handler that keeps the time may be at a batch for longer than one attempt, and
        // says when it gets further.
        let busy = if keeps_time {
            busy.watch()
        } else {
            busy.start()
        };
        let alive = || busy.renew();
        let limit = if keeps_time {
            Duration::MAX
        } else {
            self.timeout
        };
        let call = self.handler.handle_batch_alive(&messages, &alive);
        let call = AssertUnwindSafe(call).catch_unwind();
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(limit, call) => outcome,
            () = batch.when_all_revoked() => return Vec::new(),
        };
        let mut verdicts = match outcome {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(panic)) => vec![Err(panicked(&*panic)); messages.len()],
            Err(_) => vec![Err(timed_out(self.timeout)); messages.len()],
        };
        verdicts.resize_with(messages.len(), || {
            Err(HandlerError::retryable("the handler gave no verdict"))
        });
        verdicts
    }

    /// Takes the verdicts on the running messages. Those on messages of revoked
    /// partitions are void, and in order those behind the first that was not handled.
    async fn judge_all(
        &self,
        batch: &mut Batch<'_, D::Data>,
        verdicts: Vec<Result<Done, HandlerError>>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let (mut is_void, mut failure) = (false, None);
        let mut stopped = HashSet::new();
        let mut verdicts = verdicts.into_iter();
        for item in batch.items.iter_mut().filter(|item| item.is_running()) {
            // There are none if all partitions were revoked.
            let verdict = verdicts.next().map(|verdict| self.accept(verdict));
            let stops = self.in_order && matches!(verdict, Some(Err(_)));
            let Some(verdict) = verdict.filter(|_| !item.is_revoked()) else {
                item.state = State::Ended(Ended::Abandoned);
                // The handler stopped here, although the verdict does not count.
                is_void |= stops;
                continue;
            };
            if is_void {
                item.state = State::Pending { due: now };
                continue;
            }
            if item.lane.is_some_and(|lane| stopped.contains(&lane)) {
                item.state = State::Ended(Ended::Behind);
                continue;
            }
            if self.defers && matches!(&verdict, Err(error) if error.stops_key()) {
                stopped.extend(item.lane);
            }
            if verdict.is_err() && failure.is_some() {
                // The consumer ends; this attempt is cut short, and comes again, as does
                // whatever is behind it.
                stopped.extend(item.lane);
                continue;
            }
            match self.judge(item, verdict, now).await {
                Ok(state) => {
                    is_void = self.in_order && !matches!(state, State::Ended(Ended::Handled(_)));
                    item.state = state;
                }
                Err(failed) if self.in_order => return Err(failed),
                Err(failed) => failure = Some(failed),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Returns the state of a message after a verdict that came `now`.
    async fn judge(
        &self,
        item: &mut Item<'_, D::Data>,
        verdict: Result<Done, HandlerError>,
        now: Instant,
    ) -> Result<State, Failure> {
        let error = match verdict {
            Ok(done) => return Ok(State::Ended(Ended::Handled(done))),
            Err(error) => error,
        };
        let attempt = item.attempts.number();
        match item.attempts.failed(&error) {
            Next::Retry(wait) => {
                note_retry(item.record, attempt, &error, wait);
                Ok(if self.defers {
                    State::Ended(Ended::Deferred(wait))
                } else {
                    State::Pending { due: now + wait }
                })
            }
            Next::GiveUp => {
                let ended = self.give_up(item.record, attempt, &error).await?;
                Ok(State::Ended(ended))
            }
        }
    }
}
