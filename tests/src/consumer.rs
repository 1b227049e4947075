//! The runtime's own program at work on a manifest.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::manifest::Manifest;
use crate::page::{self, Page, PageError};
use crate::ports;
use crate::process::{Process, ProcessError, Program, find_binary};
use crate::promtext::{self, Exposition};
use crate::wait;

/// The program could not be started, or does not tell.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// Its manifest could not be written, or no port is free.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A page of it.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Its metrics page breaks the format.
    #[error("the metrics page breaks the text format: {0}")]
    Format(#[from] promtext::FormatError),
    /// Something did not come in time.
    #[error(transparent)]
    TimedOut(#[from] wait::TimedOut),
}

/// A penstock-runtime that is about to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    manifest: Manifest,
    secrets: Option<PathBuf>,
    log: String,
    json_log: bool,
    termination_log: Option<PathBuf>,
    instance: Option<String>,
}

impl Launch {
    /// With this manifest.
    pub fn new(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            secrets: None,
            log: "info".into(),
            json_log: false,
            termination_log: None,
            instance: None,
        }
    }

    /// With Secrets below this directory.
    #[must_use]
    pub fn secrets(mut self, directory: &Path) -> Self {
        self.secrets = Some(directory.into());
        self
    }

    /// With other log lines, in the syntax of `RUST_LOG`.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        self.log = filter.into();
        self
    }

    /// With log lines in JSON, whose fields a test can read.
    #[must_use]
    pub fn json_log(mut self) -> Self {
        self.json_log = true;
        self
    }

    /// With a file for the error that ends it.
    #[must_use]
    pub fn termination_log(mut self, path: &Path) -> Self {
        self.termination_log = Some(path.into());
        self
    }

    /// As this one of its group, which it is again when it is started anew.
    #[must_use]
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Starts the program; it has not connected yet when this returns.
    ///
    /// # Errors
    /// [`ConsumerError`] when the program is not built or can't be started.
    pub fn start(self) -> Result<Consumer, ConsumerError> {
        let dir = TempDir::with_prefix("penstock-consumer-")?;
        let path = dir.path().join("consumer.yaml");
        std::fs::write(&path, self.manifest.text())?;
        let [metrics, health] = ports::free("127.0.0.1")?;
        let name = match self.manifest.is_embedded() {
            true => "penstock-test-embedded",
            false => "penstock-runtime",
        };
        let mut program = Program::new(find_binary(name)?)
            .env("PENSTOCK_CONFIG", &path)
            .env("PENSTOCK_METRICS_ADDRESS", format!("127.0.0.1:{metrics}"))
            .env("PENSTOCK_HEALTH_ADDRESS", format!("127.0.0.1:{health}"))
            .env("PENSTOCK_LOG", &self.log)
            .env("NO_COLOR", "1");
        if self.manifest.is_embedded() {
            // Its variables are those of the program, as in a pod.
            for (name, value) in self.manifest.variables() {
                program = program.env(name, value);
            }
        }
        if self.json_log {
            program = program.env("PENSTOCK_LOG_FORMAT", "json");
        }
        if let Some(path) = &self.termination_log {
            program = program.env("PENSTOCK_TERMINATION_LOG", path);
        }
        if let Some(instance) = &self.instance {
            program = program.env("PENSTOCK_INSTANCE", instance);
        }
        if let Some(secrets) = &self.secrets {
            program = program.env("PENSTOCK_SECRETS", secrets);
        }
        Ok(Consumer {
            process: program.start()?,
            metrics,
            health,
            _dir: dir,
        })
    }
}

/// A running penstock-runtime; gone when it is dropped.
#[derive(Debug)]
pub struct Consumer {
    process: Process,
    metrics: u16,
    health: u16,
    _dir: TempDir,
}

impl Deref for Consumer {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Consumer {
    /// Starts the program with this manifest and nothing else.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start(manifest: &Manifest) -> Result<Self, ConsumerError> {
        Launch::new(manifest).start()
    }

    /// The metrics page, held against the text format.
    ///
    /// # Errors
    /// When it is not served, or breaks the format.
    pub async fn metrics(&self) -> Result<Exposition, ConsumerError> {
        let page = page::get(self.metrics, "/metrics").await?;
        Ok(promtext::parse(&page.body)?)
    }

    /// The metrics page as it is served.
    ///
    /// # Errors
    /// When it is not served.
    pub async fn metrics_page(&self) -> Result<Page, ConsumerError> {
        Ok(page::get(self.metrics, "/metrics").await?)
    }

    /// A page of the health server: `/health`, `/livez` or `/readyz`.
    ///
    /// # Errors
    /// When it is not served.
    pub async fn health(&self, path: &str) -> Result<Page, ConsumerError> {
        Ok(page::get(self.health, path).await?)
    }

    /// Waits until `/readyz` says that partitions are assigned.
    ///
    /// # Errors
    /// As [`Consumer::wait_until`].
    pub async fn wait_until_ready(&self, limit: Duration) -> Result<(), ConsumerError> {
        self.wait_until(
            "the consumer to be ready",
            limit,
            async || matches!(self.health("/readyz").await, Ok(page) if page.status == 200),
        )
        .await
    }

    /// Waits until a signal is a request to it. Before, it is the end.
    ///
    /// # Errors
    /// As [`Consumer::wait_until`].
    pub async fn wait_until_it_can_stop(&self, limit: Duration) -> Result<(), ConsumerError> {
        let said = async || {
            [
                "waiting for the handler to accept",
                "the handler is embedded",
            ]
            .iter()
            .any(|text| self.count(text) > 0)
        };
        self.wait_until("it to heed signals", limit, said).await
    }

    /// Waits until `condition` holds, which is the program's doing.
    ///
    /// # Errors
    /// When it does not within `limit`, or the program ends first; with the
    /// program's last lines.
    pub async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Result<(), ConsumerError> {
        let ended = wait::value(what, limit, async || {
            match (condition().await, self.status()) {
                (true, _) => Ok(Ok(())),
                (false, Some(status)) => Ok(Err(ProcessError::Ended {
                    name: "penstock-runtime".into(),
                    status,
                    what: what.to_owned(),
                    tail: self.tail(),
                })),
                (false, None) => Err(format!(
                    "not so; the program's last lines:\n{}",
                    self.tail()
                )),
            }
        })
        .await?;
        Ok(ended?)
    }

    /// Waits until a series of the metrics page has this value.
    ///
    /// # Errors
    /// When it has not within `limit`, with the value last seen.
    pub async fn wait_for_metric(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
        limit: Duration,
    ) -> Result<(), ConsumerError> {
        wait::value(format!("{name} {labels:?} = {value}"), limit, async || {
            let page = self.metrics().await.map_err(|error| error.to_string())?;
            match page.value(name, labels) {
                Some(seen) if seen == value => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await?;
        Ok(())
    }

    /// Asks it to stop, and waits until it has ended.
    ///
    /// # Errors
    /// When it has ended already, or does not within `limit`.
    pub async fn stop(&self, limit: Duration) -> Result<std::process::ExitStatus, ConsumerError> {
        self.terminate()?;
        Ok(self.wait(limit).await?)
    }
}
