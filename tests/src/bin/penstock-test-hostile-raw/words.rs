//! What a handler may say on a stream.

use std::time::Duration;

use penstock_handler::v1::verdict::Outcome;
use penstock_handler::v1::{
    Done, Fail, Feature, FromHandler, Order, Range, Release, Verdict, Welcome,
};

use crate::WHILE;

/// Credits that are granted at the beginning.
const CREDITS: u32 = 40;

/// How a stream begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    #[default]
    Usual,
    NoWelcome,
    /// With version 1 in the welcome.
    Old,
    /// With no order in the welcome.
    Unordered,
    /// With orders and features of the future.
    Future,
    Refused,
    /// Says nothing for a while.
    Silent,
    /// Grants nothing for a while.
    NoCredits,
    /// Takes one message in a batch.
    BatchOfOne,
    HugeHeaders,
}

impl Opening {
    /// The first message.
    pub fn first(self) -> FromHandler {
        let mut welcome = welcome();
        let mut credits = CREDITS;
        match self {
            Self::Old => welcome.version = 1,
            Self::Unordered => welcome.orders.clear(),
            Self::Future => {
                welcome.version = 77;
                welcome.orders.push(99);
                welcome.features.push(99);
            }
            Self::NoCredits => credits = 0,
            Self::BatchOfOne => welcome.max_batch = 1,
            Self::Usual | Self::NoWelcome | Self::Refused | Self::Silent | Self::HugeHeaders => {}
        }
        FromHandler {
            welcome: (self != Self::NoWelcome).then_some(welcome),
            credits,
            ..FromHandler::default()
        }
    }

    /// What is said after a while.
    pub fn later(self) -> Option<(Duration, FromHandler)> {
        (self == Self::NoCredits).then(|| (WHILE, credits(CREDITS)))
    }
}

/// The welcome of a handler that keeps all orders.
pub fn welcome() -> Welcome {
    let orders = [Order::Unspecified, Order::Batch, Order::Key];
    Welcome {
        version: 2,
        sdk_name: "custom".into(),
        orders: orders.map(i32::from).to_vec(),
        features: vec![Feature::Begun.into(), Feature::Extend.into()],
        max_message_bytes: 64 << 20,
        ..Welcome::default()
    }
}

pub fn credits(credits: u32) -> FromHandler {
    FromHandler {
        credits,
        ..FromHandler::default()
    }
}

pub fn begun(first_id: u64, count: u64) -> FromHandler {
    FromHandler {
        begun: vec![Range { first_id, count }],
        ..FromHandler::default()
    }
}

pub fn verdict(first_id: u64, count: u64, outcome: Option<Outcome>) -> FromHandler {
    FromHandler {
        verdicts: vec![Verdict {
            first_id,
            count,
            outcome,
        }],
        ..FromHandler::default()
    }
}

pub fn done(id: u64) -> FromHandler {
    verdict(id, 1, Some(Outcome::Done(Done::default())))
}

pub fn fail(id: u64, reason: impl Into<String>) -> FromHandler {
    let reason = reason.into();
    verdict(id, 1, Some(Outcome::Fail(Fail { reason })))
}

pub fn release(id: u64, delay_ms: u64) -> FromHandler {
    let reason = "not now".to_owned();
    verdict(id, 1, Some(Outcome::Release(Release { reason, delay_ms })))
}
