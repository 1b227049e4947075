//! From manifests to objects, without a cluster.

mod golden;
mod manifest;
mod properties;
mod strategy;
