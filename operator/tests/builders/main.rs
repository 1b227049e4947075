//! From manifests to objects, without a cluster.

mod decision;
mod fields;
mod golden;
mod manifest;
mod properties;
mod strategy;
