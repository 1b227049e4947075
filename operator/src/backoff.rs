//! Waits after failures, one sequence for each consumer.

use std::collections::HashMap;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;

use crate::key::Key;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);

/// The maximum wait.
const LONGEST: Duration = Duration::from_secs(300);

/// The number of consecutive failures from which the status reports them.
const LASTING: u32 = 3;

/// The failures of each consumer since its last success.
#[derive(Default)]
pub struct Backoffs {
    failures: Mutex<HashMap<Key, Failures>>,
}

struct Failures {
    count: u32,
    waits: ExponentialBackoff,
}

impl Backoffs {
    /// Returns the wait after another failure: twice the previous wait, with jitter.
    pub fn next(&self, key: &Key) -> Duration {
        let mut failures = self.failures.lock();
        let failures = failures.entry(key.clone()).or_insert_with(|| Failures {
            count: 0,
            waits: ExponentialBuilder::default()
                .with_min_delay(FIRST)
                .with_max_delay(LONGEST)
                .without_max_times()
                .with_jitter()
                .build(),
        });
        failures.count = failures.count.saturating_add(1);
        failures.waits.next().unwrap_or(LONGEST)
    }

    /// Returns `true` if failures have lasted so long that the status reports them.
    pub fn is_lasting(&self, key: &Key) -> bool {
        let failures = self.failures.lock();
        failures
            .get(key)
            .is_some_and(|failures| failures.count >= LASTING)
    }

    /// Forgets the failures of a consumer whose pass succeeded, or that is gone.
    pub fn forget(&self, key: &Key) {
        self.failures.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_a_success_and_have_an_end() {
        let backoffs = Backoffs::default();
        let key = Key::new("shop", "orders");
        let waits: Vec<Duration> = (0..12).map(|_| backoffs.next(&key)).collect();
        assert!(waits[0] < FIRST * 3, "{waits:?}");
        assert!(waits[4] > waits[0] * 4, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST * 2), "{waits:?}");
        assert!(backoffs.is_lasting(&key));
        backoffs.forget(&key);
        assert!(!backoffs.is_lasting(&key));
        assert!(backoffs.next(&key) < FIRST * 3);
    }
}
