//! What a handler of single messages has in hand.
//!
//! One that is done with a message at once takes several from the queue together, and
//! notes together what it is done with: a lock for each would cost it a good part of its
//! time. As soon as it takes its time, what it has not begun is for the others.

use std::collections::VecDeque;

use super::settled::Settled;
use super::{Delivery, Seat};

/// Most messages, and bytes of them, that are taken together.
const MOST: usize = 16;
const MOST_BYTES: usize = 64 << 10;

/// Taken and not begun; done with and not noted.
pub(crate) struct Hand {
    /// Whether several messages may be in hand: they have no order, and none must be
    /// noted before the next begins.
    several: bool,
    /// The last message was done at once.
    at_once: bool,
    waiting: VecDeque<Delivery>,
    settled: Settled,
}

impl Hand {
    pub(super) fn new(several: bool) -> Self {
        Self {
            several,
            at_once: false,
            waiting: VecDeque::new(),
            settled: Settled::default(),
        }
    }

    /// The next message; `None` once the queue is closed and empty.
    pub(super) async fn next(&mut self, seat: &Seat) -> Option<Delivery> {
        if let Some(delivery) = self.waiting.pop_front() {
            return Some(delivery);
        }
        self.settled.note();
        if !(self.several && self.at_once) {
            return seat.queue.take().await;
        }
        seat.queue
            .take_together(MOST, MOST_BYTES, &mut self.waiting)
            .await
    }

    /// The handler was done with a message before it had to wait for anything.
    pub(super) fn was_at_once(&mut self) {
        self.at_once = true;
    }

    /// The handler takes its time: what it has not begun is for the others, and what it
    /// is done with is told.
    pub(super) fn pass_on(&mut self, seat: &Seat) {
        self.at_once = false;
        self.settled.note();
        let refused = seat.queue.give_back(&mut self.waiting, Delivery::may_begin);
        refused.into_iter().for_each(Delivery::abandon);
    }

    /// Where to put what is done with.
    pub(super) fn settled(&mut self) -> &mut Settled {
        &mut self.settled
    }

    /// Ends the work on a message.
    pub(super) fn close(&mut self) {
        if !self.several {
            self.settled.note();
        }
    }
}

impl Drop for Hand {
    /// The consumer ends, or gives its handlers up.
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(Delivery::abandon);
    }
}
