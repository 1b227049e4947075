//! Batches of messages in the order of keys.
//!
//! Later messages with the keys of a batch become ready only when the batch is settled, unless
//! they are taken along. If workers took ready messages as they arrive, there would soon be
//! many batches of few messages each. So one worker at a time gathers. While others handle
//! messages, it gathers for a moment, because their messages will release more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Delivery, Seat};

/// The maximum time to gather: the resolution of the tasks' clock.
const MOMENT: Duration = Duration::from_millis(1);

/// The turns of gathering.
#[derive(Default)]
pub(crate) struct Gathering {
    turn: Mutex<()>,
    /// The number of batches that are being handled.
    at_work: AtomicUsize,
}

impl Gathering {
    /// Returns up to `most` messages, at least one, or `None` once the queue is closed and
    /// empty. With `runs`, several of them may have one key. The batch counts as being handled
    /// until the guard is dropped.
    pub(super) async fn gather(
        &self,
        seat: &Seat,
        most: usize,
        runs: bool,
    ) -> Option<(Vec<Delivery>, AtWork<'_>)> {
        let _turn = self.turn.lock().await;
        let mut batch = vec![seat.queue.take().await?];
        // Returns `true` if more would fit.
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
