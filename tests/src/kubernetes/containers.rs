//! Containers as the processes that they are on this machine.

use std::io;

use rustix::process::{Pid, Signal, kill_process};

use super::node::cgroups;
use super::{Cluster, ClusterError};

impl Cluster {
    /// Ids, on this machine, of the processes of a container that runs.
    ///
    /// # Errors
    /// [`ClusterError`] when there is no such pod, or no such container in it.
    pub fn processes(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<i32>, ClusterError> {
        let status = ["containerStatuses", "initContainerStatuses"]
            .map(|list| format!(r#"{{.status.{list}[?(@.name=="{container}")].containerID}}"#))
            .concat();
        let output = format!("jsonpath={status}");
        let id = self.run_kubectl(["--namespace", namespace, "get", "pod", pod, "-o", &output])?;
        let id = id.rsplit('/').next().unwrap_or_default();
        let what = format!("the processes of {container} in {pod}");
        if id.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "it does not run");
            return Err(ClusterError::io(what)(error));
        }
        cgroups::container(&self.cgroup, id).map_err(ClusterError::io(what))
    }

    /// Signals all processes of a container, as no API can: with SIGKILL it ends as in
    /// a crash, with SIGSTOP it hangs.
    ///
    /// # Errors
    /// As [`Cluster::processes`].
    pub fn signal(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        signal: Signal,
    ) -> Result<(), ClusterError> {
        for id in self.processes(namespace, pod, container)? {
            if let Some(pid) = Pid::from_raw(id) {
                let what = format!("signalling {container} in {pod}");
                kill_process(pid, signal).map_err(|errno| ClusterError::io(what)(errno.into()))?;
            }
        }
        Ok(())
    }
}
