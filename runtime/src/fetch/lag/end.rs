//! The known state of a partition's end.

use std::time::Duration;

use tokio::time::Instant;

use super::{Known, STALE_AFTER, Unknown};

/// The end of a partition.
#[derive(Default)]
pub(super) struct End {
    /// The high watermark of the last fetch.
    fetched: Option<i64>,
    /// The brokers' answer since that moved: the end that can be read.
    looked_up: Option<i64>,
    /// The time at which the end was last fetched or looked up.
    seen: Option<Instant>,
    /// Is `true` if an answer came since the last check.
    is_answered: bool,
    /// The offset that is read next.
    position: Option<i64>,
    /// The fetched end and the position at the last request to the brokers.
    asked_at: Option<(Option<i64>, Option<i64>)>,
    blocked: Option<Blocked>,
    warned: Option<Instant>,
}

/// A position after which an open transaction lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) offset: i64,
    pub(super) since: Instant,
}

impl End {
    /// Notes the client's state, without a request. Returns `true` if the end was fetched or
    /// looked up since the last time.
    pub(super) fn see(
        &mut self,
        fetched: Option<i64>,
        position: Option<i64>,
        now: Instant,
    ) -> bool {
        let has_fetched = fetched.is_some()
            && (self.fetched != fetched || (self.position != position && position.is_some()));
        if self.fetched != fetched {
            self.fetched = fetched;
            self.looked_up = None;
        }
        if self.position != position {
            self.position = position;
            self.blocked = None;
            self.warned = None;
        }
        if has_fetched {
            self.seen = Some(now);
        }
        std::mem::take(&mut self.is_answered) || has_fetched
    }

    /// Notes the brokers' answer: the end that can be read.
    pub(super) fn look_up(&mut self, end: i64, now: Instant) {
        self.looked_up = Some(end);
        self.seen = Some(now);
        self.is_answered = true;
        // Everything that can be read was read, and there is more.
        let is_blocked = self.position == Some(end) && self.fetched.is_some_and(|it| it > end);
        if !is_blocked {
            self.blocked = None;
            self.warned = None;
        } else if self.blocked.is_none() {
            self.blocked = Some(Blocked {
                offset: end,
                since: now,
            });
        }
    }

    /// Returns `true` if the brokers should be asked: neither the end nor the position has
    /// moved since the last check, or only the position has not, and there is more after it.
    pub(super) fn is_to_ask(&mut self) -> bool {
        let current = (self.fetched, self.position);
        let before = self.asked_at.replace(current);
        let is_idle = before.is_some_and(|(_, position)| position == self.position);
        let has_more = self.fetched > self.position;
        before.is_some_and(|(fetched, _)| fetched == self.fetched) || (is_idle && has_more)
    }

    /// Returns the end, unless it was not seen for long.
    pub(super) fn latest(&self, now: Instant) -> Known<i64> {
        match (self.looked_up.max(self.fetched), self.seen) {
            (Some(end), Some(seen)) if now.duration_since(seen) < STALE_AFTER => Known::Value(end),
            (Some(_), Some(_)) => Known::Unknown(Unknown::Stale),
            _ => Known::Unknown(Unknown::End),
        }
    }

    /// Returns the position at which an open transaction blocks the partition.
    pub(super) fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// Returns `true` once in each interval if the partition is blocked for longer than that.
    pub(super) fn warns(&mut self, now: Instant, interval: Duration) -> bool {
        let last = self.warned.or(self.blocked.map(|it| it.since));
        let is_due = last.is_some_and(|last| now.duration_since(last) >= interval);
        if is_due {
            self.warned = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_sees_any_more_is_unknown() {
        let mut end = End::default();
        assert_eq!(end.latest(Instant::now()), Known::Unknown(Unknown::End));
        assert!(end.see(Some(50), Some(50), Instant::now()));
        tokio::time::advance(29 * SECOND).await;
        assert!(!end.see(Some(50), Some(50), Instant::now()));
        assert_eq!(end.latest(Instant::now()), Known::Value(50));
        tokio::time::advance(SECOND).await;
        assert_eq!(end.latest(Instant::now()), Known::Unknown(Unknown::Stale));
        // An answer makes it known, if only that it is where it was.
        end.look_up(50, Instant::now());
        assert!(end.see(Some(50), Some(50), Instant::now()));
        assert_eq!(end.latest(Instant::now()), Known::Value(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_before_an_open_transaction_is_warned_of_once_a_minute() {
        let mut end = End::default();
        end.see(Some(60), Some(50), Instant::now());
        assert!(!end.is_to_ask());
        // The end moves on and the position does not.
        end.see(Some(70), Some(50), Instant::now());
        assert!(end.is_to_ask());
        end.look_up(50, Instant::now());
        assert_eq!(end.blocked().map(|it| it.offset), Some(50));
        // Only what can be read is the end for lag; there is more.
        assert_eq!(end.latest(Instant::now()), Known::Value(70));
        let mut warned = 0;
        for second in 0..150 {
            end.see(Some(70 + second), Some(50), Instant::now());
            end.look_up(50, Instant::now());
            warned += usize::from(end.warns(Instant::now(), 60 * SECOND));
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(warned, 2);
        // It ends, and reading goes on.
        end.see(Some(300), Some(120), Instant::now());
        assert_eq!(end.blocked(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_that_can_be_read_is_not_blocked() {
        let mut end = End::default();
        end.see(Some(60), Some(50), Instant::now());
        end.look_up(60, Instant::now());
        assert_eq!(end.blocked(), None);
    }
}
