//! `penstock dev` with addresses of its own, so that tests run side by side.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use penstock_tests::process::{Process, Program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{Ended, Files, Outcome, penstock, repository, run};

/// A manifest, messages, and a port for the handler.
pub struct Local {
    files: Files,
    manifest: PathBuf,
    port: u16,
}

impl Local {
    pub fn new(manifest: &str) -> Outcome<Self> {
        let files = Files::new()?;
        Ok(Self {
            manifest: files.write("consumer.yaml", manifest)?,
            files,
            port: free_port()?,
        })
    }

    pub fn manifest(&self) -> &Path {
        &self.manifest
    }

    pub fn handler_port(&self) -> u16 {
        self.port
    }

    /// Writes the messages that are to be produced.
    pub fn messages(&self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Outcome {
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.files.write("messages.jsonl", text)?;
        Ok(())
    }

    /// A run with the handler that prints each message's place.
    pub fn printing(&self, arguments: &[&str]) -> Dev<'_> {
        let handler = repository("cli/tests/handlers/printing.py");
        let dev = self.dev(&self.manifest, "python3").arg(handler);
        arguments
            .iter()
            .fold(dev, |dev, argument| dev.arg(argument))
    }

    /// A run with a shell script as its handler.
    pub fn shell(&self, script: &str) -> Dev<'_> {
        self.dev(&self.manifest, "sh").arg("-c").arg(script)
    }

    /// A run of a manifest with a program.
    pub fn dev(&self, manifest: &Path, program: impl Into<OsString>) -> Dev<'_> {
        Dev {
            local: self,
            manifest: manifest.to_owned(),
            options: Vec::new(),
            exit_when_done: false,
            embedded: false,
            command: vec![program.into()],
        }
    }
}

/// One run.
pub struct Dev<'a> {
    local: &'a Local,
    manifest: PathBuf,
    options: Vec<(String, String)>,
    exit_when_done: bool,
    embedded: bool,
    command: Vec<OsString>,
}

impl Dev<'_> {
    /// Another argument of the handler's command.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.push(argument.into());
        self
    }

    /// Another option of `penstock dev`, or another value for a usual one.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The program is the consumer, and needs no port.
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    pub fn program(&self) -> Program {
        let mut options = vec![
            ("--metrics-address".to_owned(), "127.0.0.1:0".to_owned()),
            ("--health-address".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        if !self.embedded {
            options.push(("--handler-port".to_owned(), self.local.port.to_string()));
        }
        let messages = self.local.files.path().join("messages.jsonl");
        if messages.exists() {
            options.push(("--produce".to_owned(), messages.display().to_string()));
        }
        options.retain(|(name, _)| self.options.iter().all(|(other, _)| other != name));
        options.extend(self.options.clone());
        let mut program = penstock().args(["dev", "-f"]).arg(&self.manifest);
        for (name, value) in options {
            program = program.args([name, value]);
        }
        if self.exit_when_done {
            program = program.arg("--exit-when-done");
        }
        program.arg("--").args(&self.command)
    }

    pub fn start(self) -> Outcome<Process> {
        Ok(self.program().start()?)
    }

    pub async fn run(self) -> Outcome<Ended> {
        run(self.program()).await
    }

    /// Runs until all that is produced is handled, or something fails.
    pub async fn run_until_done(mut self) -> Outcome<Ended> {
        self.exit_when_done = true;
        self.run().await
    }
}

/// Partition and offset of each message that the printing handler handled, in
/// the order of its output.
pub fn places(out: &str) -> Vec<(i32, i64)> {
    out.lines()
        .filter_map(|line| line.strip_prefix("handler | handled orders "))
        .map(|line| {
            let mut numbers = line.split(' ').map(str::parse);
            let mut next = || numbers.next().expect("a number").expect("a whole one");
            (next() as i32, next())
        })
        .collect()
}

/// A port that is free now, below the range that outgoing connections take
/// theirs from, and that of the brokers.
pub fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 14_000 + (std::process::id() % 5_000) as u16;
    for _ in 0..1_000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port".into())
}

/// Gets a page over HTTP, with its head.
pub async fn get(address: &str, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
