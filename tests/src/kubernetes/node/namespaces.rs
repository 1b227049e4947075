//! The namespaces that a node runs in: its processes, mounts and network are not
//! the machine's, and end with the first process in them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::network::Network;
use super::super::{ClusterError, command};
use crate::process::{Process, Program};

const SCRIPT: &str = include_str!("../../../kubernetes/node.sh");

const LIMIT: Duration = Duration::from_secs(30);

/// Namespaces, with a link to the machine. Dropped, all that runs in them ends.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Dropped, it takes the first process in the namespaces with it.
    _process: Process,
    /// Id of that first process.
    init: String,
}

impl Namespaces {
    pub(super) async fn start(dir: &Path, network: Network) -> Result<Self, ClusterError> {
        let process = Program::new("unshare")
            .args(["--pid", "--mount", "--net", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", SCRIPT, "node"])
            .arg(dir)
            .start()?;
        process.wait_for_line("ready", LIMIT).await?;
        let id = process.id();
        let children = format!("/proc/{id}/task/{id}/children");
        let init = fs::read_to_string(&children).map_err(ClusterError::io(children))?;
        let namespaces = Self {
            _process: process,
            init: init.trim().to_owned(),
        };
        namespaces.link(network)?;
        Ok(namespaces)
    }

    /// A program to run in them.
    pub(super) fn program(&self, program: impl AsRef<Path>) -> Program {
        Program::new("nsenter")
            .args(self.entry())
            .arg(program.as_ref())
    }

    /// A command to run in them.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entry()).arg(program.as_ref());
        command
    }

    fn entry(&self) -> [&str; 7] {
        let init = self.init.as_str();
        [
            "--target", init, "--pid", "--mount", "--net", "--wd=/", "--",
        ]
    }

    /// A cable between the machine and the node, with the routes.
    fn link(&self, network: Network) -> Result<(), ClusterError> {
        let (device, host, node) = (network.device(), network.host(), network.node());
        let make = format!(
            "link add {device} type veth peer name eth0 netns {}",
            self.init
        );
        let here = [
            make,
            format!("addr add {host}/30 dev {device}"),
            format!("link set {device} up"),
        ];
        let there = [
            format!("addr add {node}/30 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {host}"),
        ];
        for arguments in &here {
            command::run(Command::new("ip").args(arguments.split(' ')))?;
        }
        for arguments in &there {
            command::run(self.command("ip").args(arguments.split(' ')))?;
        }
        let route = format!("route add {} via {node}", network.all());
        command::run(Command::new("ip").args(route.split(' ')))?;
        Ok(())
    }
}
