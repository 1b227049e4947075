//! Work on several messages at a time, for handlers that profit from it.
//!
//! Each message has its own timer, gauge, attempts and verdict, as if it were alone. A batch
//! runs rounds until every message of it has ended:
//!
//! ```text
//!              the round starts              done, skipped, given up,
//!              and the partition             deferred, behind in its key
//! Pending{due} ────────────────► Running ──────────────────────────────► Ended
//!   │      ▲                      │  │                                    ▲
//!   │      │  failed: due after   │  │  the partition was revoked         │
//!   │      │  the back-off; or    │  └────────────────► Abandoned ────────┤
//!   │      └── the verdict is ────┘                                       │
//!   │          void (InOrder)                                             │
//!   │  the partition drains, before a round or in the wait for it         │
//!   └────────────────────────────────────► Abandoned ─────────────────────┘
//! ```
//!
//! - [`round`] makes the attempts. Only there a message begins to run, and it asks
//!   [`Partition::may_begin`](crate::group::partition::Partition::may_begin) right before that, in
//!   each round.
//! - [`item`] has the states, and the time of the next round.
//! - [`close`] commits, settles or abandons ended messages, and returns the others to the
//!   queue.
//!
//! In InOrder mode a verdict after a failed one is void: these messages are delivered again
//! after it, and when it is abandoned, all later messages of its partition are. In KeyOrdered
//! mode the same holds for the messages with one key, if a batch has several.

mod close;
mod item;
mod round;

use std::sync::Arc;

use tokio::time::Instant;

use super::gather::AtWork;
use super::settled::Settled;
use super::{Delivery, Failure, Job, Seat, Shared, log_failure};
use crate::handler::BatchHandler;
use crate::handler::decode::Decoder;
use crate::kafka::ConsumeError;
use item::Batch;

/// Works until the queue is closed and empty, or a message ends the consumer. Takes the waiting
/// messages, at most `most`, each time.
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

impl<D, H> Shared<D, H>
where
    D: Decoder,
    H: BatchHandler<D::Data>,
{
    /// Returns the next messages to handle, or `None` once the queue is closed and empty.
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

    /// Executes baseplate's steps for several messages.
    pub(crate) async fn process_batch(
        &self,
        deliveries: Vec<Delivery>,
        seat: &Seat,
    ) -> Result<(), Failure> {
        let (jobs, error) = self.sort_out(deliveries, seat);
        let mut batch = Batch::new();
        let now = Instant::now();
        for job in &jobs {
            batch.push(job, |index| self.open(job, index, now));
        }
        let mut settled = Settled::default();
        let attempted = self.attempt_all(&mut batch, &mut settled, &seat.busy).await;
        let partitions = batch.partitions();
        let (back, closed) = self
            .close_all(batch.into_items(), partitions, &mut settled)
            .await;
        if let Err(failure) = attempted.and(closed) {
            // The consumer ends, and interrupted messages come again. They leave no lane, as
            // later messages must come after them.
            close::abandon(jobs, back);
            return Err(failure);
        }
        self.let_go(jobs, back, seat);
        match error {
            Some(error) => Err(self.fail(error)),
            None => Ok(()),
        }
    }

    /// Returns the messages that may begin, and the first error among the deliveries.
    fn sort_out(&self, deliveries: Vec<Delivery>, seat: &Seat) -> (Vec<Job>, Option<ConsumeError>) {
        let (mut jobs, mut error) = (Vec::with_capacity(deliveries.len()), None);
        let mut refused = false;
        for delivery in deliveries {
            match delivery {
                Delivery::Message(job) if job.may_begin() => jobs.push(job),
                Delivery::Message(job) => {
                    self.refuse(job, seat);
                    refused = true;
                }
                Delivery::Error(failed) => error = error.or(Some(failed)),
            }
        }
        if refused {
            // Other items may have taken the place of these in their lanes.
            seat.queue.pass_on();
        }
        (jobs, error)
    }
}
