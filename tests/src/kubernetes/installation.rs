//! Penstock in a test cluster, installed by Helm from the chart.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use tokio::sync::OnceCell;

use super::{Cluster, ClusterError, command};

/// The chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/penstock");

/// Penstock's images, under which names the chart is told of them.
const IMAGES: [&str; 4] = [
    "image.repository=registry.example/penstock-operator",
    "image.tag=test",
    "runtime.image.repository=registry.example/penstock-runtime",
    "runtime.image.tag=test",
];

/// An installation of the chart.
#[derive(Clone, Debug)]
pub struct Installation {
    cluster: Cluster,
    namespace: String,
}

impl Installation {
    /// The installation that looks after all namespaces, as users have it: the first
    /// caller installs it, or brings an earlier one to what the chart says now. It
    /// goes with the cluster. Topics and lags are read every two seconds.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with Helm's output.
    pub async fn shared(cluster: &Cluster) -> Result<&'static Self, ClusterError> {
        static SHARED: OnceCell<Installation> = OnceCell::const_new();
        SHARED
            .get_or_try_init(async || {
                Self::install(cluster, "penstock-system", &["recheckInterval=2s"])
            })
            .await
    }

    /// Installs the release `penstock` in a namespace, or upgrades it, with these
    /// values too, and waits until it is ready.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with Helm's output.
    pub fn install(
        cluster: &Cluster,
        namespace: &str,
        values: &[&str],
    ) -> Result<Self, ClusterError> {
        Self::install_chart(cluster, Path::new(CHART), namespace, values)
    }

    /// The same from another directory, such as one with an older chart.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with Helm's output.
    pub fn install_chart(
        cluster: &Cluster,
        chart: &Path,
        namespace: &str,
        values: &[&str],
    ) -> Result<Self, ClusterError> {
        let mut helm = cluster.helm();
        helm.args(["upgrade", "--install", "penstock"])
            .arg(chart)
            .args(["--namespace", namespace, "--create-namespace"])
            .args(["--wait", "--timeout", "120s"]);
        for value in IMAGES.iter().chain(values) {
            helm.args(["--set", value]);
        }
        command::run(&mut helm)?;
        Ok(Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
        })
    }

    /// Uninstalls it and waits until its pods are gone.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with Helm's output.
    pub fn uninstall(&self) -> Result<(), ClusterError> {
        let mut helm = self.cluster.helm();
        helm.args(["uninstall", "penstock", "--wait", "--timeout", "120s"])
            .args(["--namespace", &self.namespace]);
        command::run(&mut helm)?;
        self.run_kubectl(["wait", "pod", "--all", "--for=delete", "--timeout=60s"])
            .map(drop)
    }

    /// The namespace that it is in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// kubectl in its namespace.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(["--namespace", &self.namespace]);
        kubectl
    }

    /// Runs kubectl in its namespace and gives what it wrote.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with its output when it fails.
    pub fn run_kubectl<I>(&self, arguments: I) -> Result<String, ClusterError>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        command::run(self.kubectl().args(arguments))
    }

    /// The chart's directory.
    pub fn chart() -> &'static Path {
        Path::new(CHART)
    }

    /// Runs `helm test`, and gives what it says.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with Helm's output when a test fails.
    pub fn test(&self) -> Result<String, ClusterError> {
        let mut helm = self.cluster.helm();
        helm.args(["test", "penstock", "--namespace", &self.namespace]);
        command::run(helm.args(["--timeout", "60s"]))
    }

    /// Address of one of the operator's pods.
    ///
    /// # Errors
    /// [`ClusterError`] when there is no such pod, or it has no address yet.
    pub fn address(&self, pod: &str) -> Result<IpAddr, ClusterError> {
        let address = "jsonpath={.status.podIP}";
        let text = self.run_kubectl(["get", "pod", pod, "-o", address])?;
        text.parse().map_err(|error| {
            ClusterError::io(format!("the address of {pod}"))(io::Error::other(error))
        })
    }

    /// What one of the operator's pods has logged.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when there is no such pod.
    pub fn log(&self, pod: &str) -> Result<String, ClusterError> {
        self.run_kubectl(["logs", pod])
    }

    /// Name of the operator's pod that holds the Lease.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when there is no Lease.
    pub fn leader(&self) -> Result<String, ClusterError> {
        let holder = "jsonpath={.spec.holderIdentity}";
        self.run_kubectl(["get", "lease", "penstock-operator", "-o", holder])
    }
}
