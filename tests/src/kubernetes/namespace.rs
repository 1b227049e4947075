//! A namespace of a test's own.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::spawn_blocking;

use super::{Cluster, ClusterError, command};
use crate::{topics, wait};

/// Longest time for a new namespace to be ready for pods; usually less than 1 s.
const LIMIT: Duration = Duration::from_secs(30);

/// A namespace, deleted with all in it when dropped.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Cluster {
    /// A new namespace, whose name begins with `stem`, ready for pods.
    ///
    /// # Errors
    /// [`ClusterError`] when it can't be made.
    pub async fn namespace(&self, stem: &str) -> Result<Namespace, ClusterError> {
        let name = topics::unique(stem);
        self.run_kubectl(["create", "namespace", &name])?;
        let namespace = Namespace {
            cluster: self.clone(),
            name,
        };
        // Pods are refused until it has its service account.
        namespace
            .wait_until("serviceaccount/default", "create", LIMIT)
            .await?;
        Ok(namespace)
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies a manifest, YAML or JSON.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with what kubectl said.
    pub fn apply(&self, manifest: &str) -> Result<String, ClusterError> {
        command::run_on(self.kubectl().args(["apply", "-f", "-"]), manifest)
    }

    /// Runs kubectl in this namespace and gives what it wrote.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with its output when it fails.
    pub fn run_kubectl<I>(&self, arguments: I) -> Result<String, ClusterError>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        command::run(self.kubectl().args(arguments))
    }

    /// Waits for an object as `kubectl wait` does: `condition` is one such as
    /// `condition=Ready`, `create`, `delete` or `jsonpath={…}=…`.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] after `limit`, with the object as it is then.
    pub async fn wait_until(
        &self,
        object: &str,
        condition: &str,
        limit: Duration,
    ) -> Result<(), ClusterError> {
        let what = format!("{condition} of {object}");
        let probe = async || {
            let mut wait = self.kubectl();
            wait.args(["wait", object, "--timeout=5s"]);
            wait.arg(format!("--for={condition}"));
            let waited = spawn_blocking(move || command::run(&mut wait)).await;
            match waited.map_err(|error| error.to_string())? {
                Ok(_) => Ok(()),
                Err(error) => Err(self.describe(object).unwrap_or(error.to_string())),
            }
        };
        Ok(wait::value(what, limit, probe).await?)
    }

    /// Ids, on this machine, of the processes of a container that runs.
    ///
    /// # Errors
    /// As [`Cluster::processes`].
    pub fn processes(&self, pod: &str, container: &str) -> Result<Vec<i32>, ClusterError> {
        self.cluster.processes(&self.name, pod, container)
    }

    /// Signals all processes of a container, as no API can: with SIGKILL it ends as in
    /// a crash, with SIGSTOP it hangs.
    ///
    /// # Errors
    /// As [`Cluster::processes`].
    pub fn signal(&self, pod: &str, container: &str, signal: Signal) -> Result<(), ClusterError> {
        self.cluster.signal(&self.name, pod, container, signal)
    }

    fn describe(&self, object: &str) -> Option<String> {
        self.run_kubectl(["describe", object]).ok()
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(["--namespace", &self.name]);
        kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // One that stays goes with the cluster.
        let _ = self
            .cluster
            .run_kubectl(["delete", "namespace", &self.name, "--wait=false"]);
    }
}
