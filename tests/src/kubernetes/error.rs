//! What can go wrong with a cluster.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::CLUSTERS;
use crate::certificates::CertificateError;
use crate::kafka::KafkaError;
use crate::process::ProcessError;
use crate::wait::TimedOut;

/// A cluster can't be had, or can't be taken down.
#[derive(thiserror::Error)]
pub enum ClusterError {
    /// Kubernetes' own commands can't be built.
    #[error("Kubernetes' commands can't be had:\n{0}")]
    Binaries(String),
    /// Certificates can't be made.
    #[error("certificates can't be made: {0}")]
    Certificates(#[from] CertificateError),
    /// A program of the cluster.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Something did not come.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The broker beside the cluster.
    #[error("the cluster's Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A file, a port, a mount.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// A command that was run to its end failed.
    #[error("{command} failed ({status}):\n{output}")]
    Command {
        /// How it was called.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// A kubeconfig can't be used.
    #[error("{}: {error}", .path.display())]
    Client {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// A node needs root.
    #[error(
        "a node needs root, to make namespaces, interfaces and mounts, and this runs as user \
         {0}; tests without a node use ControlPlane"
    )]
    NotRoot(u32),
    /// A node needs packages that are not there.
    #[error("a node needs {0}, which this machine lacks: run hack/setup test")]
    Missing(String),
    /// Another process runs a cluster of this number.
    #[error("a test cluster is up already, in {}; `make cluster-down` ends it", .0.display())]
    Up(PathBuf),
    /// The number asked for is none.
    #[error("PENSTOCK_TEST_CLUSTER_NUMBER={0}: not a number below {CLUSTERS}")]
    Number(String),
    /// There is no cluster to use.
    #[error("there is no test cluster in {}: {error}", .path.display())]
    NoCluster {
        /// Where it should be.
        path: PathBuf,
        /// Why it can't be used.
        error: String,
    },
}

/// As for people: a test that ends with an error is shown this way.
impl fmt::Debug for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ClusterError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
