//! Penstock in a real cluster: the chart, the operator, pods, Kafka.
//!
//! All tests share the cluster and the installation; each has a namespace, topics
//! and groups of its own.

#![forbid(unsafe_code)]

mod modes;

use std::time::Duration;

use penstock_tests::kubernetes::Scene;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Longest time for what takes seconds on a quiet machine.
const LIMIT: Duration = Scene::LIMIT;
