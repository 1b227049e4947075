//! How far is read on while messages wait for others of their keys.
//!
//! While handlers are idle, reading on may find keys that are free. But where handlers
//! are fast, what is held goes on sooner than another message is of use, and reading on
//! only leads to where partitions have to be paused, which costs what was fetched of them.

use std::time::Duration;

use tokio::time::Instant;

use crate::partition::Held;
use crate::pauses::MOST_MESSAGES;
use crate::queue::{Queued, WorkQueue};

/// How often it is looked at how fast they go on.
const LOOK: Duration = Duration::from_millis(10);

/// What will have gone on within this time is waited for.
const SOON: Duration = Duration::from_secs(1);

/// Whether to read on.
pub(crate) struct ReadAhead {
    /// What may be held without a look.
    free: Held,
    looked: Instant,
    /// Messages that had gone on by then.
    let_go: u64,
    waits: bool,
}

impl ReadAhead {
    /// `most` is what all partitions together may have held, in bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            free: Held {
                messages: MOST_MESSAGES / 2,
                bytes: most / 2,
            },
            looked: Instant::now(),
            let_go: 0,
            waits: false,
        }
    }

    /// Whether nothing more is to be read for a moment.
    pub(crate) fn waits<T: Queued>(&mut self, queue: &WorkQueue<T>) -> bool {
        let (messages, bytes, let_go) = queue.held();
        self.look(Held { messages, bytes }, let_go, Instant::now())
    }

    /// When to ask again, if it is not to be read on.
    pub(crate) fn look_again(&self) -> Option<Duration> {
        self.waits.then_some(LOOK)
    }

    /// `let_go` counts the messages that were held and went on.
    fn look(&mut self, held: Held, let_go: u64, now: Instant) -> bool {
        if !held.exceeds(self.free) {
            self.waits = false;
            return false;
        }
        let since = now.saturating_duration_since(self.looked);
        if since >= LOOK {
            let gone = u128::from(let_go - self.let_go);
            self.waits = gone * SOON.as_micros() >= held.messages as u128 * since.as_micros();
            (self.looked, self.let_go) = (now, let_go);
        }
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: Held = Held {
        messages: 1000,
        bytes: 600,
    };

    /// What is said after looks at these times, in milliseconds, when so many had gone on.
    fn looks(held: Held, looks: &[(u64, u64)]) -> Vec<bool> {
        let mut ahead = ReadAhead::new(1000);
        let began = ahead.looked;
        let looks = looks
            .iter()
            .map(|(at, let_go)| ahead.look(held, *let_go, began + Duration::from_millis(*at)));
        looks.collect()
    }

    #[test]
    fn nothing_is_waited_for_while_little_is_held() {
        let little = Held {
            messages: 1000,
            bytes: 500,
        };
        assert_eq!(looks(little, &[(10, 0), (20, 1000)]), [false, false]);
    }

    #[test]
    fn what_goes_on_soon_is_waited_for() {
        let much = [(10, 10), (15, 10), (30, 30), (100, 100)];
        assert_eq!(looks(MUCH, &much), [true; 4]);
    }

    #[test]
    fn keys_that_are_slow_or_stuck_let_reading_go_on() {
        let slow = [(10, 10), (20, 19), (25, 30), (30, 30), (530, 31)];
        assert_eq!(looks(MUCH, &slow), [true, false, false, true, false]);
    }
}
