//! The files in the repository that are generated from the types and rules.

use crate::{crd, reference};

/// Paths from the root of the repository, and what the files must hold.
pub fn files() -> Vec<(&'static str, String)> {
    vec![
        ("crds/kafkaconsumers.yaml", crd::yaml()),
        ("docs/configuration.md", reference::markdown()),
    ]
}
