//! The life of a consumer: build, start, run, stop.
//!
//! Handlers are built first, then the pump, then the pages; started the other
//! way round the pump comes first and the pages last. At a stop the pump ends
//! reading, the handlers drain under one limit, the client leaves the group,
//! and the pages go last.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::librdkafka::{SecretError, consumer_config, oauth_token_path};
use penstock_crds::validate::{FailureAction, ValidatedConsumer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::commit::Committer;
use crate::commits::Commits;
use crate::dead_letter::{DeadLetterError, DeadLetters};
use crate::decode::Decoder;
use crate::handler::Handler;
use crate::http::{Health, HealthCheck, ListenError, Server, health_pages, listen, metrics_page};
use crate::kafka::{ConnectError, Consumer, Target, connect};
use crate::metrics::Metrics;
use crate::progress::{Busy, Progress};
use crate::pump::{Pump, PumpParts, Strategy};
use crate::queue::{WorkQueue, places_for};
use crate::worker::{Failure, Shared, SpanNames, work};

/// Bytes that messages waiting for a handler may take together; one larger
/// message is taken alone.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Longest time for leaving the group: librdkafka waits for the coordinator's
/// answer, which a cluster that is down never gives.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Where the metrics page is served unless said otherwise.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(ANY, 6060);

/// Where the health pages are served unless said otherwise.
pub const HEALTH_ADDRESS: SocketAddr = SocketAddr::new(ANY, 9090);

const ANY: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Directory under which Secrets are mounted, as `{directory}/{Secret}/{entry}`.
pub const SECRETS_DIRECTORY: &str = "/etc/penstock/secrets";

/// Why a consumer ended, other than by a stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// A Secret's entry is missing.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A page's address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Kafka could not be reached, or a topic is missing.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The dead-letter producer could not be made.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    /// The metrics could not be registered.
    #[error("the metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A message could not be handled or committed.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A handler or the pump ended by a defect of Penstock's own.
    #[error("a task ended unexpectedly: {0}")]
    Task(String),
    /// Handlers did not end within `stopTimeout`.
    #[error(
        "{unfinished} handlers were still busy after the stopTimeout of {limit:?} and were given up"
    )]
    StopTimeout {
        /// Handlers that were given up.
        unfinished: usize,
        /// The limit.
        limit: Duration,
    },
}

/// A consumer that is about to run.
pub struct Runtime {
    consumer: ValidatedConsumer,
    secrets: PathBuf,
    metrics_address: Option<SocketAddr>,
    health_address: Option<SocketAddr>,
    health_check: Option<HealthCheck>,
    metrics: Option<Metrics>,
}

impl Runtime {
    /// A consumer with the usual pages and no health check of its own.
    pub fn new(consumer: ValidatedConsumer) -> Self {
        Self {
            consumer,
            secrets: SECRETS_DIRECTORY.into(),
            metrics_address: Some(METRICS_ADDRESS),
            health_address: Some(HEALTH_ADDRESS),
            health_check: None,
            metrics: None,
        }
    }

    /// Where Secrets are: `{directory}/{Secret}/{entry}`.
    #[must_use]
    pub fn secrets(mut self, directory: impl AsRef<Path>) -> Self {
        self.secrets = directory.as_ref().to_owned();
        self
    }

    /// Where the metrics are served; `None`: nowhere.
    #[must_use]
    pub fn metrics_address(mut self, address: Option<SocketAddr>) -> Self {
        self.metrics_address = address;
        self
    }

    /// Where health is served; `None`: nowhere.
    #[must_use]
    pub fn health_address(mut self, address: Option<SocketAddr>) -> Self {
        self.health_address = address;
        self
    }

    /// A callback that decides what `/health` says.
    #[must_use]
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.health_check = Some(check);
        self
    }

    /// Metrics of the caller's, made with [`Metrics::new`], to read them while
    /// the consumer runs.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Runs until `stop` is cancelled or a message can't be handled. Returns
    /// once the consumer has left its group.
    pub async fn run<D, H>(
        self,
        decoder: D,
        handler: H,
        stop: CancellationToken,
    ) -> Result<(), RunError>
    where
        D: Decoder,
        H: Handler<D::Data>,
    {
        let metrics = match self.metrics.clone() {
            Some(metrics) => metrics,
            None => Metrics::new(
                &self.consumer.prometheus_client_name,
                self.consumer.name.as_str(),
            )?,
        };
        let pages = self.listen().await?;
        let config = consumer_config(&self.consumer);
        let properties = config.resolve(&self.secrets)?;
        let oauth_token = oauth_token_path(&self.consumer.kafka, &self.secrets);

        let wake = Arc::new(Notify::new());
        let handlers = self.consumer.mode.handlers();
        let progress = Progress::new(handlers);
        let queue = Arc::new(WorkQueue::new(
            places_for(handlers),
            QUEUE_BYTES,
            Arc::clone(&wake),
        ));
        let (committer, requests) = Committer::new(Arc::clone(&wake));
        let strategy = Strategy::from(self.consumer.mode);
        let dead_letter_topic = match &self.consumer.delivery.on_failure {
            FailureAction::DeadLetter(topic) => Some(topic),
            FailureAction::Stop | FailureAction::Skip => None,
        };
        let dead_letters = match dead_letter_topic {
            Some(topic) => Some(DeadLetters::new(
                &config.resolve_client(&self.secrets)?,
                topic.clone(),
                self.consumer.group.to_string(),
                oauth_token.clone(),
            )?),
            None => None,
        };
        let shared = Arc::new(Shared {
            span_names: SpanNames::new(self.consumer.name.as_str()),
            decoder,
            handler,
            policy: self.consumer.delivery.clone(),
            timeout: self.consumer.handler.timeout.get(),
            metrics: metrics.clone(),
            dead_letters,
            committer: (strategy == Strategy::EachMessage).then_some(committer),
        });

        let target = Target {
            config: &properties,
            topics: &self.consumer.topics,
            dead_letters: dead_letter_topic,
            oauth_token,
        };
        let client = tokio::select! {
            client = connect(target, Arc::clone(&wake)) => client?,
            () = stop.cancelled() => return Ok(()),
        };
        let reading = CancellationToken::new();
        let finish = CancellationToken::new();
        let pump = Pump::new(PumpParts {
            name: self.consumer.name.to_string(),
            consumer: client,
            queue: Arc::clone(&queue),
            wake: Arc::clone(&wake),
            strategy,
            commits: Commits::new(requests),
            batch_size: self.consumer.consume_batch_size.get() as usize,
            drain_limit: self.consumer.stop_timeout,
            metrics: metrics.clone(),
            progress: Arc::clone(&progress),
            stop: reading.clone(),
            finish: finish.clone(),
        });

        let mut running = Running {
            pump: tokio::spawn(pump.run()),
            workers: JoinSet::new(),
            handlers,
            reading,
            finish,
            wake,
            stop_timeout: self.consumer.stop_timeout,
        };
        for number in 0..handlers {
            let busy = Busy::new(Arc::clone(&progress), number);
            running
                .workers
                .spawn(work(Arc::clone(&shared), Arc::clone(&queue), busy));
        }
        let servers = pages.serve(
            metrics,
            Health {
                name: self.consumer.name.to_string(),
                progress,
                check: self.health_check,
                timeout: self.consumer.handler.timeout.get(),
            },
        );
        let ended = running.until(stop).await;
        servers.into_iter().for_each(Server::stop);
        ended
    }

    async fn listen(&self) -> Result<Pages, ListenError> {
        let mut pages = Pages::default();
        if let Some(address) = self.metrics_address {
            pages.metrics = Some(listen("metrics", address).await?);
        }
        if let Some(address) = self.health_address {
            pages.health = Some(listen("health", address).await?);
        }
        Ok(pages)
    }
}

/// Addresses that are taken and not served yet.
#[derive(Default)]
struct Pages {
    metrics: Option<TcpListener>,
    health: Option<TcpListener>,
}

impl Pages {
    fn serve(self, metrics: Metrics, health: Health) -> Vec<Server> {
        let metrics = self
            .metrics
            .map(|listener| Server::start(listener, metrics_page(metrics)));
        let health = self
            .health
            .map(|listener| Server::start(listener, health_pages(health)));
        metrics.into_iter().chain(health).collect()
    }
}

/// A consumer at work.
struct Running {
    pump: JoinHandle<Arc<Consumer>>,
    workers: JoinSet<Result<(), Failure>>,
    handlers: usize,
    reading: CancellationToken,
    finish: CancellationToken,
    wake: Arc<Notify>,
    stop_timeout: Duration,
}

impl Running {
    /// Runs until told to stop or something fails, then stops in order.
    async fn until(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let mut ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(worker) = self.workers.join_next() => worker_result(worker),
            pump = &mut self.pump => {
                self.workers.abort_all();
                return Err(RunError::Task(match pump {
                    Ok(_) => "the pump ended by itself".into(),
                    Err(error) => error.to_string(),
                }));
            }
        };
        self.reading.cancel();
        self.wake.notify_one();
        let drained = self.drain().await;
        if ended.is_ok() {
            ended = drained;
        }
        self.finish.cancel();
        self.wake.notify_one();
        match self.pump.await {
            Ok(client) => close(client).await,
            Err(error) => ended = Err(RunError::Task(error.to_string())),
        }
        ended
    }

    /// Waits for the handlers, all under one limit.
    async fn drain(&mut self) -> Result<(), RunError> {
        let deadline = tokio::time::Instant::now() + self.stop_timeout;
        let mut ended = Ok(());
        loop {
            match tokio::time::timeout_at(deadline, self.workers.join_next()).await {
                Ok(None) => return ended,
                Ok(Some(worker)) => ended = ended.and(worker_result(worker)),
                Err(_) => break,
            }
        }
        let unfinished = self.workers.len();
        tracing::error!(
            "{unfinished} of {} handlers were still busy after {:?} and are given up",
            self.handlers,
            self.stop_timeout
        );
        self.workers.shutdown().await;
        ended.and(Err(RunError::StopTimeout {
            unfinished,
            limit: self.stop_timeout,
        }))
    }
}

fn worker_result(
    worker: Result<Result<(), Failure>, tokio::task::JoinError>,
) -> Result<(), RunError> {
    match worker {
        Ok(result) => Ok(result?),
        Err(error) => Err(RunError::Task(error.to_string())),
    }
}

/// Leaves the group. librdkafka blocks meanwhile, so it has a thread of its own.
async fn close(client: Arc<Consumer>) {
    let closing = tokio::task::spawn_blocking(move || match Arc::into_inner(client) {
        Some(client) => drop(client),
        None => tracing::error!("the Kafka client is still in use and leaves no group"),
    });
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        tracing::warn!("the group was not left within {CLOSE_LIMIT:?}: the brokers do not answer");
    }
}
