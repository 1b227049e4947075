//! What is to happen to the messages of a partition, and to the partition.

use super::*;

pub(super) const MAX_ATTEMPTS: u32 = 3;
const INITIAL: Duration = ms(10);
const LONGEST: Duration = ms(40);

/// What a handler may ask for.
const ASKED: Duration = ms(25);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    InOrder,
    KeyOrdered,
    /// Fast with `commit: Handled`.
    Fast,
    /// Fast with `commit: Read`: what was read is handled while its partition drains.
    Read,
}

impl Mode {
    pub(super) fn redelivers(self) -> bool {
        self != Self::Read
    }
}

pub(super) fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![
        Mode::InOrder,
        Mode::KeyOrdered,
        Mode::Fast,
        Mode::Read,
    ])
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Handled {
        after: u32,
    },
    /// As `Handled`, and the handler asks for a longer wait.
    Delayed {
        after: u32,
    },
    Skipped,
    Poison,
    Invalid,
}

impl Fate {
    pub(super) fn payload(self) -> &'static str {
        match self {
            Self::Invalid => "no json",
            _ => "{}",
        }
    }

    pub(super) fn verdict(self, attempt: u32) -> Result<(), HandlerError> {
        match self {
            Self::Handled { after } | Self::Delayed { after } if attempt > after => Ok(()),
            Self::Handled { .. } => Err(HandlerError::retryable("down")),
            Self::Delayed { .. } => Err(HandlerError::retryable("busy").after(ASKED)),
            Self::Skipped => Err(HandlerError::skip("not ours")),
            Self::Poison | Self::Invalid => Err(HandlerError::permanent("poison")),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) fate: Fate,
    /// Milliseconds of each attempt; of a call it is the longest.
    pub(super) takes: u64,
    pub(super) key: u8,
}

/// Milliseconds, each after the one before.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) drain: u64,
    /// Until the pump has looked through the queue.
    pub(super) sweep: u64,
    pub(super) revoke: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) messages: Vec<Planned>,
    pub(super) ending: Option<Ending>,
}

pub(super) fn story() -> impl Strategy<Value = Story> {
    let fate = prop_oneof![
        6 => Just(Fate::Handled { after: 0 }),
        4 => (1..=MAX_ATTEMPTS).prop_map(|after| Fate::Handled { after }),
        2 => (1..=MAX_ATTEMPTS).prop_map(|after| Fate::Delayed { after }),
        1 => Just(Fate::Skipped),
        1 => Just(Fate::Poison),
        1 => Just(Fate::Invalid),
    ];
    let takes = prop_oneof![2 => Just(0), 1 => 1..20u64, 1 => 20..60u64];
    let planned = (fate, takes, 0..3u8);
    let planned = planned.prop_map(|(fate, takes, key)| Planned { fate, takes, key });
    let revoke = prop::option::of(0..30u64);
    let ending = (0..80u64, 0..4u64, revoke);
    let ending = ending.prop_map(|(drain, sweep, revoke)| Ending {
        drain,
        sweep,
        revoke,
    });
    let story = (
        prop::collection::vec(planned, 1..10),
        prop::option::of(ending),
    );
    story.prop_map(|(messages, ending)| Story { messages, ending })
}

pub(super) fn policy() -> DeliveryPolicy {
    DeliveryPolicy {
        initial: INITIAL,
        max: LONGEST,
        jitter: 0.0,
        ..attempts(MAX_ATTEMPTS, FailureAction::Skip)
    }
}

/// The wait that follows a failed attempt, at least.
pub(super) fn backoff(attempt: u32, error: &HandlerError) -> Duration {
    let wait = INITIAL * 2u32.pow(attempt - 1);
    let asked = error.retry_after().unwrap_or_default();
    wait.max(asked).min(LONGEST)
}

pub(super) const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}
