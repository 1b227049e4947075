//! A real Apache Kafka broker: one node, KRaft, its data in a temporary directory.
//!
//! It needs Java 17 or newer, and Maven for the first run on a machine.

mod cluster;
mod config;
mod error;
mod jars;
mod losses;
mod security;
mod token;
mod users;

pub use cluster::{Cluster, ClusterError, Placed};
pub use error::KafkaError;
pub use security::{Scram, TlsFiles};
pub use token::unsecured_token;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::guard::Guard;
use crate::process::{Process, ProcessError, Program};
use crate::sync::lock;
use crate::wait;
use config::{Listeners, Node};
use losses::Losses;

/// Variable with the bootstrap address of a running broker for [`Kafka::shared`].
pub const BOOTSTRAP_VARIABLE: &str = "PENSTOCK_TEST_BOOTSTRAP";

/// Longest time for the broker to answer after its start; usually 2 s.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Longest time for one answer while the broker starts.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// Longest time for the broker to end when asked to; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How often other ports are tried when some were taken in the meantime.
const PORT_ATTEMPTS: usize = 3;

/// A broker. Dropped, it is killed and its data removed; the same happens when the
/// test process ends in any way.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    own: Option<Own>,
}

/// What belongs to a broker of ours.
#[derive(Debug)]
struct Own {
    // Dropped first to last: the process, then its files, then the guard of them.
    process: Mutex<Option<Process>>,
    losses: Losses,
    dir: TempDir,
    _guard: Guard,
    jars: PathBuf,
    java_options: Vec<String>,
    listeners: Listeners,
    tls: Option<TlsFiles>,
}

/// A broker that is about to be started.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    host: Option<String>,
    within: Option<PathBuf>,
    tls: bool,
    users: Vec<Scram>,
    properties: Vec<(String, String)>,
    java_options: Vec<String>,
    /// Its place in a cluster; alone where there is none.
    place: Option<(Node, Listeners)>,
}

impl Builder {
    /// Address that the broker listens on and tells its clients, instead of
    /// 127.0.0.1: one that pods reach, for instance.
    #[must_use]
    pub fn host(mut self, address: impl Into<String>) -> Self {
        self.host = Some(address.into());
        self
    }

    /// Keeps its data in a new directory in `dir` instead of the system's for
    /// temporary files.
    #[must_use]
    pub fn within(mut self, dir: impl Into<PathBuf>) -> Self {
        self.within = Some(dir.into());
        self
    }

    /// Adds a TLS listener ([`Kafka::tls_bootstrap`]) and one that demands a
    /// client's certificate ([`Kafka::mutual_tls_bootstrap`]), and makes the SASL
    /// listener one over TLS.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Adds a SASL listener ([`Kafka::sasl_bootstrap`]) if there is none yet, and a
    /// user of it. It takes SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN with the
    /// password, and OAUTHBEARER with [`unsecured_token`].
    #[must_use]
    pub fn sasl_user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push(Scram {
            user: user.into(),
            password: password.into(),
        });
        self
    }

    /// Sets a property of the broker, in place of the harness's own.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Adds an option of the Java machine; of two that contradict, the later wins.
    /// The broker is set up to start fast (`-XX:TieredStopAtLevel=1`) with little
    /// memory (`-Xmx384m`).
    #[must_use]
    pub fn java_option(mut self, option: impl Into<String>) -> Self {
        self.java_options.push(option.into());
        self
    }

    /// Formats the storage, starts the broker and waits until it answers.
    ///
    /// # Errors
    /// [`KafkaError`] says which step failed, with the broker's last lines.
    pub async fn start(self) -> Result<Kafka, KafkaError> {
        let mut attempt = 1;
        loop {
            match self.clone().start_once().await {
                Err(KafkaError::Ended { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("Address already in use") =>
                {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_once(self) -> Result<Kafka, KafkaError> {
        let kafka = self.format().await?;
        kafka.start_again().await?;
        Ok(kafka)
    }

    /// A broker whose storage is formatted, and that is not started.
    async fn format(self) -> Result<Kafka, KafkaError> {
        let prepared = spawn_blocking(move || self.prepare()).await;
        let own = prepared.map_err(|error| KafkaError::io("preparing")(error.into()))??;
        Ok(Kafka {
            bootstrap: own.listeners.plaintext(),
            own: Some(own),
        })
    }

    /// Everything up to the start of the broker.
    fn prepare(self) -> Result<Own, KafkaError> {
        let jars = jars::fetch()?;
        let parent = self.within.unwrap_or_else(env::temp_dir);
        let dir = TempDir::with_prefix_in("penstock-kafka-", parent)
            .map_err(KafkaError::io("a temporary directory"))?;
        let guard = Guard::remove_dir(dir.path()).map_err(KafkaError::io("a guard of the data"))?;

        let host = self.host.unwrap_or_else(|| "127.0.0.1".into());
        let tls = match self.tls {
            true => Some(security::make_certificates(dir.path(), &host)?),
            false => None,
        };
        let (node, listeners) = match self.place {
            Some(place) => place,
            None => {
                let listeners = Listeners::choose(host, tls.is_some(), !self.users.is_empty())
                    .map_err(KafkaError::io("a free port"))?;
                let nodes = Node::cluster(std::slice::from_ref(&listeners));
                (nodes[0].clone(), listeners)
            }
        };

        let settings = config::Settings {
            data: &dir.path().join("data"),
            node: &node,
            listeners: &listeners,
            tls: tls.as_ref(),
            users: &self.users,
            extra: &self.properties,
        };
        let path = dir.path().join("server.properties");
        std::fs::write(&path, settings.to_string())
            .map_err(KafkaError::io("writing server.properties"))?;
        std::fs::write(
            dir.path().join("log4j2.properties"),
            include_str!("../kafka/log4j2.properties"),
        )
        .map_err(KafkaError::io("writing log4j2.properties"))?;
        format_storage(&jars, &path, &node, &self.users)?;

        Ok(Own {
            process: Mutex::new(None),
            losses: Losses::default(),
            dir,
            _guard: guard,
            jars,
            java_options: self.java_options,
            listeners,
            tls,
        })
    }
}

impl Kafka {
    /// A broker with settings of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A broker of the test's own, to stop and to break.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, KafkaError> {
        Self::builder().start().await
    }

    /// The broker that all tests of a binary share, or of all binaries when
    /// `PENSTOCK_TEST_BOOTSTRAP` names a running one. Started by the first caller.
    ///
    /// # Errors
    /// As [`Builder::start`]; the next caller tries again.
    pub async fn shared() -> Result<&'static Self, KafkaError> {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED
            .get_or_try_init(async || match env::var(BOOTSTRAP_VARIABLE) {
                Ok(bootstrap) if !bootstrap.is_empty() => {
                    let kafka = Self {
                        bootstrap,
                        own: None,
                    };
                    kafka.wait_until_ready().await?;
                    Ok(kafka)
                }
                _ => Self::start().await,
            })
            .await
    }

    /// host:port of the listener without encryption or users. All helpers of this
    /// crate use it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// host:port of the TLS listener, if there is one.
    pub fn tls_bootstrap(&self) -> Option<String> {
        self.own.as_ref()?.listeners.tls()
    }

    /// host:port of the TLS listener that demands a client's certificate.
    pub fn mutual_tls_bootstrap(&self) -> Option<String> {
        self.own.as_ref()?.listeners.mutual_tls()
    }

    /// host:port of the SASL listener, if there is one.
    pub fn sasl_bootstrap(&self) -> Option<String> {
        self.own.as_ref()?.listeners.sasl()
    }

    /// The authority, and a client's certificate and key, if there is TLS.
    pub fn tls_files(&self) -> Option<&TlsFiles> {
        self.own.as_ref()?.tls.as_ref()
    }

    /// Where its data and settings are; nothing for a broker that is not ours.
    pub fn data_dir(&self) -> Option<&Path> {
        Some(self.own.as_ref()?.dir.path())
    }

    /// Stops the broker in an orderly way. Ports and data stay.
    ///
    /// # Errors
    /// [`KafkaError::NotOurs`], [`KafkaError::Stopped`].
    pub async fn stop(&self) -> Result<(), KafkaError> {
        let process = self.take_process()?;
        process.terminate()?;
        // One that does not end is killed by being dropped.
        let _ = process.wait(STOP_LIMIT).await;
        self.note_losses(&process);
        Ok(())
    }

    /// Kills the broker, as a crash would. Ports and data stay.
    ///
    /// # Errors
    /// As [`Kafka::stop`].
    pub fn kill(&self) -> Result<(), KafkaError> {
        self.take_process()
            .map(|process| self.note_losses(&process))
    }

    /// Starts the broker again after [`Kafka::stop`] or [`Kafka::kill`], on the
    /// same ports and data, and waits until it answers.
    ///
    /// # Errors
    /// [`KafkaError::NotOurs`], [`KafkaError::Ended`], [`KafkaError::Silent`].
    pub async fn start_again(&self) -> Result<(), KafkaError> {
        self.start_process()?;
        self.wait_until_ready().await
    }

    fn start_process(&self) -> Result<(), KafkaError> {
        let own = self.own.as_ref().ok_or(KafkaError::NotOurs)?;
        let process = java(&own.jars, own.dir.path())
            .args(&own.java_options)
            .arg("kafka.Kafka")
            .arg(own.dir.path().join("server.properties"))
            .start()?;
        *lock(&own.process) = Some(process);
        Ok(())
    }

    /// Freezes the broker: its connections stay open and nothing is answered.
    ///
    /// # Errors
    /// As [`Kafka::stop`].
    pub fn pause(&self) -> Result<(), KafkaError> {
        self.with_process(Process::pause)
    }

    /// Lets the broker go on after [`Kafka::pause`].
    ///
    /// # Errors
    /// As [`Kafka::stop`].
    pub fn resume(&self) -> Result<(), KafkaError> {
        self.with_process(Process::resume)
    }

    /// What the broker logged last; nothing for one that is not ours.
    pub fn log_tail(&self) -> String {
        self.own
            .as_ref()
            .and_then(|own| lock(&own.process).as_ref().map(Process::tail))
            .unwrap_or_default()
    }

    fn take_process(&self) -> Result<Process, KafkaError> {
        let own = self.own.as_ref().ok_or(KafkaError::NotOurs)?;
        lock(&own.process).take().ok_or(KafkaError::Stopped)
    }

    fn with_process(
        &self,
        action: impl FnOnce(&Process) -> Result<(), ProcessError>,
    ) -> Result<(), KafkaError> {
        let own = self.own.as_ref().ok_or(KafkaError::NotOurs)?;
        let process = lock(&own.process);
        Ok(action(process.as_ref().ok_or(KafkaError::Stopped)?)?)
    }

    /// Waits until the broker answers requests for metadata and for offsets. The
    /// second also makes it set up what groups need, so that no test waits for that.
    async fn wait_until_ready(&self) -> Result<(), KafkaError> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.max.ms", "200")
            .set("group.id", "penstock-tests.ready")
            .create()
            .map_err(|error| KafkaError::io("a Kafka client")(io::Error::other(error)))?;
        let client = Arc::new(client);

        let ready = wait::value("the broker to answer", START_LIMIT, async || {
            if let Some(status) = self.ended() {
                return Ok(Err(status));
            }
            let client = Arc::clone(&client);
            let answered = spawn_blocking(move || is_answered(&client)).await;
            let answered = answered.map_err(|error| error.to_string())?;
            answered.map(Ok).map_err(|error| error.to_string())
        })
        .await
        .map_err(|timed_out| KafkaError::Silent {
            timed_out,
            tail: self.log_tail(),
        })?;
        ready.map_err(|status| KafkaError::Ended {
            status,
            tail: self.log_tail(),
        })
    }

    fn ended(&self) -> Option<String> {
        let own = self.own.as_ref()?;
        let status = lock(&own.process).as_ref()?.status()?;
        Some(status.to_string())
    }
}

/// Asks for metadata and for offsets.
fn is_answered(client: &BaseConsumer) -> rdkafka::error::KafkaResult<()> {
    client.fetch_metadata(None, ANSWER_LIMIT)?;
    let mut any = TopicPartitionList::new();
    any.add_partition("penstock-tests.ready", 0);
    for element in client.committed_offsets(any, ANSWER_LIMIT)?.elements() {
        element.error()?;
    }
    Ok(())
}

/// A Java program of Kafka's, fast to start.
fn java(jars: &Path, dir: &Path) -> Program {
    let log = dir.join("log4j2.properties");
    Program::new("java")
        .args([
            "-Xms128m",
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ])
        .arg(format!("-Dlog4j2.configurationFile={}", log.display()))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .env_remove("KAFKA_OPTS")
}

fn format_storage(
    jars: &Path,
    properties: &Path,
    node: &Node,
    users: &[Scram],
) -> Result<(), KafkaError> {
    let dir = properties.parent().unwrap_or(properties);
    let mut program = std::process::Command::new("java");
    program
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg(format!(
            "-Dlog4j2.configurationFile={}",
            dir.join("log4j2.properties").display()
        ))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .args(["kafka.tools.StorageTool", "format", "--config"])
        .arg(properties)
        .args(["--cluster-id", &node.cluster]);
    for user in users {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            program.args(["--add-scram", &user.as_argument(mechanism)]);
        }
    }
    let output = program.output().map_err(KafkaError::io(
        "starting java (is Java 17 or newer installed?)",
    ))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(KafkaError::Format(String::from_utf8_lossy(&text).into()))
}
