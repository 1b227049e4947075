//! The whole program: settings, logs, pages, leader election, controller.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use penstock_runtime::signals::stop_on_signal;
use penstock_runtime::telemetry::{self, TelemetryError};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::NAME;
use crate::api::Scope;
use crate::arguments::{Arguments, Command, Settings};
use crate::build::RuntimeImage;
use crate::context::Context;
use crate::controller;
use crate::events::Events;
use crate::http::{Health, Phase, pages};
use crate::kafka::{BrokerPolicy, Directory, LagReader, SearchPath};
use crate::lease::{Attempt, Candidate};
use crate::metrics::Metrics;
use crate::probe::{ProbeError, probe};
use crate::triggers::Triggers;

/// The maximum time for running passes at a stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The maximum time without a byte of an answer. The API server ends watches sooner, and an
/// admission webhook may take 30 seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(40);

/// The error that ends the program.
#[derive(Debug, Error)]
enum MainError {
    #[error("the system refused threads: {0}; raise the limits on processes (pids) and open files")]
    Threads(io::Error),
    #[error(
        "the system refused signal handlers: {0}; raise the limit on open files, or allow sigaction in the seccomp profile"
    )]
    Signals(io::Error),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("the metrics can't be registered: {0}; this is a defect of Penstock, report it")]
    Metrics(#[from] prometheus::Error),
    #[error("no API server is configured: {0}; run the operator in a cluster, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    #[error(
        "no client of the API server can be created: {0}; correct the kubeconfig, or the service account's token and certificate"
    )]
    Client(kube::Error),
    #[error(
        "the pages can't be served at {address}: {source}; choose another address with --http-address"
    )]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the Lease is lost: {0}; the process ends, so that no two operators work")]
    LeaseLost(String),
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// Runs the operator, and returns its exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(MainError::Threads)
        .and_then(|threads| {
            let result = threads.block_on(run(arguments));
            // Kafka clients that wait for an answer must not delay the end.
            threads.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), MainError> {
    match (arguments.command, arguments.settings) {
        (Some(Command::Probe { url }), _) => {
            println!("{}", probe(url).await?);
            Ok(())
        }
        (None, Some(settings)) => operate(settings).await,
        (None, None) => unreachable!("the settings are required without a command"),
    }
}

async fn operate(settings: Settings) -> Result<(), MainError> {
    // A later directive wins, so `--log` can still show kube's lines.
    let filter = format!("kube=warn,{}", settings.log);
    let _telemetry = telemetry::init(settings.log_format, &filter, NAME)?;
    let stop = stop_on_signal().map_err(MainError::Signals)?;
    let metrics = Metrics::new()?;
    let client = client(&metrics).await?;
    let health = Health::default();
    let _pages = serve(settings.http_address, health.clone(), metrics.clone()).await?;
    let identity = settings.identity.clone().unwrap_or_else(host_name);
    tracing::info!(
        "{NAME} {} as '{identity}' reconciles the consumers of {}",
        env!("CARGO_PKG_VERSION"),
        match &settings.watch_namespace {
            Some(namespace) => format!("namespace '{namespace}'"),
            None => "all namespaces".to_owned(),
        }
    );
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.namespace);
    let work = Work {
        settings,
        client,
        identity: identity.clone(),
        metrics,
        health,
    };
    match work.settings.leader_election {
        true => {
            let candidate = Candidate::new(leases, work.settings.lease_name.clone(), identity);
            work.when_leading(candidate, stop).await
        }
        false => {
            let beat = work.heartbeat();
            work.lead(stop).await;
            beat.abort();
            Ok(())
        }
    }
}

async fn client(metrics: &Metrics) -> Result<Client, MainError> {
    let config = limited(Config::infer().await?);
    let client = ClientBuilder::try_from(config).map_err(MainError::Client)?;
    Ok(client.with_layer(&metrics.count_requests()).build())
}

/// Limits requests, whatever else is configured.
fn limited(mut config: Config) -> Config {
    // The client's retries would keep a pass waiting for minutes, and no metric or log would show
    // it. The back-off of each consumer lets other consumers continue.
    config.default_retry = false;
    // Without a limit, TCP notices a dead peer only after a quarter of an hour.
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config
}

async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
) -> Result<tokio::task::JoinHandle<io::Result<()>>, MainError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| MainError::Listen { address, source })?;
    let pages = pages(health, metrics);
    Ok(tokio::spawn(
        async move { axum::serve(listener, pages).await },
    ))
}

/// The parts of an operator that is about to start.
struct Work {
    settings: Settings,
    client: Client,
    identity: String,
    metrics: Metrics,
    health: Health,
}

impl Work {
    /// Waits for the Lease, works while it holds it, and releases it.
    async fn when_leading(
        &self,
        mut candidate: Candidate,
        stop: CancellationToken,
    ) -> Result<(), MainError> {
        let acquired = candidate.acquire(|attempt| self.note(attempt));
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = acquired => false,
        };
        if stopped {
            candidate.release().await;
            return Ok(());
        }
        tracing::info!("leading: this operator holds the Lease");
        let finish = stop.child_token();
        let lost = {
            let mut work = std::pin::pin!(self.lead(finish.clone()));
            let mut lease = std::pin::pin!(candidate.keep(|attempt| self.note(attempt)));
            tokio::select! {
                () = &mut work => None,
                // Another operator may already work, so nothing is finished.
                lost = &mut lease => Some(lost),
            }
        };
        match lost {
            Some(reason) => Err(MainError::LeaseLost(reason)),
            None => {
                candidate.release().await;
                Ok(())
            }
        }
    }

    /// Works until the stop, and then until running passes end.
    async fn lead(&self, stop: CancellationToken) {
        self.metrics.leader(true);
        self.health.enter(Phase::Syncing);
        let (context, woken) = self.context();
        let health = self.health.clone();
        let controller = controller::run(context, woken, stop.clone(), move || health.synced());
        let too_late = async {
            stop.cancelled().await;
            // Passes wait for the first lists, and the controller waits for those passes.
            let is_idle = self.health.is_syncing();
            self.health.enter(Phase::Stopping);
            if !is_idle {
                tokio::time::sleep(STOP_LIMIT).await;
            }
            is_idle
        };
        tokio::select! {
            () = controller => tracing::info!("the operator stopped"),
            is_idle = too_late => if is_idle {
                tracing::info!("the operator stopped before the first lists were complete");
            } else {
                tracing::warn!(
                    limit = ?STOP_LIMIT,
                    "the operator stopped before all passes ended; the next leader repeats them"
                );
            },
        }
        self.metrics.leader(false);
    }

    fn note(&self, attempt: &Attempt) {
        self.health.alive();
        match attempt {
            Attempt::Held => {}
            Attempt::Other(leader) => self.health.enter(Phase::Standby {
                leader: leader.clone(),
            }),
            Attempt::Failed(error) => {
                tracing::warn!(%error, "the Lease could not be acquired or renewed; the attempt is repeated");
            }
        }
    }

    /// Reports life in place of the loop that keeps the Lease, when there is no leader election.
    fn heartbeat(&self) -> tokio::task::JoinHandle<()> {
        let health = self.health.clone();
        tokio::spawn(async move {
            loop {
                health.alive();
                tokio::time::sleep(crate::lease::PERIOD).await;
            }
        })
    }

    fn context(
        &self,
    ) -> (
        Arc<Context>,
        tokio::sync::mpsc::UnboundedReceiver<crate::key::Key>,
    ) {
        let settings = &self.settings;
        let (triggers, woken) = Triggers::new();
        let interval = settings.recheck_interval.get();
        let policy = BrokerPolicy::new(
            settings.allowed_brokers.clone(),
            settings.denied_broker_networks.clone(),
        )
        .searching(SearchPath::of_this_pod());
        let context = Context {
            scope: Scope {
                client: self.client.clone(),
                namespace: settings.watch_namespace.clone(),
            },
            runtime: RuntimeImage {
                image: settings.runtime_image.clone(),
                pull_policy: settings.runtime_image_pull_policy.clone(),
                pull_secrets: settings.runtime_image_pull_secrets.clone(),
            },
            existing: Default::default(),
            replica_sets: Default::default(),
            pods: Default::default(),
            secrets: Default::default(),
            siblings: Default::default(),
            kafka: Arc::new(Directory::new(interval, triggers.clone(), policy)),
            lags: Arc::new(LagReader::new(interval, triggers.clone())),
            statuses: Default::default(),
            events: Events::new(self.client.clone(), &self.identity),
            passes: self.health.passes(),
            backoffs: Default::default(),
            triggers,
            metrics: self.metrics.clone(),
        };
        (Arc::new(context), woken)
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| NAME.to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// The connection stands, and nothing comes back: a node that lost its power, or a
    /// firewall that forgot the connection.
    #[tokio::test(start_paused = true)]
    async fn a_request_on_a_dead_connection_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok(connection) = listener.accept().await {
                connections.push(connection);
            }
        });
        let config = limited(Config::new(format!("http://{address}").parse().unwrap()));
        let client = ClientBuilder::try_from(config).unwrap().build();
        let pods: Api<Pod> = Api::namespaced(client, "shop");
        let began = Instant::now();
        let answer = timeout(READ_TIMEOUT * 10, pods.get("orders")).await;
        assert!(answer.expect("it ends").is_err());
        assert!(began.elapsed() <= READ_TIMEOUT * 2, "{:?}", began.elapsed());
        silent.abort();
    }
}
