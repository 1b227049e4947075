//! Batches of messages in the order of keys.
//!
//! What follows of a batch's keys is ready only when they are done with, unless it is
//! taken along. Were handlers to take what is ready as it comes, there would soon be many
//! batches of few messages each. So one handler at a time gathers, for a moment if others
//! are at work, whose messages will let more go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Delivery, Seat};

/// Longest time to gather; what the clock of tasks can tell.
const MOMENT: Duration = Duration::from_millis(1);

/// Whose turn it is to gather.
#[derive(Default)]
pub(crate) struct Gathering {
    turn: Mutex<()>,
    /// Batches that are being handled.
    at_work: AtomicUsize,
}

impl Gathering {
    /// Up to `most` messages, at least one; `None` once the queue is closed and empty.
    /// With `runs` several of them may be of one key. The batch counts as being handled
    /// until the guard goes.
    pub(super) async fn gather(
        &self,
        seat: &Seat,
        most: usize,
        runs: bool,
    ) -> Option<(Vec<Delivery>, AtWork<'_>)> {
        let _turn = self.turn.lock().await;
        let mut batch = vec![seat.queue.take().await?];
        // Whether more would fit.
        let fill = |batch: &mut Vec<_>| {
            let has_room = seat.queue.take_more(most - batch.len(), batch);
            match has_room && runs {
                true => seat.queue.take_behind(most, batch),
                false => has_room,
            }
        };
        if fill(&mut batch) && self.at_work.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(MOMENT).await;
            fill(&mut batch);
        }
        self.at_work.fetch_add(1, Ordering::Relaxed);
        Some((batch, AtWork(&self.at_work)))
    }
}

/// A batch that is being handled.
pub(super) struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
