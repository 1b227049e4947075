//! The step that the transactional producer waits for, for tasks that wait for the producer.
//!
//! A call of librdkafka may not return: `rd_kafka_send_offsets_to_transaction` (2.12) has no
//! time limit while it looks for the group's coordinator, and does not look again until some
//! connection opens or closes. So tasks that wait for the thread watch it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ANSWER_LIMIT;

/// The time after which a step is reported, and between two reports.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The maximum time for one step, which ends by itself within the limit for answers unless a
/// call does not return. Pending requests add their limits.
const STEP_LIMIT: Duration = ANSWER_LIMIT.saturating_add(Duration::from_secs(30));

/// The current step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Idle,
    /// The brokers get to know the transactional id.
    Introduction,
    /// Records are taken up.
    Records,
    /// Offsets go to the brokers.
    Offsets,
    /// Records go to the brokers.
    Delivery,
    /// The transaction is committed.
    Commit,
    /// The transaction is aborted.
    Abort,
}

impl Step {
    fn waits_for(self) -> &'static str {
        match self {
            Self::Idle => "nothing",
            Self::Introduction => {
                "the brokers to know the transactional id, and to end what a predecessor left open"
            }
            Self::Records => "room for its records in the producer's memory",
            Self::Offsets => {
                "the coordinators of the transaction and the group to take its offsets"
            }
            Self::Delivery => "the brokers to take its records",
            Self::Commit => "the transaction's coordinator to commit it",
            Self::Abort => "the transaction's coordinator to abort it",
        }
    }
}

/// The step at which the thread is.
#[derive(Debug)]
pub(super) struct Steps(Mutex<Current>);

#[derive(Debug)]
struct Current {
    step: Step,
    since: Instant,
    told: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self(Mutex::new(Current::new(Step::Idle, Instant::now())))
    }
}

impl Current {
    fn new(step: Step, now: Instant) -> Self {
        Self {
            step,
            since: now,
            told: now,
        }
    }
}

impl Steps {
    /// Another step begins.
    pub(super) fn enter(&self, step: Step) {
        *self.0.lock() = Current::new(step, Instant::now());
    }

    /// Warns of a step that takes long. What is waited for, if for longer than it may be.
    pub(super) fn watch(&self) -> Option<String> {
        let watched = self.0.lock().watch(Instant::now());
        if let Watched::Long(text) = &watched {
            tracing::warn!("{text}");
        }
        match watched {
            Watched::TooLong(text) => Some(text),
            Watched::Long(_) | Watched::Well => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Well,
    /// To be told.
    Long(String),
    TooLong(String),
}

impl Current {
    fn watch(&mut self, now: Instant) -> Watched {
        let elapsed = now.saturating_duration_since(self.since);
        let text = || {
            format!(
                "the transactional producer has waited {} s for {}",
                elapsed.as_secs(),
                self.step.waits_for()
            )
        };
        if self.step == Step::Idle {
            Watched::Well
        } else if elapsed > STEP_LIMIT {
            Watched::TooLong(text())
        } else if now.saturating_duration_since(self.told) >= PATIENCE {
            let text = text();
            self.told = now;
            Watched::Long(text)
        } else {
            Watched::Well
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_takes_long_is_told_now_and_then_and_has_an_end() {
        let began = Instant::now();
        let mut current = Current::new(Step::Commit, began);
        let mut at = |seconds| current.watch(began + Duration::from_secs(seconds));
        assert_eq!(at(4), Watched::Well);
        let Watched::Long(text) = at(6) else {
            panic!("not told")
        };
        assert_eq!(
            text,
            "the transactional producer has waited 6 s for the transaction's coordinator to commit it"
        );
        assert_eq!(at(7), Watched::Well);
        assert!(matches!(at(11), Watched::Long(_)));
        assert!(matches!(at(91), Watched::TooLong(_)));
    }

    #[test]
    fn one_that_does_nothing_waits_for_nothing() {
        let began = Instant::now();
        let mut current = Current::new(Step::Idle, began);
        let later = began + Duration::from_secs(3600);
        assert_eq!(current.watch(later), Watched::Well);
    }
}
