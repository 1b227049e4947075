//! A real Kubernetes: its control plane alone for tests that need only an API
//! server ([`ControlPlane`]), or a cluster with a node that runs pods, a DNS server
//! and a Kafka ([`Cluster::shared`]), which needs root.
//!
//! Its commands are built by hack/kubernetes-binaries, which needs Go. All of a
//! cluster is in one directory, and its node in namespaces of its own, so that the
//! machine keeps nothing of it. [`down`] removes what an interrupted run left.

mod access;
mod binaries;
mod cluster;
mod command;
mod containers;
mod control_plane;
mod dns;
mod error;
mod images;
mod installation;
mod kubeconfig;
mod namespace;
mod network;
mod node;
mod observed;
mod place;
mod scene;

pub use access::{CLUSTER_KAFKA_VARIABLE, CLUSTER_VARIABLE, Cluster, cluster_number};
pub use binaries::Binaries;
pub use cluster::{RunningCluster, down};
pub use control_plane::{Builder, ControlPlane, client};
pub use error::ClusterError;
pub use images::{IMAGES, Image};
pub use installation::Installation;
pub use namespace::Namespace;
pub use network::CLUSTERS;
pub use node::{NODE, Node};
pub use observed::{Condition, Pod};
pub use scene::Scene;
