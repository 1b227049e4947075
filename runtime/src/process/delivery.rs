//! The attempts at one message: the back-off, and the action after the last attempt.

use std::num::NonZeroU32;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use penstock_crds::validate::{DeliveryPolicy, FailureAction};
use rand::RngExt as _;

use crate::handler::{FailureKind, HandlerError};

/// The step after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next attempt follows after this wait.
    Retry(Duration),
    /// The same attempt follows after this pause, because it was not made.
    Repeat(Duration),
    /// No more attempts.
    GiveUp,
}

/// The maximum number of waits that are skipped when attempts continue: with any factor that
/// lets waits grow noticeably, they have reached their maximum by then.
const MOST_SKIPPED: u32 = 1000;

/// The first and the longest pause before an attempt that was not made is repeated.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The attempts at one message.
pub(crate) struct Attempts<'a> {
    policy: &'a DeliveryPolicy,
    waits: Option<backon::ExponentialBackoff>,
    made: u32,
    /// The number of pauses since the last attempt.
    pauses: u32,
}

impl<'a> Attempts<'a> {
    /// Continues after `failed` attempts, here or by earlier owners of the partition; 0 for a
    /// new message. There is always one more attempt, even if the limit was lowered meanwhile.
    /// No attempt beyond the limit is counted.
    pub(crate) fn after(policy: &'a DeliveryPolicy, failed: u32) -> Self {
        Self {
            policy,
            waits: None,
            made: failed.saturating_add(1).min(policy.max_attempts.get()),
            pauses: 0,
        }
    }

    /// Continues after this number of pauses.
    pub(crate) fn paused(self, pauses: u32) -> Self {
        Self { pauses, ..self }
    }

    /// Returns the number of the current attempt, from 1.
    pub(crate) fn number(&self) -> u32 {
        self.made
    }

    /// Notes the failure of an attempt, and counts the next one, if there is one.
    pub(crate) fn failed(&mut self, error: &HandlerError) -> Next {
        let asked = error.retry_after().unwrap_or_default().min(self.policy.max);
        if error.kind() == FailureKind::NotAttempted {
            let pause = MIN_PAUSE.saturating_mul(1 << self.pauses.min(16));
            self.pauses = self.pauses.saturating_add(1);
            let pause = jittered(pause.min(MAX_PAUSE), self.policy.jitter);
            return Next::Repeat(pause.max(asked));
        }
        self.pauses = 0;
        let tried_enough = self.made >= self.policy.max_attempts.get();
        if tried_enough || error.kind() != FailureKind::Retryable {
            return Next::GiveUp;
        }
        let (policy, made) = (self.policy, self.made);
        self.made += 1;
        let waits = self.waits.get_or_insert_with(|| exponential(policy, made));
        let wait = waits.next().unwrap_or(policy.max);
        let wait = jittered(wait, policy.jitter);
        Next::Retry(wait.max(asked))
    }
}

/// Returns the waits, from the one after attempt `made` on.
fn exponential(policy: &DeliveryPolicy, made: u32) -> backon::ExponentialBackoff {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(policy.initial)
        .with_max_delay(policy.max)
        .with_factor(policy.factor as f32)
        .without_max_times()
        .build();
    let skipped = (made - 1).min(MOST_SKIPPED);
    waits.by_ref().take(skipped as usize).for_each(drop);
    waits
}

/// Returns a random share of the wait, never longer than the wait. It has whole microseconds:
/// smaller parts are rounding errors of the factor.
fn jittered(wait: Duration, share: f64) -> Duration {
    let wait = wait.mul_f64(1.0 - share * rand::rng().random::<f64>());
    Duration::from_micros(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX))
}

/// Returns the default policy, which is baseplate's: one attempt, then stop.
pub fn stop_at_once() -> DeliveryPolicy {
    DeliveryPolicy {
        max_attempts: NonZeroU32::MIN,
        initial: Duration::from_millis(100),
        max: Duration::from_secs(30),
        factor: 2.0,
        jitter: 0.2,
        on_failure: FailureAction::Stop,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts: u32, jitter: f64) -> DeliveryPolicy {
        DeliveryPolicy {
            max_attempts: NonZeroU32::new(attempts).unwrap(),
            max: Duration::from_secs(1),
            jitter,
            ..stop_at_once()
        }
    }

    fn waits(policy: &DeliveryPolicy) -> Vec<u128> {
        let mut attempts = Attempts::after(policy, 0);
        let mut waits = Vec::new();
        while let Next::Retry(wait) = attempts.failed(&HandlerError::retryable("x")) {
            waits.push(wait.as_millis());
        }
        waits
    }

    #[test]
    fn waits_grow_by_the_factor_up_to_the_longest() {
        assert_eq!(waits(&policy(7, 0.0)), [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn only_a_retryable_failure_is_tried_again() {
        let policy = policy(7, 0.0);
        for error in [
            HandlerError::permanent("x"),
            HandlerError::skip("x"),
            HandlerError::dead_letter("x"),
        ] {
            assert_eq!(Attempts::after(&policy, 0).failed(&error), Next::GiveUp);
        }
    }

    #[test]
    fn attempts_and_waits_go_on_where_they_were() {
        let policy = policy(5, 0.0);
        let mut attempts = Attempts::after(&policy, 2);
        let error = HandlerError::retryable("x");
        assert_eq!(attempts.number(), 3);
        assert_eq!(
            attempts.failed(&error),
            Next::Retry(Duration::from_millis(400))
        );
        assert_eq!(
            attempts.failed(&error),
            Next::Retry(Duration::from_millis(800))
        );
        assert_eq!(attempts.number(), 5);
        assert_eq!(attempts.failed(&error), Next::GiveUp);
        assert_eq!(Attempts::after(&policy, u32::MAX).number(), 5);
    }

    #[test]
    fn an_attempt_that_was_not_made_is_repeated_after_a_growing_pause() {
        let policy = policy(2, 0.0);
        let mut attempts = Attempts::after(&policy, 0);
        let not_made = HandlerError::not_attempted("x");
        let mut pauses = Vec::new();
        for _ in 0..10 {
            match attempts.failed(&not_made) {
                Next::Repeat(pause) => pauses.push(pause.as_millis()),
                next => panic!("{next:?}"),
            }
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        assert_eq!(attempts.number(), 1);
        let asks = not_made.after(Duration::from_secs(60));
        let longest = Next::Repeat(Duration::from_secs(2));
        assert_eq!(attempts.failed(&asks), longest);
        // They grow from the first again behind an attempt.
        let failed = HandlerError::retryable("x");
        assert_eq!(
            attempts.failed(&failed),
            Next::Retry(Duration::from_millis(100))
        );
        assert_eq!(attempts.number(), 2);
        let pause = Next::Repeat(Duration::from_millis(10));
        assert_eq!(attempts.failed(&HandlerError::not_attempted("x")), pause);
        assert_eq!(attempts.failed(&failed), Next::GiveUp);
        let mut attempts = Attempts::after(&policy, 1).paused(3);
        let pause = Next::Repeat(Duration::from_millis(80));
        assert_eq!(attempts.failed(&HandlerError::not_attempted("x")), pause);
    }

    #[test]
    fn one_attempt_is_the_default() {
        assert!(waits(&stop_at_once()).is_empty());
    }

    #[test]
    fn a_handler_may_ask_for_a_longer_wait_up_to_the_longest() {
        let policy = policy(3, 0.0);
        let mut attempts = Attempts::after(&policy, 0);
        let ask = |seconds| HandlerError::retryable("x").after(Duration::from_secs(seconds));
        assert_eq!(
            attempts.failed(&ask(60)),
            Next::Retry(Duration::from_secs(1))
        );
        assert_eq!(
            attempts.failed(&ask(0)),
            Next::Retry(Duration::from_millis(200))
        );
    }

    proptest! {
        #[test]
        fn attempts_never_exceed_the_limit_and_waits_never_the_longest(
            attempts in 1u32..50,
            jitter in 0.0f64..=1.0,
        ) {
            let waits = waits(&policy(attempts, jitter));
            prop_assert_eq!(waits.len() as u32, attempts - 1);
            prop_assert!(waits.iter().all(|wait| *wait <= 1000));
        }
    }
}
