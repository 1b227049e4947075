//! The source itself: baseplate, in a virtual environment of its own.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use penstock_tests::process::Program;
use thiserror::Error;
use tokio::process::Command;

use crate::peer::Version;

/// The program that runs baseplate's consumer.
const DRIVER: &str = include_str!("../source/consume.py");

/// Written when an environment is complete.
const COMPLETE: &str = "complete";

/// One of the source's two modes, with the version that it is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Handlers side by side.
    Fast,
    /// One message at a time. 2.6.0 waits for the broker at each commit; 2.7.1 stores
    /// offsets and commits them every 5 seconds.
    InOrder,
}

impl Mode {
    fn argument(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::InOrder => "in-order",
        }
    }

    /// What is measured.
    pub fn version(self) -> Version {
        let mut lines = self.requirements().lines();
        let version = lines.find_map(|line| line.strip_prefix("baseplate=="));
        Version {
            name: "baseplate",
            version: version.unwrap_or("unknown").to_owned(),
        }
    }

    fn requirements(self) -> &'static str {
        match self {
            Self::Fast => include_str!("../source/fast.txt"),
            Self::InOrder => include_str!("../source/in-order.txt"),
        }
    }
}

/// Why the source can't be run here.
#[derive(Debug, Error)]
pub enum SourceError {
    /// There is no Python.
    #[error("python3 can't be started: {0}")]
    NoPython(io::Error),
    /// A step of the installation failed.
    #[error("{step} failed: {reason}")]
    Install {
        /// The step.
        step: String,
        /// Its last line.
        reason: String,
    },
    /// A file of the environment.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// An environment with the source in it.
#[derive(Clone, Debug)]
pub struct Source {
    mode: Mode,
    dir: PathBuf,
}

impl Source {
    /// The environment of a mode, beside this program; made if it is not there yet.
    pub async fn install(mode: Mode) -> Result<Self, SourceError> {
        let dir = directory(mode).map_err(|error| SourceError::File {
            path: "the directory of this program".into(),
            error,
        })?;
        let source = Self { mode, dir };
        let complete = source.dir.join(COMPLETE);
        if fs::read_to_string(&complete).is_ok_and(|text| text == mode.requirements()) {
            source.write("consume.py", DRIVER)?;
            return Ok(source);
        }
        let Version { name, version } = mode.version();
        eprintln!("installing {name} {version} in {}", source.dir.display());
        let venv = format!("python3 -m venv {}", source.dir.display());
        run("python3", &["-m", "venv"], &source.dir, &venv).await?;
        let requirements = source.write("requirements.txt", mode.requirements())?;
        source.write("consume.py", DRIVER)?;
        let pip = source.dir.join("bin/pip");
        let pip = pip.to_string_lossy();
        let arguments = ["install", "--quiet", "--disable-pip-version-check", "-r"];
        let step = format!(
            "pip install {}",
            mode.requirements().trim().replace('\n', " ")
        );
        run(&pip, &arguments, &requirements, &step).await?;
        source.write(COMPLETE, mode.requirements())?;
        Ok(source)
    }

    /// The program, but for the messages that it is to read.
    pub fn program(&self, handlers: u32, batch: u32) -> Program {
        Program::new(self.dir.join("bin/python"))
            .arg(self.dir.join("consume.py"))
            .args(["--mode", self.mode.argument()])
            .arg(format!("--handlers={handlers}"))
            .arg(format!("--batch={batch}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, SourceError> {
        let path = self.dir.join(name);
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(error) => Err(SourceError::File { path, error }),
        }
    }
}

/// `target/bench-source-MODE`: beside the profile's directory, which this program is in.
fn directory(mode: Mode) -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    Ok(target.join(format!("bench-source-{}", mode.argument())))
}

async fn run(
    program: &str,
    arguments: &[&str],
    last: &Path,
    step: &str,
) -> Result<(), SourceError> {
    let output = Command::new(program)
        .args(arguments)
        .arg(last)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(SourceError::NoPython)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    Err(SourceError::Install {
        step: step.to_owned(),
        reason: line.unwrap_or("no message").trim().to_owned(),
    })
}
