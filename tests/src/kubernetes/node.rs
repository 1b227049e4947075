//! A node that runs pods: containerd, the kubelet and kube-proxy, in namespaces of
//! their own, so that the machine has none of their mounts, interfaces or rules.

pub(super) mod cgroups;
mod namespaces;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::control_plane::ControlPlane;
use super::images::{self, PAUSE};
use super::network::Network;
use super::{ClusterError, command, kubeconfig};
use crate::process::Process;
use namespaces::Namespaces;

/// The name of the node.
pub const NODE: &str = "penstock-node";

/// Where distributions and others put CNI's plugins.
const CNI_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Commands that a node needs, and their Debian packages.
const COMMANDS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];

/// Longest time for each program to answer; usually 1 s, and 5 for the kubelet.
const LIMIT: Duration = Duration::from_secs(90);

/// Namespaces with containerd in them, which has no images yet and belongs to no
/// cluster.
#[derive(Debug)]
pub(super) struct Runtime {
    // Dropped first to last.
    containerd: Process,
    namespaces: Namespaces,
    dir: PathBuf,
    network: Network,
}

/// A node of a cluster. Dropped, it and its pods end at once.
#[derive(Debug)]
pub struct Node {
    // Dropped first to last.
    kube_proxy: Process,
    kubelet: Process,
    runtime: Runtime,
}

/// Whether this machine and user can have a node.
///
/// # Errors
/// [`ClusterError::NotRoot`], [`ClusterError::Missing`].
pub(super) fn check() -> Result<(), ClusterError> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(ClusterError::NotRoot(user.as_raw()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    for (name, package) in COMMANDS {
        if !has(name) {
            return Err(ClusterError::Missing(format!("{name} (package {package})")));
        }
    }
    cni_plugins().map(drop)
}

fn cni_plugins() -> Result<&'static Path, ClusterError> {
    let found = CNI_PLUGINS
        .iter()
        .map(Path::new)
        .find(|dir| dir.join("ptp").is_file());
    found.ok_or_else(|| {
        ClusterError::Missing("CNI's plugins (package containernetworking-plugins)".into())
    })
}

impl Runtime {
    pub(super) async fn start(dir: PathBuf, network: Network) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir.join("cni")).map_err(ClusterError::io(dir.display().to_string()))?;
        let namespaces = Namespaces::start(&dir, network).await?;
        let cni = dir.join("cni");
        write(&cni.join("pods.conflist"), settings::cni(network))?;
        let config = dir.join("containerd.toml");
        write(&config, settings::containerd(&cni, cni_plugins()?, PAUSE))?;

        let containerd = namespaces
            .program("containerd")
            .arg("--config")
            .arg(&config)
            .start()?;
        let runtime = Self {
            containerd,
            namespaces,
            dir,
            network,
        };
        let answers = async || command::run(runtime.ctr().args(["version"]));
        let containerd = &runtime.containerd;
        containerd.wait_for("containerd", LIMIT, answers).await?;
        Ok(runtime)
    }

    /// Gives containerd the images in an archive.
    pub(super) fn import(&self, archive: &Path) -> Result<(), ClusterError> {
        let mut ctr = self.ctr();
        ctr.args(["images", "import"]).arg(archive);
        command::run(&mut ctr).map(drop)
    }

    /// containerd's client, among the images and containers of Kubernetes.
    fn ctr(&self) -> Command {
        let mut ctr = self.namespaces.command("ctr");
        ctr.args(["--namespace", images::NAMESPACE]);
        ctr
    }
}

impl Node {
    /// Joins `runtime` to the cluster and waits until the node is ready.
    pub(super) async fn join(
        runtime: Runtime,
        control_plane: &ControlPlane,
        cgroup: &str,
    ) -> Result<Self, ClusterError> {
        let authority = &control_plane.files().authority;
        let kubelet_config = runtime.dir.join("kubelet.json");
        let settings = settings::kubelet(runtime.network, &authority.certificate(), cgroup);
        write(&kubelet_config, settings)?;
        for (name, subject) in [
            ("kubelet", format!("/O=system:nodes/CN=system:node:{NODE}")),
            ("kube-proxy", "/CN=system:kube-proxy".to_owned()),
        ] {
            let client = authority.issue(name, &subject, None)?;
            let path = runtime.dir.join(format!("{name}.kubeconfig"));
            let proof = kubeconfig::Proof::Certificate(&client);
            kubeconfig::write(&path, control_plane.server(), authority, &proof)?;
        }

        let program = |name: &str| {
            let kubeconfig = runtime.dir.join(format!("{name}.kubeconfig"));
            runtime
                .namespaces
                .program(control_plane.binaries().path(name))
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .arg(format!("--hostname-override={NODE}"))
        };
        let kubelet = program("kubelet")
            .arg(format!("--config={}", kubelet_config.display()))
            .arg(format!("--node-ip={}", runtime.network.node()))
            .start()?;
        let kube_proxy = program("kube-proxy")
            .arg("--proxy-mode=iptables")
            .arg(format!("--cluster-cidr={}", runtime.network.pods()))
            .arg("--iptables-min-sync-period=100ms")
            // These belong to the whole machine.
            .args([
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
            ])
            .arg("--conntrack-tcp-timeout-close-wait=0")
            .start()?;
        let node = Self {
            kube_proxy,
            kubelet,
            runtime,
        };
        node.wait_until_ready(control_plane).await?;
        Ok(node)
    }

    /// The kubelet's process, to be frozen or killed.
    pub fn kubelet(&self) -> &Process {
        &self.kubelet
    }

    /// kube-proxy's process.
    pub fn kube_proxy(&self) -> &Process {
        &self.kube_proxy
    }

    /// containerd's process.
    pub fn containerd(&self) -> &Process {
        &self.runtime.containerd
    }

    async fn wait_until_ready(&self, control_plane: &ControlPlane) -> Result<(), ClusterError> {
        let kubectl = async |arguments: &[&str]| {
            let mut kubectl = control_plane.kubectl();
            kubectl.args(arguments);
            spawn_blocking(move || command::run(&mut kubectl))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())
        };
        let message = r#"jsonpath={.status.conditions[?(@.type=="Ready")].message}"#;
        let probe = async || {
            // It waits, but not for long: the kubelet may end meanwhile.
            let name = format!("node/{NODE}");
            let wait = ["wait", "--for=condition=Ready", "--timeout=2s", &name];
            match kubectl(&wait).await {
                Ok(_) => Ok(()),
                Err(_) => Err(kubectl(&["get", &name, "-o", message]).await?),
            }
        };
        self.kubelet
            .wait_for("the node to be ready", LIMIT, probe)
            .await?;
        Ok(())
    }
}

fn write(path: &Path, text: impl ToString) -> Result<(), ClusterError> {
    fs::write(path, text.to_string()).map_err(ClusterError::io(path.display().to_string()))
}
