//! Running the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use penstock_tests::process::{Process, Program, Stream};
use tempfile::TempDir;

/// Any failure of a test.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Longest wait for anything in these tests.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The binary under test, without variables that may be set for the tests themselves.
pub fn penstock() -> Program {
    Program::new(env!("CARGO_BIN_EXE_penstock"))
        .env_remove("PENSTOCK_LOG")
        .env_remove("PYTHONUNBUFFERED")
}

/// A path from the root of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What a program came to.
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Waits for the end of a program.
pub async fn ended(process: &Process) -> Outcome<Ended> {
    let status = process.wait(LIMIT).await?;
    let text = |stream| {
        let lines = process.lines();
        let lines = lines.iter().filter(|line| line.stream == stream);
        lines.map(|line| format!("{}\n", line.text)).collect()
    };
    Ok(Ended {
        status,
        out: text(Stream::Out),
        err: text(Stream::Err),
    })
}

/// Runs a program to its end.
pub async fn run(program: Program) -> Outcome<Ended> {
    ended(&program.start()?).await
}

/// Files of one test.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Outcome<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Outcome<PathBuf> {
        let path = self.0.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A manifest; `more` are further lines of the spec.
pub fn manifest(mode: &str, more: &str) -> String {
    format!(
        "apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata:
  name: orders
spec:
  group: billing.orders
  topics: [orders]
  mode: {mode}
  offsetReset: Earliest
  kafka:
    bootstrapServers: kafka:9092
  handler:
    image: registry.example/orders:1.0
    timeout: 5s
{more}"
    )
}
