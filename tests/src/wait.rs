//! Waiting for something to become true, with a limit.
//!
//! Tests never sleep for a guessed time: they wait for what they need, and say
//! what was last seen when it does not come.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What was waited for did not come in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("waited {limit:?} for {what}; last seen: {last}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
    /// What the last look showed.
    pub last: String,
}

/// Waits until `condition` holds.
///
/// # Errors
/// [`TimedOut`] when it did not within `limit`.
pub async fn until(
    what: impl Display,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<(), TimedOut> {
    value(what, limit, async || {
        if condition().await {
            Ok(())
        } else {
            Err("not so")
        }
    })
    .await
}

/// Waits until `probe` gives a value. What it fails with is told when the time is
/// up, so a probe that counts should fail with the count.
///
/// # Errors
/// [`TimedOut`] when `probe` gave no value within `limit`; a probe that does not
/// come back is dropped at the limit.
pub async fn value<T, E: Display>(
    what: impl Display,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, TimedOut> {
    let deadline = Instant::now() + limit;
    let mut last = "nothing yet".to_owned();
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last}, then a look that did not end"),
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(TimedOut {
                what: what.to_string(),
                limit,
                last,
            });
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_that_comes_late_is_returned() {
        let mut looks = 0;
        let found = value("the third look", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        })
        .await;
        assert_eq!(found, Ok(3));
    }

    #[tokio::test]
    async fn the_error_tells_what_was_last_seen() {
        let error = value("ten", Duration::from_millis(50), async || {
            Err::<(), _>("7 of 10")
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 50ms for ten; last seen: 7 of 10");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_off() {
        let error = until("ever", Duration::from_millis(50), async || {
            std::future::pending().await
        })
        .await
        .unwrap_err();
        assert_eq!(error.last, "nothing yet, then a look that did not end");
    }
}
