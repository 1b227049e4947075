//! The messages that a worker of single messages has taken together.
//!
//! A worker whose handler returns immediately takes several messages from the queue together,
//! and notes the settled ones together: a lock for each would cost it much of its time. As soon
//! as the handler waits, other workers get the messages that it has not begun.

use std::collections::VecDeque;

use super::settled::Settled;
use super::{Delivery, Seat};

/// The maximum number of messages, and of their bytes, that are taken together.
const MOST: usize = 16;
const MOST_BYTES: usize = 64 << 10;

/// Messages that were taken and not begun, and settled ones that are not noted.
pub(crate) struct Hand {
    /// Is `true` if several messages may be taken: they have no order, and none must be noted
    /// before the next begins.
    several: bool,
    /// Is `true` if the last call returned immediately.
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

    /// Returns the next message, or `None` once the queue is closed and empty.
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

    /// Notes that the handler returned before it had to wait for anything.
    pub(super) fn was_at_once(&mut self) {
        self.at_once = true;
    }

    /// Notes that the handler waits: other workers get the messages that have not begun, and
    /// settled messages are noted.
    pub(super) fn pass_on(&mut self, seat: &Seat) {
        self.at_once = false;
        self.settled.note();
        let refused = seat.queue.give_back(&mut self.waiting, Delivery::may_begin);
        refused.into_iter().for_each(Delivery::abandon);
    }

    /// Returns the settled messages.
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
    /// The consumer ends, or aborts its workers.
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(Delivery::abandon);
    }
}
