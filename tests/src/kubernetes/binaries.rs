//! Kubernetes' own commands, built once for a machine by hack/kubernetes-binaries.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ClusterError;

/// The script that builds them.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/kubernetes-binaries");

/// Directory with etcd, kube-apiserver and kubectl that somebody else keeps, as
/// tests of other operators name it.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// Where the commands are.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// All of them. The first call on a machine builds them, which takes minutes
    /// and is shown on standard error.
    ///
    /// # Errors
    /// [`ClusterError::Binaries`] with what the build said last.
    pub fn all() -> Result<Self, ClusterError> {
        let output = Command::new(SCRIPT)
            .stderr(Stdio::inherit())
            .output()
            .map_err(ClusterError::io(format!("starting {SCRIPT}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().last() {
            Some(dir) if output.status.success() => Ok(Self { dir: dir.into() }),
            _ => Err(ClusterError::Binaries(format!(
                "{SCRIPT} ended with {}; see above",
                output.status
            ))),
        }
    }

    /// etcd, kube-apiserver and kubectl at least: those of `KUBEBUILDER_ASSETS` when
    /// it is set, else [`Binaries::all`].
    ///
    /// # Errors
    /// As [`Binaries::all`].
    pub fn api_server() -> Result<Self, ClusterError> {
        match env::var_os(ASSETS_VARIABLE).filter(|dir| !dir.is_empty()) {
            Some(dir) => Ok(Self { dir: dir.into() }),
            None => Self::all(),
        }
    }

    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory, for `PATH`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one, such as `kubectl`, `helm`, `prometheus` or `promtool`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
