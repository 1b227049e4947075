//! What handlers do wrong.

use std::time::Duration;

use crate::Manifest;
use crate::oracle::Rule;
use crate::recorder::{Delivery, Reply};

use super::{Lane, Protocol};

/// One in so many messages meets an odd answer.
const ODD: u64 = 97;

/// One in so many is not handled, where batches are handled in part.
const ODD_IN_PART: u64 = 5;

/// The handler's limit where it is reached.
const TIMEOUT: Duration = Duration::from_millis(700);

/// How long a handler takes that answers just before its limit.
const LATE: Duration = Duration::from_millis(550);

/// An answer that took longer may have come too late.
const SURE: Duration = Duration::from_millis(400);

/// The attempts that a message gets. None needs as many.
const ATTEMPTS: u32 = 50;

/// The wait after a first failure, and the share of it that is drawn at random.
const BACKOFF: Duration = Duration::from_millis(50);
const JITTER: f64 = 0.2;

/// What a handler does at the first attempt at some messages. Later ones succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It handles each at once.
    Steady,
    /// It answers 503; with BatchHttp for the whole batch.
    Fails,
    /// It never answers.
    Hangs,
    /// It answers just before its time is up.
    Late,
    /// It handles most messages of a batch and not the others.
    Partial,
}

impl Behaviour {
    /// The time of an attempt where it may be over before the answer comes.
    pub(super) const LIMIT: Duration = TIMEOUT;

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Steady,
        Self::Fails,
        Self::Hangs,
        Self::Late,
        Self::Partial,
    ];

    /// What to answer where otherwise it would be `usual`.
    pub fn reply(self, delivery: &Delivery, usual: Reply) -> Reply {
        if !self.is_odd(delivery.position.scatter(), delivery.attempt) {
            return usual;
        }
        match self {
            Self::Steady => usual,
            Self::Fails => Reply::status(503).for_all(),
            Self::Hangs => Reply::hang(),
            Self::Late => usual.after(LATE),
            Self::Partial => Reply::status(503),
        }
    }

    fn is_odd(self, scatter: u64, attempt: u32) -> bool {
        let one_in = match self {
            Self::Steady => return false,
            Self::Partial => ODD_IN_PART,
            Self::Fails | Self::Hangs | Self::Late => ODD,
        };
        // Other digits than those that vary the usual delays.
        attempt == 1 && (scatter >> 6).is_multiple_of(one_in)
    }

    /// The manifest with the limits that this needs, for an embedded handler too.
    pub(super) fn apply(self, manifest: Manifest) -> Manifest {
        let manifest = match self {
            Self::Steady => return manifest,
            Self::Fails | Self::Partial => manifest,
            Self::Hangs | Self::Late => {
                let timeout = format!("{}ms", TIMEOUT.as_millis());
                manifest.set("/handler/timeout", timeout)
            }
        };
        manifest
            .set("/delivery/maxAttempts", ATTEMPTS)
            .env("PENSTOCK_TEST_BEHAVIOUR", format!("{self:?}"))
    }

    /// The behaviour of an embedded handler, from its variable.
    pub fn from_env(text: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|behaviour| format!("{behaviour:?}") == text)
    }

    /// What an embedded handler does with a message.
    pub fn embedded(self, scatter: u64, attempt: u32) -> Option<Odd> {
        if !self.is_odd(scatter, attempt) {
            return None;
        }
        match self {
            Self::Steady => None,
            Self::Fails | Self::Partial => Some(Odd::Fails),
            Self::Hangs => Some(Odd::Hangs),
            Self::Late => Some(Odd::Takes(LATE)),
        }
    }

    /// What is promised of the number of attempts.
    pub(super) fn attempts(self, lane: Lane) -> Rule {
        let for_all = lane.protocol == Protocol::BatchHttp;
        let limit = match self {
            Self::Steady => 1,
            Self::Fails if !for_all => 2,
            Self::Partial => 2,
            // One message fails others, which may fail by another again; and a limit
            // is passed by a machine that is busy with something else.
            Self::Fails | Self::Hangs | Self::Late => ATTEMPTS,
        };
        Rule::AttemptsWithin(limit)
    }

    /// What is promised of the time between two attempts.
    pub fn backed_off() -> Rule {
        Rule::BackedOff(BACKOFF.mul_f64(1.0 - JITTER))
    }

    /// Returns `true` if it fails messages that may be handled later.
    pub fn fails(self) -> bool {
        matches!(self, Self::Fails | Self::Hangs | Self::Partial)
    }

    /// Returns `true` if this delivery certainly settled its message.
    pub fn surely_settles(delivery: &Delivery) -> bool {
        let took = delivery.end.map(|end| end - delivery.start);
        delivery.verdict.is_success() && took.is_some_and(|took| took < SURE)
    }

    /// Returns `true` if an answer may come too late though the handler gave it.
    pub(super) fn has_limit(self) -> bool {
        matches!(self, Self::Hangs | Self::Late)
    }
}

/// An odd thing that an embedded handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// It fails in a way that may pass.
    Fails,
    /// It never returns.
    Hangs,
    /// It takes so long.
    Takes(Duration),
}
