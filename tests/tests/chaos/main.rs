//! Penstock in a real cluster while something goes wrong: rollouts under load, pods
//! and containers that are killed, brokers that are away, messages and objects that
//! can't be handled.
//!
//! All tests share the cluster and the installation and leave the operator alone;
//! what disturbs that is in the tests `installation`.

#![forbid(unsafe_code)]

mod kafka;
mod kills;
mod poison;
mod refusals;
mod rollout;
mod unreadable;
mod varied;

use std::time::Duration;

use penstock_tests::kubernetes::Scene;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = Scene::LIMIT;
