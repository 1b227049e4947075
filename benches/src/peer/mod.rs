//! The programs that others wrote for the same work: where they come from, and how
//! they are run at their best.

pub mod connect;
pub mod dapr;
pub mod java;
pub mod receiver;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use clap::ValueEnum;
use penstock_tests::process::Program;
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// The script that builds them.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/bench-peer");

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The plain Java KafkaConsumer.
    JavaConsumer,
    /// Confluent's Parallel Consumer, in the order of keys.
    ParallelConsumer,
    /// One that sends the messages over HTTP.
    Sender(Sender),
}

/// A peer that sends what it reads to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sender {
    /// Dapr's sidecar.
    Dapr,
    /// Redpanda Connect.
    Connect,
}

/// A peer can't be built.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The script.
    #[error("{SCRIPT} can't be started: {0}")]
    Start(io::Error),
    /// It failed.
    #[error("the peer {name} can't be built: {reason}")]
    Build {
        /// Its name.
        name: &'static str,
        /// The last line of what was said.
        reason: String,
    },
}

/// A peer that has been built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where it is.
    dir: PathBuf,
}

/// A peer's version, as the report states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its name.
    pub name: &'static str,
    /// Which of it.
    pub version: String,
}

impl Peer {
    /// What is built for it; several may share one.
    fn program(self) -> &'static str {
        match self {
            Self::JavaConsumer | Self::ParallelConsumer => "java",
            Self::Sender(Sender::Dapr) => "dapr",
            Self::Sender(Sender::Connect) => "connect",
        }
    }

    /// Its name and version.
    pub fn version(self) -> Version {
        let (name, version) = match self {
            Self::JavaConsumer => ("kafka-clients", java::version("kafka-clients")),
            Self::ParallelConsumer => {
                ("Parallel Consumer", java::version("parallel-consumer-core"))
            }
            Self::Sender(Sender::Dapr) => ("Dapr", dapr::version()),
            Self::Sender(Sender::Connect) => ("Redpanda Connect", connect::version()),
        };
        Version {
            name,
            version: version.unwrap_or("unknown").to_owned(),
        }
    }

    /// Builds it, unless that was done before. What takes long says so on standard
    /// error.
    pub async fn build(self) -> Result<Built, PeerError> {
        let name = self.program();
        let mut script = Command::new(SCRIPT)
            .arg(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(PeerError::Start)?;
        let mut reason = None;
        if let Some(said) = script.stderr.take() {
            let mut lines = BufReader::new(said).lines();
            while let Some(line) = lines.next_line().await.map_err(PeerError::Start)? {
                eprintln!("{line}");
                reason = Some(line);
            }
        }
        let output = script.wait_with_output().await.map_err(PeerError::Start)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        match printed.lines().last() {
            Some(dir) if output.status.success() => Ok(Built { dir: dir.into() }),
            _ => Err(PeerError::Build {
                name,
                reason: reason.unwrap_or_else(|| output.status.to_string()),
            }),
        }
    }
}

impl Built {
    /// The peer's program, but for the broker, the topic and the number of messages.
    /// `own` is this program, which receives what a [`Sender`] sends.
    pub fn program(&self, peer: Peer, own: &PathBuf, handlers: u32, batch: u32) -> Program {
        let program = match peer {
            Peer::JavaConsumer => java::plain_consumer(&self.dir),
            Peer::ParallelConsumer => java::parallel_consumer(&self.dir),
            Peer::Sender(sender) => {
                let name = match sender {
                    Sender::Dapr => "dapr",
                    Sender::Connect => "connect",
                };
                let program = Program::new(own).args(["peer", name, "--program"]);
                program.arg(self.dir.join(name))
            }
        };
        program
            .arg(format!("--handlers={handlers}"))
            .arg(format!("--batch={batch}"))
    }
}

/// The version in a Go module's file of a module that it requires.
fn required<'a>(module: &'a str, path: &str) -> Option<&'a str> {
    let mut lines = module.lines().map(str::trim);
    lines.find_map(|line| {
        let line = line.strip_prefix("require ").unwrap_or(line);
        line.strip_prefix(path)?.strip_prefix(" v")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_those_that_are_built() {
        let senders = [Sender::Dapr, Sender::Connect].map(Peer::Sender);
        for peer in [Peer::JavaConsumer, Peer::ParallelConsumer]
            .iter()
            .chain(&senders)
        {
            let Version { name, version } = peer.version();
            assert!(version.split('.').count() >= 3, "{name} {version}");
        }
    }
}
