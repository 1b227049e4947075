//! The examples: each handler answers as the contract wants, without stalls, and
//! each manifest is read as it stands.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use penstock_crds::spec::KafkaConsumer;
use penstock_tests::process::{Process, ProcessError, Program};
use penstock_tests::{ports, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Outcome;

const SOON: Duration = Duration::from_secs(30);

/// Messages on one connection, one after the other.
const MESSAGES: u32 = 500;

/// Names of languages, separated by commas, whose absence is no failure.
const ALLOW_MISSING: &str = "PENSTOCK_ALLOW_MISSING_LANGUAGES";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

/// Whether `command` runs here. If it does not, that is a failure unless the
/// variable says otherwise.
async fn language_is_here(language: &str, command: &str, version: &str) -> bool {
    match Program::new(command).arg(version).start() {
        Ok(process) => process
            .wait(SOON)
            .await
            .is_ok_and(|status| status.success()),
        Err(ProcessError::Start { error, .. }) => {
            let allowed = env::var(ALLOW_MISSING).unwrap_or_default();
            let is_allowed = allowed.split(',').any(|name| name.trim() == language);
            assert!(
                is_allowed,
                "{command} can't be started ({error}): install it, or set {ALLOW_MISSING}={language}"
            );
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// A handler on a port of its own.
struct Served {
    port: u16,
    process: Process,
}

impl Served {
    async fn start(program: Program) -> Result<Self, Box<dyn std::error::Error>> {
        let [port] = ports::free("127.0.0.1")?;
        let process = program.env("PORT", port.to_string()).start()?;
        wait::value("the handler to listen", SOON, async || {
            match process.status() {
                Some(status) => Err(format!("ended with {status}: {}", process.tail())),
                None => TcpStream::connect(("127.0.0.1", port))
                    .await
                    .map_err(|e| e.to_string()),
            }
        })
        .await?;
        Ok(Self { port, process })
    }

    /// Holds the handler against the contract.
    async fn check(self) -> Outcome {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        assert_eq!(post(&mut stream, r#"{"order":1}"#).await?, 204);
        // On the same connection, so each answer must end where it says it does.
        assert_eq!(post(&mut stream, r#"{"order":"#).await?, 422);
        assert_eq!(post(&mut stream, "").await?, 422);
        assert_eq!(post(&mut stream, r#"{"name":"naïve"}"#).await?, 204);

        let start = Instant::now();
        for _ in 0..MESSAGES {
            assert_eq!(post(&mut stream, r#"{"order":1}"#).await?, 204);
        }
        let each = start.elapsed() / MESSAGES;
        println!("{each:?} a message");
        // A delayed acknowledgement takes 40 ms.
        assert!(each < Duration::from_millis(10), "{each:?} a message");

        self.many_connect_at_once().await?;
        assert!(self.process.lines().is_empty(), "{}", self.process.tail());
        Ok(())
    }

    /// As the runtime does when it starts with many handlers.
    async fn many_connect_at_once(&self) -> Outcome {
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let port = self.port;
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
                post(&mut stream, "{}").await
            });
        }
        while let Some(status) = tasks.join_next().await {
            assert_eq!(status??, 204);
        }
        println!("64 connections in {:?}", start.elapsed());
        Ok(())
    }
}

/// Posts one message and returns the status. What follows the answer's head is not
/// read, so an answer with a body spoils the next one.
async fn post(stream: &mut TcpStream, body: &str) -> std::io::Result<u16> {
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         ce-specversion: 1.0\r\nce-kafkatopic: orders\r\nce-kafkapartition: 0\r\n\
         ce-kafkaoffset: 1\r\nce-attempt: 1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        timeout(SOON, stream.read_exact(&mut byte)).await??;
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    let closes = answer.contains("connection: close") || answer.contains("transfer-encoding");
    let status = answer
        .strip_prefix("http/1.1 ")
        .and_then(|rest| rest.get(..3));
    match status.and_then(|status| status.parse().ok()) {
        Some(status) if !closes => Ok(status),
        _ => Err(std::io::Error::other(answer)),
    }
}

#[tokio::test]
async fn the_python_handler_keeps_the_contract() -> Outcome {
    if language_is_here("python", "python3", "--version").await {
        let program = Program::new("python3").arg(example("python/handler.py"));
        Served::start(program).await?.check().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_node_handler_keeps_the_contract() -> Outcome {
    if language_is_here("node", "node", "--version").await {
        let program = Program::new("node").arg(example("node/handler.js"));
        Served::start(program).await?.check().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_go_handler_keeps_the_contract() -> Outcome {
    if language_is_here("go", "go", "version").await {
        let dir = tempfile::tempdir()?;
        let binary = dir.path().join("handler");
        let build = Program::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg(".")
            .current_dir(example("go"))
            .start()?;
        let status = build.wait(Duration::from_secs(180)).await?;
        assert!(status.success(), "{}", build.tail());
        Served::start(Program::new(&binary)).await?.check().await?;
    }
    Ok(())
}

#[test]
fn the_manifests_are_read_as_they_stand() -> Outcome {
    for name in ["python", "python-batch", "node", "go"] {
        let text = std::fs::read_to_string(example(name).join("consumer.yaml"))?;
        let consumer: KafkaConsumer = serde_yaml::from_str(&text)?;
        assert_eq!(consumer.metadata.name, Some(format!("orders-{name}")));
        let group = name.replace('-', "_");
        assert_eq!(consumer.spec.group, format!("billing.orders_{group}"));
        assert!(text.contains(&format!(
            "penstock dev -f examples/{name}/consumer.yaml -- "
        )));
    }
    Ok(())
}
