//! How to use a cluster that is up.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::binaries::Binaries;
use super::place::Place;
use super::{CLUSTERS, ClusterError, command, node};
use crate::process::find_binary;
use crate::wait;

/// Variable with the directory of a cluster that is up, for [`Cluster::shared`].
pub const CLUSTER_VARIABLE: &str = "PENSTOCK_TEST_CLUSTER";

/// Variable with the bootstrap address of its Kafka.
pub const CLUSTER_KAFKA_VARIABLE: &str = "PENSTOCK_TEST_CLUSTER_KAFKA";

/// Variable with the number of the cluster that is brought up, where it is not 0, the
/// one that people and tests use.
const NUMBER_VARIABLE: &str = "PENSTOCK_TEST_CLUSTER_NUMBER";

/// In the directory of a cluster, once it is up.
const FILE: &str = "access.json";

/// Longest time for a cluster to come up, without building anything.
const UP_LIMIT: Duration = Duration::from_secs(300);

/// The number of the cluster that `PENSTOCK_TEST_CLUSTER_NUMBER` asks for, below
/// [`CLUSTERS`].
///
/// # Errors
/// [`ClusterError::Number`] when there is no such cluster.
pub fn cluster_number() -> Result<u8, ClusterError> {
    match env::var(NUMBER_VARIABLE) {
        Err(_) => Ok(0),
        Ok(text) => match text.parse() {
            Ok(number) if number < CLUSTERS => Ok(number),
            _ => Err(ClusterError::Number(text)),
        },
    }
}

/// A cluster that is up, whoever runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) holder: u32,
    pub(super) kubeconfig: PathBuf,
    pub(super) commands: PathBuf,
    pub(super) kafka: String,
    pub(super) host: Ipv4Addr,
    pub(super) images: Vec<String>,
    pub(super) cgroup: String,
}

impl Cluster {
    /// The cluster that all tests of a binary share, or of all binaries when
    /// `PENSTOCK_TEST_CLUSTER` names one that is up. The first caller brings it up;
    /// it is taken down when the test process ends in any way.
    ///
    /// # Errors
    /// [`ClusterError`] says what a node needs and this machine or user lacks, or
    /// which step failed. The next caller tries again.
    pub async fn shared() -> Result<&'static Self, ClusterError> {
        static SHARED: OnceCell<(Cluster, Option<ChildStdin>)> = OnceCell::const_new();
        let shared = SHARED
            .get_or_try_init(async || match env::var_os(CLUSTER_VARIABLE) {
                Some(dir) if !dir.is_empty() => Ok((Self::at(Path::new(&dir))?, None)),
                _ => {
                    let (cluster, mut child) = bring_up(Stay::WithInput).await?;
                    Ok((cluster, child.stdin.take()))
                }
            })
            .await;
        shared.map(|(cluster, _)| cluster)
    }

    /// Brings up a cluster that stays up when this process ends, until
    /// [`down`](super::down) is called.
    ///
    /// # Errors
    /// As [`Cluster::shared`].
    pub async fn leave_up() -> Result<Self, ClusterError> {
        Ok(bring_up(Stay::Up).await?.0)
    }

    /// The cluster in a directory, as `PENSTOCK_TEST_CLUSTER` names it.
    ///
    /// # Errors
    /// [`ClusterError::NoCluster`].
    pub fn at(dir: &Path) -> Result<Self, ClusterError> {
        let fail = |error: String| ClusterError::NoCluster {
            path: dir.to_owned(),
            error,
        };
        let text = fs::read(dir.join(FILE)).map_err(|error| fail(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))
    }

    /// Says in its directory that it is up.
    pub(super) fn publish(&self) -> Result<(), ClusterError> {
        let path = self.dir.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| ClusterError::io(FILE)(error.into()))?;
        // Renamed, so that it is never seen half written.
        let draft = path.with_extension("draft");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(ClusterError::io(path.display().to_string()))
    }

    /// Kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Kubernetes' commands, of the cluster's version.
    pub fn binaries(&self) -> Binaries {
        Binaries::at(self.commands.clone())
    }

    /// Bootstrap address of the cluster's Kafka, for pods and for this machine.
    pub fn kafka(&self) -> &str {
        &self.kafka
    }

    /// Address of this machine that pods reach, for servers of a test's own.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// The images that its node has, as pods name them.
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Variables that make a command use it.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.commands.clone()).chain(env::split_paths(&path));
        vec![
            ("KUBECONFIG", self.kubeconfig.clone().into()),
            // Only a directory with a colon in it can't be joined, and came from no PATH.
            ("PATH", env::join_paths(dirs).unwrap_or(path)),
            (CLUSTER_VARIABLE, self.dir.clone().into()),
            (CLUSTER_KAFKA_VARIABLE, self.kafka.clone().into()),
        ]
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        self.command("kubectl")
    }

    /// helm as the administrator.
    pub fn helm(&self) -> Command {
        self.command("helm")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.commands.join(name));
        command.envs(self.environment());
        command
    }

    /// Runs kubectl with these arguments and gives what it wrote.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with its output when it fails.
    pub fn run_kubectl<I>(&self, arguments: I) -> Result<String, ClusterError>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        command::run(self.kubectl().args(arguments))
    }
}

/// How long a cluster stays up.
#[derive(Clone, Copy)]
enum Stay {
    /// Until it is taken down.
    Up,
    /// Until the process that asked for it ends, in whatever way.
    WithInput,
}

/// A cluster in a process of its own, which takes it down in order.
async fn bring_up(stay: Stay) -> Result<(Cluster, Child), ClusterError> {
    node::check()?;
    let place = Place::of(cluster_number()?);
    // What takes minutes on the first run is shown, and not counted.
    spawn_blocking(Binaries::all)
        .await
        .map_err(|error| ClusterError::io("a thread")(error.into()))??;
    let log = tempfile::tempfile().map_err(ClusterError::io("a log file"))?;
    let share = || log.try_clone().map_err(ClusterError::io("a log file"));
    let mut command = Command::new(find_binary("penstock-test-cluster")?);
    match stay {
        Stay::Up => command.arg("up").stdin(Stdio::null()),
        Stay::WithInput => command
            .args(["up", "--until-input-ends"])
            .stdin(Stdio::piped()),
    };
    let mut child = command
        .stdout(share()?)
        .stderr(share()?)
        .process_group(0)
        .spawn()
        .map_err(ClusterError::io("starting penstock-test-cluster"))?;
    let cluster = wait_until_up(place, &mut child, log).await?;
    Ok((cluster, child))
}

/// Waits until the cluster that `child` brings up is there.
async fn wait_until_up(
    place: Place,
    child: &mut Child,
    log: fs::File,
) -> Result<Cluster, ClusterError> {
    let dir = place.dir();
    let up = wait::value("the cluster to be up", UP_LIMIT, async || {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Err(status)),
            Err(error) => return Err(error.to_string()),
            Ok(None) => {}
        }
        match Cluster::at(&dir) {
            // Not what an earlier process left.
            Ok(cluster) if cluster.holder == child.id() => Ok(Ok(cluster)),
            Ok(_) => Err("an earlier cluster".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    up.map_err(|status| ClusterError::Command {
        command: "penstock-test-cluster up".into(),
        status: status.to_string(),
        output: read_log(log),
    })
}

fn read_log(mut log: fs::File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    // What can't be read can't be shown.
    let _ = log.rewind().and_then(|()| log.read_to_string(&mut text));
    text.trim_end().to_owned()
}
