//! What tests do through the API server, as an administrator or as somebody with
//! fewer rights.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::spawn_blocking;

use super::super::{ClusterError, command, kubeconfig, kubeconfig::Proof};
use super::ControlPlane;
use crate::wait;

/// Longest time for the API server to serve a new resource; usually 1 s.
const CRD_LIMIT: Duration = Duration::from_secs(60);

/// The KafkaConsumer resource, as users apply it.
const CRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/kafkaconsumers.yaml");

/// A client with the rights of a kubeconfig.
///
/// # Errors
/// [`ClusterError::Client`] when the file can't be used.
pub async fn client(kubeconfig: &Path) -> Result<Client, ClusterError> {
    let fail = |error: &dyn std::fmt::Display| ClusterError::Client {
        path: kubeconfig.to_owned(),
        error: error.to_string(),
    };
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| fail(&error))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(&error))?;
    Client::try_from(config).map_err(|error| fail(&error))
}

impl ControlPlane {
    /// A client of an administrator.
    ///
    /// # Errors
    /// As [`client`].
    pub async fn client(&self) -> Result<Client, ClusterError> {
        client(&self.kubeconfig()).await
    }

    /// Runs kubectl as the administrator and gives what it wrote.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with its output when it fails.
    pub fn run_kubectl<I>(&self, arguments: I) -> Result<String, ClusterError>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        command::run(self.kubectl().args(arguments))
    }

    /// Applies manifests, YAML or JSON, by server-side apply.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with what kubectl said.
    pub fn apply(&self, manifests: &str) -> Result<String, ClusterError> {
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "--server-side", "-f", "-"]);
        command::run_on(&mut kubectl, manifests)
    }

    /// Asks the API server, through kubectl, whether it takes a text of manifests, and
    /// keeps nothing.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with what kubectl said when it does not.
    pub fn try_create(&self, manifests: &str) -> Result<String, ClusterError> {
        let mut kubectl = self.kubectl();
        kubectl.args(["create", "--dry-run=server", "--validate=strict", "-f", "-"]);
        command::run_on(&mut kubectl, manifests)
    }

    /// Makes the API server know KafkaConsumers.
    ///
    /// # Errors
    /// [`ClusterError`] when it does not take the resource, or does not serve it.
    pub async fn install_crd(&self) -> Result<(), ClusterError> {
        self.run_kubectl(["apply", "--server-side", "-f", CRD])?;
        wait::value("KafkaConsumers to be served", CRD_LIMIT, async || {
            let mut list = self.kubectl();
            list.args(["get", "kafkaconsumers", "--all-namespaces"]);
            spawn_blocking(move || command::run(&mut list))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())
        })
        .await?;
        Ok(())
    }

    /// A kubeconfig with the rights of a service account, which must exist.
    ///
    /// # Errors
    /// [`ClusterError::Command`] when it does not.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf, ClusterError> {
        let token = self.run_kubectl(["create", "token", account, "--namespace", namespace])?;
        let name = format!("{namespace}-{account}.kubeconfig");
        let path = self.files.dir.join(name);
        let proof = Proof::Token(token.trim());
        kubeconfig::write(&path, &self.server, &self.files.authority, &proof)?;
        Ok(path)
    }
}
