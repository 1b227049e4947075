//! The harness's Kubernetes itself: its control plane, its node, and what it leaves.

#![forbid(unsafe_code)]

mod control_plane;
mod node;
mod remains;

/// Any failure of a test.
type Outcome = Result<(), Box<dyn std::error::Error>>;
