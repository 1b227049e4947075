//! The rounds of a batch: one attempt at each message that is due, in one call.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::super::settled::Settled;
use super::super::{
    Deferral, Ended, Failure, Shared, note_repeat, note_retry, panicked, timed_out,
};
use super::item::{Batch, Item, State};
use crate::handler::decode::Decoder;
use crate::handler::produce::Done;
use crate::handler::{BatchHandler, HandlerError};
use crate::observe::progress::Busy;
use crate::process::delivery::Next;

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    /// Makes attempts until every message has ended, or one ends the consumer.
    pub(super) async fn attempt_all(
        &self,
        batch: &mut Batch<'_, D::Data>,
        settled: &mut Settled,
        busy: &Busy,
    ) -> Result<(), Failure> {
        loop {
            // There is no `await` between this and the call: no attempt begins once its
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

    /// Calls the handler with the running messages, and returns the verdict on each. A
    /// revocation ends the call only if no verdict would count any more; then there are none.
    async fn call_batch(&self, batch: &Batch<'_, D::Data>, busy: &Busy) -> Vec<Verdict> {
        let messages = batch.messages();
        let keeps_time = self.handler.keeps_time();
        // A handler that keeps the time may take longer for a batch than for one attempt, and
        // reports when it advances.
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
        let (verdicts, missing) = match outcome {
            Ok(Ok(verdicts)) => {
                let missing = HandlerError::retryable("the handler gave no verdict");
                (verdicts, missing)
            }
            Ok(Err(panic)) => (Vec::new(), panicked(&*panic)),
            Err(_) => (Vec::new(), timed_out(self.timeout)),
        };
        let given = verdicts.into_iter().map(Verdict::Given);
        let missing = std::iter::repeat_with(|| Verdict::Missing(missing.clone()));
        given.chain(missing).take(messages.len()).collect()
    }

    /// Takes the verdicts on the running messages. Verdicts on messages of revoked partitions
    /// are void, and so are, in InOrder mode, verdicts after the first message that was neither
    /// handled nor skipped.
    async fn judge_all(
        &self,
        batch: &mut Batch<'_, D::Data>,
        verdicts: Vec<Verdict>,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let (mut is_void, mut has_stopped, mut failure) = (false, false, None);
        let mut stopped = HashSet::new();
        let mut verdicts = verdicts.into_iter();
        for item in batch.items.iter_mut().filter(|item| item.is_running()) {
            // There are none if all partitions were revoked.
            let verdict = verdicts.next();
            let is_missing = matches!(verdict, Some(Verdict::Missing(_)));
            let verdict = verdict.map(|verdict| self.accept(verdict.into_result()));
            let stops = self.in_order && matches!(verdict, Some(Err(_)));
            let Some(verdict) = verdict.filter(|_| !item.is_revoked()) else {
                item.state = State::Ended(Ended::Abandoned);
                has_stopped |= stops;
                continue;
            };
            // A handler that stopped at a message returned no verdict on later ones, even if
            // its own verdict does not count.
            if is_void || (is_missing && has_stopped) {
                item.state = State::Pending { due: now };
                continue;
            }
            if item.lane.is_some_and(|lane| stopped.contains(&lane)) {
                item.state = State::Ended(Ended::Behind);
                continue;
            }
            let continues = match &verdict {
                Ok(_) => true,
                Err(error) => !error.stops_key(),
            };
            if self.defers && !continues {
                stopped.extend(item.lane);
            }
            if !continues && failure.is_some() {
                // The consumer ends; this attempt is interrupted, and comes again.
                continue;
            }
            match self.judge(item, verdict, now).await {
                Ok(state) => {
                    is_void = self.in_order && !continues;
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
                Ok(self.wait_for_attempt(now, wait, true))
            }
            Next::Repeat(wait) => {
                note_repeat(item.record, attempt, &error, wait);
                Ok(self.wait_for_attempt(now, wait, false))
            }
            Next::GiveUp => {
                let ended = self.give_up(item.record, attempt, &error).await?;
                Ok(State::Ended(ended))
            }
        }
    }

    fn wait_for_attempt(&self, now: Instant, wait: Duration, attempted: bool) -> State {
        match self.defers {
            true => State::Ended(Ended::Deferred(Deferral { wait, attempted })),
            false => State::Pending { due: now + wait },
        }
    }
}

/// The result of a call for one message.
enum Verdict {
    /// The handler's verdict.
    Given(Result<Done, HandlerError>),
    /// The verdict is missing, for this reason.
    Missing(HandlerError),
}

impl Verdict {
    fn into_result(self) -> Result<Done, HandlerError> {
        match self {
            Self::Given(verdict) => verdict,
            Self::Missing(reason) => Err(reason),
        }
    }
}
