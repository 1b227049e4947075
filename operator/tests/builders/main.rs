//! From manifests to objects, without a cluster.

mod fields;
mod golden;
mod manifest;
mod properties;
mod strategy;
