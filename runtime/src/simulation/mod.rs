//! Whole runs of the engine on a simulated Kafka, each decided by one seed.
//!
//! A [`Scenario`] says which members come, go, die and freeze, what Kafka does to them,
//! and how the handler takes each message. [`run`] plays it on one thread under paused
//! time, on the engine that every consumer runs on, and gives the evidence: each delivery,
//! each commit, and the end of each process. The rules that judge it, the shrinker and the
//! command line are in `tests/simulator`.

pub mod conformance;
mod freeze;
mod handler;
mod ledger;
mod losses;
mod record;
mod run;
mod scenario;

pub use ledger::{Cut, Produced, Removal, log_at, passed_below};
pub use losses::Loss;
pub use record::{Delivery, Happened, Verdict};
pub use run::{Committed, Letter, Run, Tenure, run};
pub use scenario::{
    Answer, Attempt, DEAD_LETTERS, Event, GROUP, MAX_MEMBERS, Message, Mode, OUTPUT, OnFailure,
    Protocol, Refusal, Scenario, Shape, TOPIC,
};
