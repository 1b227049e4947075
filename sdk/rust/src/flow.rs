//! The number of messages that the handler takes: as many as it can finish within a few
//! seconds.

use std::time::Duration;

use tokio::time::Instant;

/// The maximum time that messages may wait in the handler.
const AHEAD: Duration = Duration::from_secs(3);

/// The time over which the rate is measured.
const MEASURE: Duration = Duration::from_millis(50);

/// Credits, and the rate at which messages use them.
pub(super) struct Flow {
    min: u32,
    max: u32,
    /// The number of credits to keep outstanding.
    target: u32,
    /// Credits that are granted and unused.
    outstanding: u32,
    /// Messages that ended since the measurement began.
    ended: u32,
    since: Instant,
}

impl Flow {
    /// Creates a flow with enough credits to keep this number of lanes busy. At most `max`
    /// messages are taken.
    pub(super) fn new(lanes: usize, max: u32) -> Self {
        let min = u32::try_from(lanes.saturating_mul(2)).unwrap_or(u32::MAX);
        let min = min.min(max).max(1);
        Self {
            min,
            max,
            target: min,
            outstanding: 0,
            ended: 0,
            since: Instant::now(),
        }
    }

    /// Notes that a message ended.
    pub(super) fn ended(&mut self) {
        self.ended = self.ended.saturating_add(1);
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Returns the credits to grant now.
    pub(super) fn grant(&mut self, now: Instant) -> u32 {
        let took = now.duration_since(self.since);
        if took >= MEASURE {
            let rate = f64::from(self.ended) / took.as_secs_f64();
            // A float beyond u32 becomes its maximum.
            let target = (rate * AHEAD.as_secs_f64()) as u32;
            self.target = target.clamp(self.min, self.max);
            self.ended = 0;
            self.since = now;
        }
        let credits = self.target.saturating_sub(self.outstanding);
        self.outstanding += credits;
        credits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Handles messages that take so long with 16 lanes for ten seconds. Returns the messages
    /// that wait in the handler by then.
    fn waiting(each: Duration) -> u32 {
        let now = Instant::now();
        let mut flow = Flow::new(16, 2000);
        let (mut credits, mut time) = (flow.grant(now), Duration::ZERO);
        while time < Duration::from_secs(10) {
            // A round of the lanes; the runtime uses up every credit.
            let ends = credits.min(16);
            time += each.max(MS / 50);
            (0..ends).for_each(|_| flow.ended());
            credits = credits - ends + flow.grant(now + time);
        }
        credits
    }

    #[test]
    fn a_handler_takes_what_it_finishes_within_seconds() {
        for (each, expected) in [
            (Duration::ZERO, 2000..=2000),
            (5 * MS, 2000..=2000),
            (50 * MS, 900..=1000),
            (500 * MS, 80..=110),
            (5000 * MS, 32..=32),
        ] {
            let waiting = waiting(each);
            assert!(expected.contains(&waiting), "{each:?}: {waiting}");
        }
    }

    #[test]
    fn a_stall_shrinks_what_is_taken_and_a_burst_finds_it_again() {
        let now = Instant::now();
        let mut flow = Flow::new(2, 100);
        assert_eq!(flow.grant(now), 4, "few at the start");
        for _ in 0..4 {
            flow.ended();
        }
        assert_eq!(flow.grant(now + 60 * MS), 100);
        let quiet = now + Duration::from_secs(60);
        for _ in 0..100 {
            flow.ended();
        }
        assert_eq!(flow.grant(quiet), 5);
        for _ in 0..5 {
            flow.ended();
        }
        assert_eq!(flow.grant(quiet + 60 * MS), 100);
    }

    #[test]
    fn the_window_is_kept_however_many_lanes_there_are() {
        let mut flow = Flow::new(64, 10);
        assert_eq!(flow.grant(Instant::now()), 10);
        assert_eq!(flow.grant(Instant::now()), 0);
    }
}
