//! Messages one at a time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tracing::Instrument as _;

use super::{
    Delivery, Ended, Failure, SLOW, Seat, Shared, log_failure, log_retry, panicked, report,
    timed_out,
};
use crate::decode::Decoder;
use crate::delivery::{Attempts, Next};
use crate::handler::{Handler, HandlerError};
use crate::observation::Observation;
use crate::record::{Message, Record};

/// Works until the queue is closed and empty, or a message ends the consumer.
pub(crate) async fn work<D, H>(shared: Arc<Shared<D, H>>, seat: Seat) -> Result<(), Failure>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    while let Some(delivery) = seat.queue.take().await {
        shared
            .process(delivery, &seat)
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
    /// The source's steps for one message.
    pub(crate) async fn process(&self, delivery: Delivery, seat: &Seat) -> Result<(), Failure> {
        let record = match delivery {
            Delivery::Message(record) => record,
            Delivery::Error(error) => return Err(self.fail(error)),
        };
        let observation = Observation::start(&record.assignment().topic_metrics);
        let span = self.open_span(&record);
        let active = observation.active();
        let ended = self.handle(&record, seat).instrument(span).await;
        drop(active);
        let took = observation.finish(matches!(ended, Ok(Ended::Handled)));
        report(&record, &ended);
        if took > SLOW {
            seat.queue.pass_on();
        }
        ended.map(|_| ())
    }

    async fn handle(&self, record: &Record, seat: &Seat) -> Result<Ended, Failure> {
        let Some((data, latency)) = self.decode(record) else {
            return Ok(Ended::Invalid);
        };
        let ended = self.attempt(record, &data, seat).await?;
        if ended == Ended::Abandoned {
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

    /// Attempts until the message is handled or given up.
    async fn attempt(
        &self,
        record: &Record,
        data: &D::Data,
        seat: &Seat,
    ) -> Result<Ended, Failure> {
        let mut attempts = Attempts::new(&self.policy);
        loop {
            let attempt = attempts.number();
            let message = Message {
                record,
                data,
                attempt,
            };
            let outcome = {
                let _busy = seat.busy.start();
                self.call(message, seat).await
            };
            let error = match outcome {
                Some(Ok(())) => return Ok(Ended::Handled),
                Some(Err(error)) => error,
                None => return Ok(Ended::Abandoned),
            };
            match attempts.failed(&error) {
                Next::Retry(wait) => {
                    log_retry(record, attempt, &error, wait);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = record.assignment().when_draining() => return Ok(Ended::Abandoned),
                    }
                }
                Next::GiveUp => return self.give_up(record, attempt, &error).await,
            }
        }
    }

    /// One attempt, at most as long as the timeout. `None`: the partition was
    /// given up meanwhile, and with it the attempt.
    async fn call(
        &self,
        message: Message<'_, D::Data>,
        seat: &Seat,
    ) -> Option<Result<(), HandlerError>> {
        let partition = message.record.assignment();
        let call = AssertUnwindSafe(self.handler.handle(message)).catch_unwind();
        tokio::pin!(call);
        // Most embedded handlers are done at once; only the others need a timer.
        let outcome = match (&mut call).now_or_never() {
            Some(outcome) => Ok(outcome),
            None => {
                seat.queue.pass_on();
                tokio::select! {
                    outcome = tokio::time::timeout(self.timeout, call) => outcome,
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
