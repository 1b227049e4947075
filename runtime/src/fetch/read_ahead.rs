//! Decides how far to read ahead while messages wait for others of their keys.
//!
//! While handlers are idle, reading ahead may find free keys. But if handlers are fast, held
//! messages continue before further messages are needed, and reading ahead only causes pauses
//! of partitions, which discard their fetched messages.

use std::time::Duration;

use tokio::time::Instant;

use crate::fetch::pauses::MOST_MESSAGES;
use crate::group::partition::Held;
use crate::queue::{Queued, WorkQueue};

/// The time between two measurements of the rate at which they continue.
const LOOK: Duration = Duration::from_millis(10);

/// Messages that will continue within this time are waited for.
const SOON: Duration = Duration::from_secs(1);

/// The decision to read ahead.
pub(crate) struct ReadAhead {
    /// The number of messages that may be held without a measurement.
    free: Held,
    looked: Instant,
    /// The number of messages that had continued by then.
    let_go: u64,
    waits: bool,
}

impl ReadAhead {
    /// Creates the decision. `most` is the maximum of held bytes of all partitions.
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

    /// Returns `true` if reading must wait.
    pub(crate) fn waits<T: Queued>(&mut self, queue: &WorkQueue<T>) -> bool {
        let (messages, bytes, let_go) = queue.held();
        self.look(Held { messages, bytes }, let_go, Instant::now())
    }

    /// Returns the time until the next check, if reading must wait.
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
