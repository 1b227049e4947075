//! Logs and traces of a process.

use std::env;
use std::io::{self, IsTerminal as _};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tracing::{Dispatch, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, fmt, registry};

/// The target of the spans around messages. They do not appear in the logs, and cost nothing
/// unless traces are exported.
pub const SPANS: &str = "penstock::span";

/// OpenTelemetry's variables that enable the export of traces.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// The error of setting up logs and traces.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is not valid.
    #[error(
        "the log filter '{filter}' is not valid: {reason}; an example is 'info,librdkafka=warn'"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// The reason that it is not valid.
        reason: String,
    },
    /// The variables of the exporter are not valid.
    #[error("traces can't be exported: {0}; check the variables OTEL_EXPORTER_OTLP_*")]
    Exporter(#[from] ExporterBuildError),
    /// The process has set up another logger.
    #[error(
        "logging is set up already: {0}; remove the program's logger, the runtime sets up its own"
    )]
    Init(#[from] TryInitError),
}

/// Sends the remaining traces when it is dropped. Keep it until the end of `main`.
#[must_use = "traces are sent as long as this lives"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Sets up logs on standard error. Exports traces over OTLP (HTTP, protobuf) if
/// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. `filter` has
/// the syntax of `RUST_LOG`.
pub fn init(format: LogFormat, filter: &str, service: &str) -> Result<Telemetry, TelemetryError> {
    init_to(io::stderr, format, filter, service)
}

/// Sets up logs and traces as [`init`] does, with another writer, which receives each line in
/// one write. It should write to standard error, which decides whether there is colour.
pub fn init_to<W>(
    writer: W,
    format: LogFormat,
    filter: &str,
    service: &str,
) -> Result<Telemetry, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })?;
    let provider = match ENDPOINTS.iter().any(|name| env::var_os(name).is_some()) {
        true => Some(tracer_provider(service)?),
        false => None,
    };
    subscriber(writer, format, filter, provider.as_ref()).try_init()?;
    Ok(Telemetry { provider })
}

/// Without traces the filter is global. A filter of a layer notes its last answer in the thread,
/// and an event at a place whose answer is cached is judged by that note. After a question without
/// an event, as librdkafka's client asks for its level, a line would be lost
/// (tokio-rs/tracing#2519). With two filters that differ no answer is cached.
fn subscriber<W>(
    writer: W,
    format: LogFormat,
    filter: EnvFilter,
    provider: Option<&SdkTracerProvider>,
) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let no_spans = FilterFn::new(|metadata| metadata.target() != SPANS);
    let Some(provider) = provider else {
        let logs = logs(writer, format);
        return registry().with(no_spans).with(filter).with(logs).into();
    };
    let logs = logs(writer, format)
        .with_filter(no_spans)
        .with_filter(filter);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("penstock"))
        .with_filter(FilterFn::new(|metadata| {
            metadata.target() == SPANS && *metadata.level() <= Level::INFO
        }));
    registry().with(logs).with(spans).into()
}

fn logs<S, W>(writer: W, format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let logs = fmt::layer()
        .with_writer(writer)
        .with_ansi(colour())
        .with_target(false);
    match format {
        LogFormat::Text => logs.boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    }
}

/// Colour is for terminals, and `NO_COLOR` forbids it even there.
fn colour() -> bool {
    let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !forbidden
}

fn tracer_provider(service: &str) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}
