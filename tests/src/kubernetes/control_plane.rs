//! etcd and the API server, with or without the controllers: as much of Kubernetes
//! as needs no root and no node.

mod api;
mod flags;

pub use api::client;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::binaries::Binaries;
use super::kubeconfig::Proof;
use super::{ClusterError, command, kubeconfig};
use crate::certificates::{Authority, Issued};
use crate::guard::Guard;
use crate::ports;
use crate::process::{Process, ProcessError, Program};

/// Longest time for each program to answer; usually 1 to 3 s.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Longest time for the API server to end, with watches open.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// How often other ports are tried when some were taken in the meantime.
const PORT_ATTEMPTS: usize = 3;

/// A control plane. Dropped, it is killed and its data removed; the same happens
/// when the test process ends in any way.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped first to last: the programs, then their files, then the guard of them.
    scheduler: Option<Process>,
    controllers: Option<Process>,
    api_server: Process,
    /// How it was called, to be called so again.
    api_server_arguments: Vec<String>,
    etcd: Process,
    files: Files,
    _temporary: Option<(TempDir, Guard)>,
    server: String,
    binaries: Binaries,
}

/// A control plane that is about to be started.
#[derive(Clone, Debug)]
pub struct Builder {
    controllers: bool,
    scheduler: bool,
    address: Ipv4Addr,
    services: String,
    api_server_flags: Vec<String>,
    dir: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            controllers: false,
            scheduler: false,
            address: Ipv4Addr::LOCALHOST,
            services: "10.96.0.0/16".into(),
            api_server_flags: Vec::new(),
            dir: None,
        }
    }
}

impl Builder {
    /// Runs kube-controller-manager as well: it makes pods of deployments, service
    /// accounts of namespaces, and deletes what has lost its owner. Without it pods
    /// are admitted without a service account.
    #[must_use]
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// Runs kube-scheduler as well: it gives pods to nodes.
    #[must_use]
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Adds a flag of kube-apiserver, such as `--max-requests-inflight=10`.
    #[must_use]
    pub fn api_server_flag(mut self, flag: impl Into<String>) -> Self {
        self.api_server_flags.push(flag.into());
        self
    }

    /// Serves at `address`, which pods reach, instead of 127.0.0.1, and gives
    /// services their addresses from the range `services`.
    pub(super) fn network(mut self, address: Ipv4Addr, services: &str) -> Self {
        self.address = address;
        self.services = services.into();
        self
    }

    /// Keeps its files in `dir`, which somebody else removes.
    pub(super) fn dir(mut self, dir: PathBuf) -> Self {
        self.dir = Some(dir);
        self
    }

    /// Starts it and waits until the API server is ready.
    ///
    /// # Errors
    /// [`ClusterError`] says which program failed, with its last lines.
    pub async fn start(self) -> Result<ControlPlane, ClusterError> {
        let mut attempt = 1;
        loop {
            match self.clone().start_once().await {
                Err(ClusterError::Process(ProcessError::Ended { tail, .. }))
                    if attempt < PORT_ATTEMPTS && tail.contains("address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once(self) -> Result<ControlPlane, ClusterError> {
        let binaries = self.binaries().await?;
        let (files, temporary) = self.files()?;
        let [etcd_client, etcd_peer] =
            ports::free("127.0.0.1").map_err(ClusterError::io("a free port"))?;
        let [port] = ports::free(&self.address.to_string())
            .map_err(ClusterError::io(format!("a free port of {}", self.address)))?;
        let server = format!("https://{}:{port}", self.address);
        files.write_kubeconfigs(&server)?;

        let etcd = Program::new(binaries.path("etcd"))
            .args(flags::etcd(&files.dir, etcd_client, etcd_peer))
            .start()?;
        let mut arguments = flags::api_server(&self, &files, port, etcd_client);
        arguments.extend(self.api_server_flags.clone());
        let api_server = Program::new(binaries.path("kube-apiserver"))
            .args(&arguments)
            .start()?;
        let mut control_plane = ControlPlane {
            scheduler: None,
            controllers: None,
            api_server,
            api_server_arguments: arguments,
            etcd,
            files,
            _temporary: temporary,
            server,
            binaries,
        };
        control_plane.wait_until_ready().await?;
        control_plane.start_controllers(&self)?;
        Ok(control_plane)
    }

    async fn binaries(&self) -> Result<Binaries, ClusterError> {
        let alone = !self.controllers && !self.scheduler;
        let find = move || match alone {
            true => Binaries::api_server(),
            false => Binaries::all(),
        };
        spawn_blocking(find)
            .await
            .map_err(|error| ClusterError::io("finding the commands")(error.into()))?
    }

    fn files(&self) -> Result<(Files, Option<(TempDir, Guard)>), ClusterError> {
        if let Some(dir) = &self.dir {
            return Ok((Files::create(dir, self)?, None));
        }
        let dir = TempDir::with_prefix("penstock-control-plane-")
            .map_err(ClusterError::io("a temporary directory"))?;
        let guard =
            Guard::remove_dir(dir.path()).map_err(ClusterError::io("a guard of the data"))?;
        Ok((Files::create(dir.path(), self)?, Some((dir, guard))))
    }

    /// Address of the service `kubernetes`: the first of the range.
    fn own_service(&self) -> String {
        let network = self.services.split('/').next().unwrap_or_default();
        match network.parse::<Ipv4Addr>() {
            Ok(address) => Ipv4Addr::from_bits(address.to_bits() + 1).to_string(),
            Err(_) => network.to_owned(),
        }
    }
}

/// What the programs read.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    pub(super) authority: Authority,
    serving: Issued,
    service_accounts: Issued,
    admin: Issued,
    controllers: Issued,
    scheduler: Issued,
}

impl Files {
    fn create(dir: &Path, settings: &Builder) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(ClusterError::io(dir.display().to_string()))?;
        let authority = Authority::create(dir)?;
        let names = format!(
            "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
             IP:127.0.0.1,IP:{},IP:{}",
            settings.address,
            settings.own_service()
        );
        Ok(Self {
            dir: dir.to_owned(),
            serving: authority.issue("apiserver", "/CN=kube-apiserver", Some(&names))?,
            service_accounts: authority.issue("accounts", "/CN=service-accounts", None)?,
            admin: authority.issue("admin", "/O=system:masters/CN=admin", None)?,
            controllers: authority.issue(
                "controllers",
                "/CN=system:kube-controller-manager",
                None,
            )?,
            scheduler: authority.issue("scheduler", "/CN=system:kube-scheduler", None)?,
            authority,
        })
    }

    fn write_kubeconfigs(&self, server: &str) -> Result<(), ClusterError> {
        for (name, client) in [
            ("kubeconfig", &self.admin),
            ("controllers.kubeconfig", &self.controllers),
            ("scheduler.kubeconfig", &self.scheduler),
        ] {
            let proof = Proof::Certificate(client);
            kubeconfig::write(&self.dir.join(name), server, &self.authority, &proof)?;
        }
        Ok(())
    }
}

impl ControlPlane {
    /// A control plane with more than the API server, or with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// etcd and an API server.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, ClusterError> {
        Self::builder().start().await
    }

    /// Kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.dir.join("kubeconfig")
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Its commands.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The API server's process, to be frozen or killed.
    pub fn api_server(&self) -> &Process {
        &self.api_server
    }

    /// Stops the API server as an upgrade does: it has time to end what it has begun.
    /// etcd stays, and keeps what it has.
    ///
    /// # Errors
    /// [`ClusterError::Process`] when it does not end.
    pub async fn stop_api_server(&mut self) -> Result<(), ClusterError> {
        self.api_server.terminate()?;
        self.api_server.wait(STOP_LIMIT).await?;
        Ok(())
    }

    /// Starts the API server again, on the same port and the same etcd, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start_api_server(&mut self) -> Result<(), ClusterError> {
        self.api_server = Program::new(self.binaries.path("kube-apiserver"))
            .args(&self.api_server_arguments)
            .start()?;
        self.wait_until_ready().await
    }

    /// etcd's process.
    pub fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// The controllers' process, if they run.
    pub fn controllers(&self) -> Option<&Process> {
        self.controllers.as_ref()
    }

    /// The scheduler's process, if it runs.
    pub fn scheduler(&self) -> Option<&Process> {
        self.scheduler.as_ref()
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.binaries.path("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    async fn wait_until_ready(&self) -> Result<(), ClusterError> {
        let address = self.server.trim_start_matches("https://");
        let ready = self
            .api_server
            .wait_for("the API server to be ready", START_LIMIT, async || {
                TcpStream::connect(address).map_err(|error| error.to_string())?;
                let mut kubectl = self.kubectl();
                kubectl.args(["get", "--raw=/readyz"]);
                spawn_blocking(move || command::run(&mut kubectl))
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            })
            .await;
        match (ready, self.etcd.status()) {
            (Ok(_), _) => Ok(()),
            // The API server's failure follows from etcd's, which tells more.
            (Err(_), Some(status)) => Err(ProcessError::Ended {
                name: "etcd".into(),
                status,
                what: "the API server was ready".into(),
                tail: self.etcd.tail(),
            }
            .into()),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn start_controllers(&mut self, settings: &Builder) -> Result<(), ClusterError> {
        let [controllers, scheduler] =
            ports::free("127.0.0.1").map_err(ClusterError::io("a free port"))?;
        if settings.controllers {
            let program = Program::new(self.binaries.path("kube-controller-manager"))
                .args(flags::controllers(&self.files, controllers));
            self.controllers = Some(program.start()?);
        }
        if settings.scheduler {
            let program = Program::new(self.binaries.path("kube-scheduler"))
                .args(flags::scheduler(&self.files, scheduler));
            self.scheduler = Some(program.start()?);
        }
        Ok(())
    }
}
