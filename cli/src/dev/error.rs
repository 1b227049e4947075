//! The errors of `penstock dev`, with their remedies.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use penstock_crds::librdkafka::SecretError;
use penstock_crds::manifest::ManifestErrors;
use penstock_crds::validate::{FailureAction, ValidatedConsumer};
use penstock_crds::violation::Violations;
use penstock_runtime::handler::HandlerError;
use penstock_runtime::handler::http::HttpHandlerError;
use penstock_runtime::telemetry::TelemetryError;
use penstock_runtime::{Cause, ConnectError, Failure, RunError, error_text};
use rdkafka::error::KafkaError;
use thiserror::Error;

use crate::input::Unreadable;

/// The error that ends a run.
#[derive(Debug, Error)]
pub enum DevError {
    #[error("the manifest can't be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("{file}: {error}")]
    NotOne { file: String, error: ManifestErrors },
    #[error("{file} is not a valid KafkaConsumer:\n{findings}")]
    Invalid { file: String, findings: String },
    #[error("the manifest is not valid with these arguments:\n{0}")]
    Arguments(Violations),
    #[error(
        "--file and --produce can't both be '-', standard input; give the manifest or the messages as a file"
    )]
    OneStdin,
    #[error(
        "--handler-port: the manifest's handler listens on the socket {}, not on a port; leave --handler-port out", .0.display()
    )]
    PortForSocket(PathBuf),
    #[error(
        "--handler-port: the manifest's handler is Embedded and has no port; leave --handler-port out"
    )]
    PortForEmbedded,
    #[error(
        "spec.handler.protocol is Embedded: the consumer is a program built on the runtime library; give the program as the command after '--'"
    )]
    NoProgram,
    #[error(
        "--produce-topic: the consumer does not read '{topic}', it reads {topics}; name one of these topics"
    )]
    UnreadTopic { topic: String, topics: String },
    #[error(
        "the {page} page can't be served at {address}: {source}; end the program that listens there, or choose another address with --{page}-address ({}:0 takes any free port)", address.ip()
    )]
    Page {
        page: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nerror: "))]
    Several(Vec<Self>),
    #[error(
        "the handler can't listen on port {port}: {source}; end the program that listens there, or choose another port with --handler-port (0 takes any free port)"
    )]
    HandlerPort { port: u16, source: io::Error },
    #[error("spec.handler.socket: its directory {} can't be made: {source}; choose a path that this user may write, or, if the manifest sets no socket, add --handler-port 0", directory.display())]
    SocketDirectory {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("the broker in this process can't be started: {0}; name another broker with --brokers")]
    Broker(KafkaError),
    #[error("'{program}' can't be started: {}", start_remedy(program, .source))]
    Start { program: String, source: io::Error },
    #[error(
        "the handler '{program}' ended with {status} before it accepted connections; its output is above"
    )]
    EndedEarly { program: String, status: ExitStatus },
    #[error(
        "the handler '{program}' does not listen on {target} after {limit:?}; let it listen on the address in {variable}, correct spec.handler.{field}, or raise --start-timeout. The last attempt: {error}"
    )]
    NotListening {
        program: String,
        target: String,
        error: Box<HandlerError>,
        limit: Duration,
        variable: &'static str,
        field: &'static str,
    },
    #[error(
        "no handler accepts connections on {target} after {limit:?}; start it, or give its command after '--'. The last attempt: {error}"
    )]
    NobodyListening {
        target: String,
        limit: Duration,
        error: Box<HandlerError>,
    },
    #[error(
        "a program listens on {target}, but not as a gRPC server: {error}; let the handler serve penstock.handler.v1.Handler, or correct spec.handler.protocol, which is Grpc"
    )]
    NotGrpc {
        target: String,
        error: Box<HandlerError>,
    },
    #[error("the handler on {target} can't work with this consumer: {error}")]
    HandlerRefused {
        target: String,
        error: Box<HandlerError>,
    },
    #[error(
        "the handler '{program}' ended with {status} while messages were being handled; its output is above. Messages that were not committed come again at the next start"
    )]
    HandlerEnded { program: String, status: ExitStatus },
    #[error("the consumer '{program}' ended with {status}; its output is above")]
    ConsumerEnded { program: String, status: ExitStatus },
    #[error(
        "the consumer '{program}' serves no metrics at {address} after {limit:?}; with protocol Embedded the command must be a program built on the runtime library, which reads PENSTOCK_METRICS_ADDRESS. If it needs longer, raise --start-timeout"
    )]
    NoMetrics {
        program: String,
        address: SocketAddr,
        limit: Duration,
    },
    #[error(
        "the consumer '{program}' did not end within {limit:?} of the stop and was killed; let its handlers answer sooner, or raise spec.stopTimeout"
    )]
    ConsumerKilled { program: String, limit: Duration },
    #[error("the messages can't be read: {0}")]
    ProduceInput(Unreadable),
    #[error(
        "{file}, line {line}: the separator {separator:?} between key and value is missing; correct the line, or --key-separator"
    )]
    NoKey {
        file: String,
        line: u64,
        separator: String,
    },
    #[error("producing to topic '{topic}' failed at message {number}: {source}{}", produce_remedy(.source))]
    Produce {
        topic: String,
        number: u64,
        source: KafkaError,
    },
    #[error("the producer refused its configuration: {}; correct spec.kafka.config", error_text(.0))]
    Producer(KafkaError),
    #[error(
        "the start offsets of the group can't be committed: {0}; stop the group's other members, or choose another spec.group"
    )]
    StartOffsets(KafkaError),
    #[error("{0}; give the directory of Secrets with --secrets DIR, as DIR/SECRET/ENTRY")]
    Secret(SecretError),
    #[error("{}{}", .error, run_remedy(.error, *.stops))]
    Run {
        error: RunError,
        /// Is `true` if `onFailure` is Stop.
        stops: bool,
    },
    #[error("the copy of the manifest for the consumer can't be written in {directory}: {0}; free space there, or set TMPDIR to another directory", directory = std::env::temp_dir().display())]
    Copy(io::Error),
    #[error(
        "the system refused signal handlers: {0}; raise the limit on open files, or allow sigaction in the seccomp profile"
    )]
    Signals(io::Error),
    #[error("--log: {0}")]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Http(#[from] HttpHandlerError),
    #[error("the metrics can't be registered: {0}; this is a defect of Penstock, report it")]
    Metrics(String),
    #[error(
        "the system refused threads: {0}; raise the limits on processes (pids) and open files, or lower TOKIO_WORKER_THREADS"
    )]
    Tasks(io::Error),
    #[error(
        "a task ended unexpectedly: {0}; this is a defect of Penstock, report it with the output"
    )]
    Task(String),
}

impl DevError {
    /// Creates the error of a consumer that ended with an error.
    pub fn run(consumer: &ValidatedConsumer, error: RunError) -> Self {
        Self::Run {
            error,
            stops: consumer.delivery.on_failure == FailureAction::Stop,
        }
    }
}

fn start_remedy(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') => {
            "there is no such file; correct the path after '--'".to_owned()
        }
        io::ErrorKind::NotFound => format!(
            "there is no such program in PATH; install it, or write its path (./{program} for one in this directory)"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("it is not executable; run 'chmod +x {program}', or name its interpreter first")
        }
        _ => error.to_string(),
    }
}

fn produce_remedy(error: &KafkaError) -> &'static str {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => {
            "; shorten it, or raise message.max.bytes in spec.kafka.config and at the brokers"
        }
        Some(Code::MessageTimedOut) => {
            "; check that the brokers are running and reachable from here"
        }
        Some(Code::TopicAuthorizationFailed) => "; this user needs the right to write to the topic",
        _ => "",
    }
}

/// Returns the remedy, if the error itself does not name one.
fn run_remedy(error: &RunError, stops: bool) -> &'static str {
    match error {
        RunError::Secret(_) => "; give the directory of Secrets with --secrets DIR",
        RunError::Connect(ConnectError::Metadata { .. }) => {
            "\nCheck that a broker listens there and that the address it advertises can be reached from here, or leave --brokers out to use a broker inside this process"
        }
        RunError::Connect(ConnectError::UnknownTopic(_)) => {
            "\nCreate the topic, correct its name in the manifest, or leave --brokers out to use a broker inside this process"
        }
        RunError::Failure(Failure::Message { cause, .. })
            if stops && matches!(**cause, Cause::Handler { .. }) =>
        {
            "\nThe message is not committed and comes again. Correct the handler, or set spec.delivery.onFailure to Skip or DeadLetter to continue without such messages"
        }
        RunError::StopTimeout { .. } => {
            "\nThe messages of these handlers come again, unless they were committed as read"
        }
        _ => "",
    }
}
