//! Where a cluster is: its directory, and the few things outside of it.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::network::Network;
use super::node::cgroups;
use super::{ClusterError, command};
use crate::wait;

/// In the directory: what a cluster makes outside of it, one a line.
const OUTSIDE: &str = "outside";

/// In the directory: id of the process that runs the cluster.
const HOLDER: &str = "holder";

/// Longest time for killed processes to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// Longest time for a cluster to be taken down by the process that runs it.
const DOWN_LIMIT: Duration = Duration::from_secs(60);

/// Names of the programs that a cluster runs, as the system shows them.
const PROGRAMS: [&str; 12] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "cluster-dns",
    "containerd",
    "containerd-shim-runc-v2",
    "nsenter",
    "unshare",
    "java",
];

/// The place of cluster `number`. A machine has 16, so that a test can bring up a
/// cluster of its own beside the one that others use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    number: u8,
}

/// Nobody else has the place. It is not a file, so it is gone with the process.
#[derive(Debug)]
pub(super) struct Held {
    _listener: UnixListener,
}

impl Place {
    pub(super) fn of(number: u8) -> Self {
        Self { number }
    }

    pub(super) fn network(self) -> Network {
        Network::of(self.number)
    }

    pub(super) fn dir(self) -> PathBuf {
        format!("/var/tmp/penstock-test-cluster-{}", self.number).into()
    }

    /// Name of the node's control groups.
    pub(super) fn cgroup(self) -> String {
        format!("penstock{}", self.number)
    }

    /// Takes the place for this process.
    pub(super) fn hold(self) -> Result<Held, ClusterError> {
        let name = format!("penstock-test-cluster-{}", self.number);
        let address = SocketAddr::from_abstract_name(name)
            .map_err(ClusterError::io("the name of the lock"))?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Held {
                _listener: listener,
            }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(ClusterError::Up(self.dir()))
            }
            Err(error) => Err(ClusterError::io("the lock")(error)),
        }
    }

    /// Makes the directory, empty, and the control groups. The list of what is
    /// outside of it is complete before anything is.
    pub(super) fn prepare(self, _: &Held) -> Result<(), ClusterError> {
        let dir = self.dir();
        fs::create_dir(&dir).map_err(ClusterError::io(dir.display().to_string()))?;
        let outside = format!(
            "interface {}\ncgroup {}\n",
            self.network().device(),
            self.cgroup()
        );
        write(&dir.join(OUTSIDE), &outside)?;
        write(&dir.join(HOLDER), &std::process::id().to_string())?;
        cgroups::create(&self.cgroup()).map_err(ClusterError::io("control groups"))
    }

    /// Ends the cluster that is here, whoever runs it, and removes what it left.
    pub(super) async fn clear(self) -> Result<(), ClusterError> {
        let held = match self.hold() {
            Ok(held) => held,
            Err(ClusterError::Up(_)) => {
                self.signal_holder(Signal::TERM);
                match self.wait_to_hold(DOWN_LIMIT).await {
                    Ok(held) => held,
                    Err(_) => {
                        self.signal_holder(Signal::KILL);
                        self.wait_to_hold(GONE_LIMIT).await?
                    }
                }
            }
            Err(error) => return Err(error),
        };
        self.remove(&held).await
    }

    /// Removes what a cluster left: one that ended, was killed, or was cut off by
    /// the end of the machine.
    pub(super) async fn remove(self, _: &Held) -> Result<(), ClusterError> {
        let dir = self.dir();
        let Ok(outside) = fs::read_to_string(dir.join(OUTSIDE)) else {
            return remove_dir(&dir);
        };
        let entries: Vec<_> = outside
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        let of_kind = |kind: &'static str| {
            let matching = entries.iter().filter(move |(found, _)| *found == kind);
            matching.map(|(_, name)| *name)
        };

        wait::value("the cluster's processes to end", GONE_LIMIT, async || {
            let mut alive = programs(&dir).map_err(|error| error.to_string())?;
            for cgroup in of_kind("cgroup") {
                let inside = cgroups::processes(cgroup).map_err(|error| error.to_string())?;
                alive.extend(inside);
            }
            for id in &alive {
                kill(*id, Signal::KILL);
            }
            match alive.is_empty() {
                true => Ok(()),
                false => Err(format!("still there: {alive:?}")),
            }
        })
        .await?;
        for cgroup in of_kind("cgroup") {
            wait::value(format!("cgroup {cgroup} to go"), GONE_LIMIT, async || {
                cgroups::remove(cgroup)
            })
            .await?;
        }
        for interface in of_kind("interface") {
            // It goes by itself, soon after the last process of the node.
            if Path::new("/sys/class/net").join(interface).exists() {
                let _ = command::run(Command::new("ip").args(["link", "delete", interface]));
            }
            wait::until(
                format!("interface {interface} to go"),
                GONE_LIMIT,
                async || !Path::new("/sys/class/net").join(interface).exists(),
            )
            .await?;
        }
        remove_dir(&dir)
    }

    fn signal_holder(self, signal: Signal) {
        let holder = fs::read_to_string(self.dir().join(HOLDER)).unwrap_or_default();
        if let Ok(id) = holder.parse() {
            kill(id, signal);
        }
    }

    async fn wait_to_hold(self, limit: Duration) -> Result<Held, ClusterError> {
        let what = "the process that runs the cluster to end";
        Ok(wait::value(what, limit, async || self.hold()).await?)
    }
}

/// Processes of programs that clusters run which were told `dir`.
fn programs(dir: &Path) -> io::Result<Vec<i32>> {
    let dir = dir.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may have ended meanwhile, and then has no command line.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let program = command.split('\0').next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        let told = command
            .split('\0')
            .skip(1)
            .any(|argument| is_below(argument, &dir));
        if PROGRAMS.contains(&name) && told {
            found.push(id);
        }
    }
    Ok(found)
}

/// Whether an argument names `dir` or something in it, and not one that is only
/// called alike.
fn is_below(argument: &str, dir: &str) -> bool {
    argument.split(dir).skip(1).any(|rest| {
        let next = rest.chars().next();
        next.is_none_or(|next| !next.is_alphanumeric())
    })
}

fn kill(id: i32, signal: Signal) {
    // One that has ended needs no signal.
    if let Some(pid) = Pid::from_raw(id) {
        let _ = kill_process(pid, signal);
    }
}

/// Removes a directory, with mounts in it if there are any.
fn remove_dir(dir: &Path) -> Result<(), ClusterError> {
    let what = || ClusterError::io(format!("removing {}", dir.display()));
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(what())?;
    let inside = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(dir));
    // The last mounted first.
    for path in inside.collect::<Vec<_>>().into_iter().rev() {
        command::run(Command::new("umount").arg(path))?;
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(what()(error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), ClusterError> {
    fs::write(path, text).map_err(ClusterError::io(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_1_is_not_taken_for_cluster_10() {
        assert!(is_below("--config=/t/cluster-1/a", "/t/cluster-1"));
        assert!(is_below("/t/cluster-1", "/t/cluster-1"));
        assert!(!is_below("--config=/t/cluster-10/a", "/t/cluster-1"));
        assert!(!is_below("--config=/t/other", "/t/cluster-1"));
    }

    #[test]
    fn a_place_is_held_by_one() {
        let place = Place::of(15);
        let held = place.hold().unwrap();
        assert!(matches!(place.hold(), Err(ClusterError::Up(_))));
        drop(held);
        assert!(place.hold().is_ok());
    }
}
