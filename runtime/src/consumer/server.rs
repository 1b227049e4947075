//! The life of a consumer: build, start, run, stop.
//!
//! Handlers are built first, then the pump, then the pages. The pump starts first and the pages
//! start last. At a stop the pump ends reading, the handlers drain under one limit, the client
//! leaves the group, and the pages end last.

use std::collections::BTreeMap;
use std::net::{self, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::librdkafka::properties::parse_boolean;
use penstock_crds::librdkafka::{SecretError, consumer_config, oauth_token_path};
use penstock_crds::names::TopicName;
use penstock_crds::validate::{FailureAction, ValidatedConsumer};
use rdkafka::consumer::ConsumerGroupMetadata;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::commit::strategy::Strategy;
use crate::consumer::assembly::{Assembly, Plain};
use crate::consumer::memory::Budget;
use crate::group::positions::Policy;
use crate::handler::Availability;
use crate::handler::decode::Decoder;
use crate::handler::{BatchHandler, Handler};
use crate::kafka::{ConnectError, Edge, Target, Transactional, connect};
use crate::observe::http::{
    Health, HealthCheck, ListenError, Place, Server, health_pages, metrics_page,
};
use crate::observe::metrics::Metrics;
use crate::observe::progress::Progress;
use crate::process::dead_letter::{DeadLetterError, DeadLetters, kafka_sink};
use crate::process::worker::{Failure, Seat, Shared, work, work_in_batches};
use crate::transactions::{Identity, Transactions, TransactionsError};

/// The default address of the metrics page.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(ANY, 6060);

/// The default address of the health pages.
pub const HEALTH_ADDRESS: SocketAddr = SocketAddr::new(ANY, 9090);

const ANY: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The default time for which a refused commit is sent again in InOrder mode. It is longer than
/// any rebalance, in which a missing member is removed after `session.timeout.ms` (10 s).
const COMMIT_RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Directory under which Secrets are mounted, as `{directory}/{Secret}/{entry}`.
pub const SECRETS_DIRECTORY: &str = "/etc/penstock/secrets";

/// The error that ended a consumer.
#[derive(Debug, Error)]
pub enum RunError {
    /// An entry of a Secret is missing.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The address of a page is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Kafka could not be reached, or a topic is missing.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The dead-letter producer could not be created.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    /// The transactional producer of `commit: Transactional` could not start.
    #[error(transparent)]
    Transactions(#[from] TransactionsError),
    /// The metrics could not be registered.
    #[error("the metrics could not be registered: {0}; this is a defect of Penstock, report it")]
    Metrics(#[from] prometheus::Error),
    /// A message could not be handled or committed.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A task ended because of a defect in Penstock.
    #[error("a task ended unexpectedly: {0}; this is a defect of Penstock, report it with the log")]
    Task(String),
    /// Handlers did not end within `stopTimeout`.
    #[error(
        "handlers were still busy after the stopTimeout of {limit:?}: {unfinished}. Let the handler answer sooner, or raise spec.stopTimeout"
    )]
    StopTimeout {
        /// The number of busy handlers.
        unfinished: usize,
        /// The limit.
        limit: Duration,
    },
}

/// A consumer that is not running yet.
pub struct Runtime {
    consumer: ValidatedConsumer,
    secrets: PathBuf,
    metrics_page: Option<Place>,
    health_page: Option<Place>,
    health_check: Option<HealthCheck>,
    metrics: Option<Metrics>,
    availability: Option<Arc<Availability>>,
    commit_retry_limit: Duration,
    instance: String,
}

impl Runtime {
    /// Creates a consumer with the default pages and without a health check.
    pub fn new(consumer: ValidatedConsumer) -> Self {
        Self {
            consumer,
            secrets: SECRETS_DIRECTORY.into(),
            metrics_page: Some(Place::Address(METRICS_ADDRESS)),
            health_page: Some(Place::Address(HEALTH_ADDRESS)),
            health_check: None,
            metrics: None,
            availability: None,
            commit_retry_limit: COMMIT_RETRY_LIMIT,
            instance: format!("{:016x}", rand::random::<u64>()),
        }
    }

    /// Sets the name that distinguishes this process in its group, the same at each start: for
    /// example, a pod's name. With `commit: Transactional`, a process aborts at its start the
    /// open transactions of an earlier process with its name. With another name, or without
    /// one, its successors wait for these transactions, for up to ten seconds.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }

    /// Sets the directory of Secrets: `{directory}/{Secret}/{entry}`.
    #[must_use]
    pub fn secrets(mut self, directory: impl AsRef<Path>) -> Self {
        self.secrets = directory.as_ref().to_owned();
        self
    }

    /// Sets the address of the metrics page; `None` disables it.
    #[must_use]
    pub fn metrics_address(mut self, address: Option<SocketAddr>) -> Self {
        self.metrics_page = address.map(Place::Address);
        self
    }

    /// Sets a listener for the metrics page, so that no other process can take the address
    /// before.
    #[must_use]
    pub fn metrics_listener(mut self, listener: net::TcpListener) -> Self {
        self.metrics_page = Some(Place::Held(listener));
        self
    }

    /// Sets the address of the health pages; `None` disables them.
    #[must_use]
    pub fn health_address(mut self, address: Option<SocketAddr>) -> Self {
        self.health_page = address.map(Place::Address);
        self
    }

    /// Sets a listener for the health pages.
    #[must_use]
    pub fn health_listener(mut self, listener: net::TcpListener) -> Self {
        self.health_page = Some(Place::Held(listener));
        self
    }

    /// Sets a callback that decides the answer of `/health`.
    #[must_use]
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.health_check = Some(check);
        self
    }

    /// Sets metrics that were created with [`Metrics::new`], so that the caller can read them
    /// while the consumer runs.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Sets the availability of a remote handler, for the metrics.
    #[must_use]
    pub(crate) fn availability(mut self, availability: &Arc<Availability>) -> Self {
        self.availability = Some(Arc::clone(availability));
        self
    }

    /// Sets the time for which a commit that was refused during a rebalance is sent again in
    /// InOrder mode, before the consumer ends with an error; 30 s by default.
    #[must_use]
    pub fn commit_retry_limit(mut self, limit: Duration) -> Self {
        self.commit_retry_limit = limit;
        self
    }

    /// Runs until `stop` is cancelled or a message ends the consumer. Returns after the
    /// consumer has left its group.
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
        self.start(decoder, handler, stop, work).await
    }

    /// Runs as [`Self::run`] does, for a handler that takes up to `consumeBatchSize` messages
    /// in one call.
    pub async fn run_in_batches<D, H>(
        self,
        decoder: D,
        handler: H,
        stop: CancellationToken,
    ) -> Result<(), RunError>
    where
        D: Decoder,
        H: BatchHandler<D::Data>,
    {
        let most = self.consumer.consume_batch_size.get() as usize;
        let work = move |shared, seat| work_in_batches(shared, seat, most);
        self.start(decoder, handler, stop, work).await
    }

    async fn start<D, H, W, F>(
        mut self,
        decoder: D,
        handler: H,
        stop: CancellationToken,
        work: W,
    ) -> Result<(), RunError>
    where
        D: Decoder,
        H: Send + Sync + 'static,
        W: Fn(Arc<Shared<D, H>>, Seat) -> F,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let metrics = self.take_metrics()?;
        if let Some(availability) = self.availability.take() {
            metrics.watch_handler(availability);
        }
        let pages = self.listen()?;
        let budget = Budget::of_container();
        let connection = self.connection(budget)?;
        let wake = Arc::new(Notify::new());
        let dead_letters = self.dead_letters(&connection)?;
        // Before the consumer joins the group: a member that waits for its producer answers no
        // rebalance.
        let transactions = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            transactions = self.transactions(&connection, &wake) => transactions?,
        };
        let client = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            client = connect(self.target(&connection), Arc::clone(&wake)) => client?,
        };
        let assembly = Assembly {
            consumer: &self.consumer,
            client,
            wake,
            transactions,
            dead_letters,
            metrics: metrics.clone(),
            budget,
            commit_interval: connection.commit_interval(),
            policy: Policy {
                reset: connection.reset(),
                lost: self.consumer.on_offset_lost,
            },
            commit_retry_limit: self.commit_retry_limit,
            stores: self.stores(&connection),
        };
        let (running, progress) = assembly.start(decoder, handler, work, &Plain);
        let servers = pages.serve(metrics, self.health(progress));
        let ended = running.until(stop).await;
        for server in servers {
            server.stop().await;
        }
        ended
    }

    fn take_metrics(&self) -> Result<Metrics, prometheus::Error> {
        match &self.metrics {
            Some(metrics) => Ok(metrics.clone()),
            None => Metrics::new(
                &self.consumer.prometheus_client_name,
                self.consumer.name.as_str(),
            ),
        }
    }

    /// Returns the client's properties, with the values of Secrets.
    fn connection(&self, budget: Budget) -> Result<Connection, SecretError> {
        let config = consumer_config(&self.consumer);
        let mut consumer = config.resolve(&self.secrets)?;
        budget.apply(&mut consumer);
        Ok(Connection {
            consumer,
            producer: config.resolve_client(&self.secrets)?,
            oauth_token: oauth_token_path(&self.consumer.kafka, &self.secrets),
        })
    }

    fn strategy(&self) -> Strategy {
        Strategy::from(&self.consumer)
    }

    /// Creates the transactional producer, if commits are transactional.
    async fn transactions(
        &self,
        connection: &Connection,
        wake: &Arc<Notify>,
    ) -> Result<Option<Box<dyn Transactional<ConsumerGroupMetadata>>>, TransactionsError> {
        if self.strategy() != Strategy::Transaction {
            return Ok(None);
        }
        let identity = Identity {
            connection: &connection.producer,
            id: format!("{}.{}", self.consumer.group, self.instance),
            oauth_token: connection.oauth_token.clone(),
        };
        let transactions = Transactions::start(identity, Arc::clone(wake)).await?;
        Ok(Some(Box::new(transactions)))
    }

    /// Returns `true` if the runtime stores the offsets of read messages, for the client to
    /// commit.
    fn stores(&self, connection: &Connection) -> bool {
        self.strategy() == Strategy::Read && connection.commits_by_itself()
    }

    fn dead_letter_topic(&self) -> Option<&TopicName> {
        match &self.consumer.delivery.on_failure {
            FailureAction::DeadLetter(topic) => Some(topic),
            FailureAction::Stop | FailureAction::Skip => None,
        }
    }

    fn target<'a>(&'a self, connection: &'a Connection) -> Target<'a> {
        Target {
            config: &connection.consumer,
            topics: &self.consumer.topics,
            dead_letters: self.dead_letter_topic(),
            oauth_token: connection.oauth_token.clone(),
            reports_ends: self.strategy().redelivers() || self.stores(connection),
            stores: self.stores(connection),
        }
    }

    fn dead_letters(
        &self,
        connection: &Connection,
    ) -> Result<Option<DeadLetters>, DeadLetterError> {
        let strategy = self.strategy();
        let dead_letters = self.dead_letter_topic().map(|topic| {
            let sink = match strategy {
                Strategy::Transaction => None,
                _ => {
                    let token = connection.oauth_token.clone();
                    Some(kafka_sink(&connection.producer, token)?)
                }
            };
            let (topic, group) = (topic.clone(), self.consumer.group.to_string());
            Ok(DeadLetters::new(sink, topic, group))
        });
        dead_letters.transpose()
    }

    fn health(&self, progress: Arc<Progress>) -> Health {
        Health {
            name: self.consumer.name.to_string(),
            progress,
            check: self.health_check.clone(),
            timeout: self.consumer.handler.timeout.get(),
        }
    }

    fn listen(&mut self) -> Result<Pages, ListenError> {
        let metrics = self
            .metrics_page
            .take()
            .map(|place| place.listen("metrics"));
        let health = self.health_page.take().map(|place| place.listen("health"));
        Ok(Pages {
            metrics: metrics.transpose()?,
            health: health.transpose()?,
        })
    }
}

/// The default time between two commits of handled messages.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// The connection to Kafka, as librdkafka properties.
struct Connection {
    consumer: BTreeMap<String, String>,
    producer: BTreeMap<String, String>,
    oauth_token: Option<PathBuf>,
}

impl Connection {
    /// Returns the time between two commits of handled messages, which the user may set. In
    /// InOrder mode, it is the time between two commits of attempts.
    fn commit_interval(&self) -> Duration {
        let interval = self.consumer.get("auto.commit.interval.ms");
        match interval.and_then(|interval| interval.parse().ok()) {
            Some(0) | None => COMMIT_INTERVAL,
            Some(interval) => Duration::from_millis(interval),
        }
    }

    /// Returns `true` if the client commits the offsets of read messages. A user who disables
    /// that commits elsewhere.
    fn commits_by_itself(&self) -> bool {
        let is_on = |property: &str| {
            let text = self.consumer.get(property);
            text.and_then(|text| parse_boolean(text)) != Some(false)
        };
        is_on("enable.auto.commit") && is_on("enable.auto.offset.store")
    }

    /// Returns the edge at which a group without a committed offset begins. librdkafka has
    /// several names for each, and the user's properties may set them.
    fn reset(&self) -> Option<Edge> {
        match self.consumer.get("auto.offset.reset").map(String::as_str) {
            Some("latest" | "largest" | "end") => Some(Edge::End),
            Some("earliest" | "smallest" | "beginning") => Some(Edge::Start),
            _ => None,
        }
    }
}

/// Bound addresses that are not served yet.
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
