//! The main functions of programs that are one consumer: the runtime's binary, and programs with
//! an embedded handler.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_crds::manifest::{self, ManifestErrors};
use penstock_crds::spec::Protocol;
use penstock_crds::validate::{Endpoint, ValidatedConsumer};
use thiserror::Error;

use crate::consumer::remote::RemoteHandler;
use crate::consumer::server::{
    HEALTH_ADDRESS, METRICS_ADDRESS, RunError, Runtime, SECRETS_DIRECTORY,
};
use crate::handler::decode::Decoder;
use crate::handler::http::HttpHandlerError;
use crate::handler::{FailureKind, Handler};
use crate::process::worker::Reason;
use crate::program::end_code::EndCode;
use crate::program::signals::stop_on_signal;
use crate::program::telemetry::{self, LogFormat, TelemetryError};
use crate::program::termination::write_message;

/// The variable with the file for the termination message.
const TERMINATION_LOG: &str = "PENSTOCK_TERMINATION_LOG";

/// The maximum time for a handler outside the process to accept connections. After it the
/// runtime ends, and is restarted.
const HANDLER_START_LIMIT: Duration = Duration::from_secs(120);

/// Consumes Kafka topics as a KafkaConsumer manifest describes, and gives each message to its
/// handler
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// File with one KafkaConsumer manifest
    #[arg(
        long,
        env = "PENSTOCK_CONFIG",
        default_value = "/etc/penstock/consumer.yaml"
    )]
    config: PathBuf,

    /// Directory with the Secrets that the manifest names, as SECRET/ENTRY
    #[arg(long, env = "PENSTOCK_SECRETS", default_value = SECRETS_DIRECTORY)]
    secrets: PathBuf,

    /// Brokers to use instead of the manifest's
    #[arg(long, env = "PENSTOCK_BOOTSTRAP_SERVERS")]
    bootstrap_servers: Option<String>,

    /// Address of the metrics page
    #[arg(long, env = "PENSTOCK_METRICS_ADDRESS", default_value_t = METRICS_ADDRESS)]
    metrics_address: SocketAddr,

    /// Address of the health pages
    #[arg(long, env = "PENSTOCK_HEALTH_ADDRESS", default_value_t = HEALTH_ADDRESS)]
    health_address: SocketAddr,

    /// Name that distinguishes this process in its group, the same at each start: a pod's name.
    /// At its start, a process aborts the open transactions of an earlier process with its name
    #[arg(long, env = "PENSTOCK_INSTANCE")]
    instance: Option<String>,

    /// Log lines to write, in the syntax of RUST_LOG
    #[arg(long, env = "PENSTOCK_LOG", default_value = "info")]
    log: String,

    /// Format of log lines
    #[arg(long, env = "PENSTOCK_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    /// File for the error that ends the program, and its code; none when absent
    #[arg(long, env = TERMINATION_LOG)]
    termination_log: Option<PathBuf>,
}

/// An error that ends the program.
#[derive(Debug, Error)]
enum MainError {
    #[error("the manifest can't be read from {path}: {source}; give its file with --config")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} is not a valid KafkaConsumer:\n{errors}")]
    Invalid {
        path: PathBuf,
        errors: ManifestErrors,
    },
    #[error(
        "spec.handler.protocol is {found:?}, but this program {expected}; correct the protocol, or run the program that serves it"
    )]
    WrongProtocol {
        found: Protocol,
        expected: &'static str,
    },
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(
        "the system refused signal handlers: {0}; raise the limit on open files, or allow sigaction in the seccomp profile"
    )]
    Signals(io::Error),
    #[error(
        "the system refused threads: {0}; raise the limits on processes (pids) and open files, or lower TOKIO_WORKER_THREADS"
    )]
    Threads(io::Error),
    #[error(transparent)]
    Http(#[from] HttpHandlerError),
    #[error("{0}; start the handler, or correct spec.handler.port or spec.handler.socket")]
    HandlerDown(crate::handler::HandlerError),
    #[error("{0}")]
    HandlerRefused(crate::handler::HandlerError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs a program with an embedded handler: reads the arguments, sets up logs, and consumes until
/// a signal or an error. Returns the exit code for `main`.
///
/// ```no_run
/// use penstock_runtime::decode::Json;
/// use penstock_runtime::handler::handler_fn;
/// use penstock_runtime::record::Message;
///
/// #[tokio::main]
/// async fn main() -> std::process::ExitCode {
///     let handler = handler_fn(|order: Message<'_, serde_json::Value>| {
///         println!("{}", order.data());
///         async { Ok(()) }
///     });
///     penstock_runtime::run_main(Json::new(), handler).await
/// }
/// ```
pub async fn run_main<D, H>(decoder: D, handler: H) -> ExitCode
where
    D: Decoder,
    H: Handler<D::Data>,
{
    let arguments = match Arguments::from_process() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let ended = embedded(&arguments, decoder, handler).await;
    arguments.exit_code(ended)
}

/// Runs the runtime's binary, for a handler in another process.
pub fn run_main_remote() -> ExitCode {
    let arguments = match Arguments::from_process() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let ended = on_threads(&arguments);
    arguments.exit_code(ended)
}

/// Runs on one thread for each core, or on `TOKIO_WORKER_THREADS` threads. With one handler there
/// is one task at a time, so it runs on one thread: to wake another would cost more than the task.
fn on_threads(arguments: &Arguments) -> Result<(), MainError> {
    let consumer = arguments.read()?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if consumer.mode.handlers() == 1 && env::var_os("TOKIO_WORKER_THREADS").is_none() {
        threads.worker_threads(1);
    }
    let runtime = threads.enable_all().build().map_err(MainError::Threads)?;
    runtime.block_on(remote(arguments, consumer))
}

async fn embedded<D, H>(arguments: &Arguments, decoder: D, handler: H) -> Result<(), MainError>
where
    D: Decoder,
    H: Handler<D::Data>,
{
    let consumer = arguments.read()?;
    if consumer.endpoint != Endpoint::Embedded {
        return Err(MainError::WrongProtocol {
            found: consumer.handler.protocol,
            expected: "has its handler embedded",
        });
    }
    let _telemetry = arguments.telemetry(&consumer)?;
    let stop = stop_on_signal().map_err(MainError::Signals)?;
    tracing::info!("the handler is embedded");
    Ok(arguments
        .runtime(consumer)
        .run(decoder, handler, stop)
        .await?)
}

async fn remote(arguments: &Arguments, consumer: ValidatedConsumer) -> Result<(), MainError> {
    let Some(handler) = RemoteHandler::new(&consumer)? else {
        return Err(MainError::WrongProtocol {
            found: consumer.handler.protocol,
            expected: "has no handler embedded",
        });
    };
    let _telemetry = arguments.telemetry(&consumer)?;
    let stop = stop_on_signal().map_err(MainError::Signals)?;
    tracing::info!(handler = %handler.address(), "waiting for the handler to accept connections");
    tokio::select! {
        up = handler.wait_until_up(HANDLER_START_LIMIT) => up.map_err(not_up)?,
        () = stop.cancelled() => return Ok(()),
    }
    Ok(handler.run(arguments.runtime(consumer), stop).await?)
}

impl MainError {
    fn code(&self) -> EndCode {
        match self {
            Self::Unreadable { .. } => EndCode::ManifestUnreadable,
            Self::Invalid { .. } | Self::Http(_) => EndCode::ManifestInvalid,
            Self::WrongProtocol { .. } => EndCode::ProtocolMismatch,
            Self::Telemetry(_) => EndCode::TelemetryInvalid,
            Self::Signals(_) | Self::Threads(_) => EndCode::SystemRefused,
            Self::HandlerDown(_) => EndCode::HandlerUnreachable,
            Self::HandlerRefused(_) => EndCode::HandlerIncompatible,
            Self::Run(error) => error.code(),
        }
    }
}

fn not_up(error: crate::handler::HandlerError) -> MainError {
    match error.kind() {
        FailureKind::Permanent => MainError::HandlerRefused(error),
        _ => MainError::HandlerDown(error),
    }
}

/// Reports the error that ends the program: in the termination message, and in the last log
/// line. Without logs the line goes to standard error.
fn report(error: &str, code: EndCode, termination_log: Option<&Path>) {
    if let Some(path) = termination_log
        && let Err(error) = write_message(path, error, code)
    {
        let path = path.display();
        eprintln!("warning: the termination message can't be written to {path}: {error}");
    }
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(%code, error = %Reason(error), "the runtime ends with an error");
    } else {
        eprintln!("error: {error} (code={code})");
    }
}

impl Arguments {
    /// Reads the command line and the environment, or returns the exit code after it has
    /// printed the error or the help.
    fn from_process() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // Standard error may be closed; nothing else can be done about it.
            let _ = error.print();
            if error.use_stderr() {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let first = first.strip_prefix("error: ").unwrap_or(first);
                let log = env::var_os(TERMINATION_LOG).map(PathBuf::from);
                report(first, EndCode::ArgumentsInvalid, log.as_deref());
            }
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        })
    }

    /// Reports the error that ended the program, if any, and returns the exit code.
    fn exit_code(&self, ended: Result<(), MainError>) -> ExitCode {
        let Err(error) = ended else {
            return ExitCode::SUCCESS;
        };
        let log = self.termination_log.as_deref();
        report(&error.to_string(), error.code(), log);
        ExitCode::FAILURE
    }

    fn read(&self) -> Result<ValidatedConsumer, MainError> {
        let text = fs::read_to_string(&self.config).map_err(|source| MainError::Unreadable {
            path: self.config.clone(),
            source,
        })?;
        let (_, mut consumer) = manifest::read_one(&text).map_err(|errors| MainError::Invalid {
            path: self.config.clone(),
            errors,
        })?;
        if let Some(brokers) = &self.bootstrap_servers {
            consumer.kafka.bootstrap_servers.clone_from(brokers);
        }
        Ok(consumer)
    }

    fn telemetry(
        &self,
        consumer: &ValidatedConsumer,
    ) -> Result<telemetry::Telemetry, TelemetryError> {
        telemetry::init(self.log_format, &self.log, consumer.group.service())
    }

    fn runtime(&self, consumer: ValidatedConsumer) -> Runtime {
        let runtime = Runtime::new(consumer)
            .secrets(&self.secrets)
            .metrics_address(Some(self.metrics_address))
            .health_address(Some(self.health_address));
        match &self.instance {
            Some(name) => runtime.instance(name),
            None => runtime,
        }
    }
}
