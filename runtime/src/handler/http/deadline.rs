//! The deadline of an attempt, as each message carries it.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A time of the wall clock. It is written as CloudEvents write times: RFC 3339 in UTC, to the
/// millisecond.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Timestamp);

impl Deadline {
    /// Returns the deadline of an attempt that begins now. A deadline beyond all dates becomes the
    /// last date.
    pub(super) fn after(timeout: Duration) -> Self {
        Self::of(Timestamp::now(), timeout)
    }

    fn of(begin: Timestamp, timeout: Duration) -> Self {
        let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
        Self(begin.checked_add(timeout).unwrap_or(Timestamp::MAX))
    }

    #[cfg(test)]
    pub(super) fn at_millisecond(time: i64) -> Self {
        Self(Timestamp::from_millisecond(time).unwrap())
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_begin_and_the_timeout_to_the_millisecond() {
        let begin = "2023-11-14T22:13:59.9009Z".parse().unwrap();
        for (timeout, expected) in [
            (Duration::from_millis(200), "2023-11-14T22:14:00.100Z"),
            (Duration::from_micros(99_100), "2023-11-14T22:14:00.000Z"),
            (Duration::from_secs(86_400), "2023-11-15T22:13:59.900Z"),
            (Duration::MAX, "9999-12-30T22:00:00.999Z"),
        ] {
            assert_eq!(Deadline::of(begin, timeout).to_string(), expected);
        }
    }
}
