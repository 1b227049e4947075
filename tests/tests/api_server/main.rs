//! The CRD and the operator on a real API server, without nodes.
//!
//! The API server is shared, and so is a Kafka that only says which topics there are.
//! Each test of the operator has a namespace of its own, and an operator that looks
//! after that alone; a test that needs the whole cluster starts one of its own.

#![forbid(unsafe_code)]

mod admission;
mod agreement;
mod config_maps;
mod defaults;
mod drift;
mod explain;
mod leader;
mod outage;
mod policies;
mod refusals;
mod rights;
mod scene;
mod subresources;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;
