//! The operator under test, as a child process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::page::{self, PageError};
use crate::ports;
use crate::process::{Process, ProcessError, Program};
use crate::promtext::{self, Exposition, FormatError};

/// Longest time for its pages, and for the first lists of all objects.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The name of its requests' counter.
const REQUESTS: &str = "penstock_operator_api_requests_total";

/// The operator can't be started, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its pages.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Its metrics.
    #[error("the operator's metrics: {0}")]
    Metrics(#[from] FormatError),
    /// No port is free.
    #[error("a free port: {0}")]
    Port(#[from] std::io::Error),
}

/// An operator that is about to be started.
#[derive(Clone, Debug)]
pub struct Builder {
    kubeconfig: PathBuf,
    flags: Vec<(&'static str, String)>,
}

impl Builder {
    /// Gives it a name among others.
    #[must_use]
    pub fn identity(self, identity: &str) -> Self {
        self.flag("--identity", identity)
    }

    /// Has it look for its Lease in a namespace other than `default`.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        self.flag("--namespace", namespace)
    }

    /// Has it look after one namespace alone.
    #[must_use]
    pub fn watch_namespace(self, namespace: &str) -> Self {
        self.flag("--watch-namespace", namespace)
    }

    /// Sets any flag; the last word on it wins.
    #[must_use]
    pub fn flag(mut self, flag: &'static str, value: &str) -> Self {
        self.flags.retain(|(other, _)| *other != flag);
        self.flags.push((flag, value.to_owned()));
        self
    }

    /// Starts it, and waits until it leads and has listed everything, or stands by.
    ///
    /// # Errors
    /// [`OperatorError`] with its last lines when it does not get so far.
    pub async fn start(&self) -> Result<Operator, OperatorError> {
        let operator = self.spawn()?;
        operator.wait_until_ready().await?;
        Ok(operator)
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Errors
    /// [`OperatorError`] when the system refuses.
    pub fn spawn(&self) -> Result<Operator, OperatorError> {
        let [port] = ports::free("127.0.0.1")?;
        let process = Program::workspace("penstock-operator")?
            .env("KUBECONFIG", &self.kubeconfig)
            .args(
                self.flags
                    .iter()
                    .map(|(flag, value)| format!("{flag}={value}")),
            )
            .arg(format!("--http-address=127.0.0.1:{port}"))
            .start()?;
        Ok(Operator { process, port })
    }
}

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    /// An operator with the rights of a kubeconfig.
    pub fn with(kubeconfig: impl AsRef<Path>) -> Builder {
        Builder {
            kubeconfig: kubeconfig.as_ref().to_owned(),
            flags: Vec::new(),
        }
        .flag("--runtime-image", "registry.example/penstock-runtime:test")
        // The brokers of the tests are on this machine.
        .flag("--denied-broker-networks", "none")
        .identity("under-test")
        .namespace("default")
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until it leads and has listed everything, or stands by.
    ///
    /// # Errors
    /// [`OperatorError`] with its last lines when it does not get so far.
    pub async fn wait_until_ready(&self) -> Result<(), OperatorError> {
        let ready = async || match page::get(self.port, "/readyz").await {
            Ok(page) if page.status == 200 => Ok(()),
            Ok(page) => Err(page.body),
            Err(error) => Err(error.to_string()),
        };
        self.process
            .wait_for("the operator to be ready", START_LIMIT, ready)
            .await?;
        Ok(())
    }

    /// What it says of itself at /readyz.
    ///
    /// # Errors
    /// [`PageError`] when it does not answer.
    pub async fn says(&self) -> Result<String, PageError> {
        let page = page::get(self.port, "/readyz").await?;
        Ok(page.body.trim_end().to_owned())
    }

    /// Its metrics.
    ///
    /// # Errors
    /// [`OperatorError`] when it does not answer, or not in Prometheus' format.
    pub async fn metrics(&self) -> Result<Exposition, OperatorError> {
        let page = page::get(self.port, "/metrics").await?;
        Ok(promtext::parse(&page.body)?)
    }

    /// The value of a metric without labels, such as `penstock_operator_consumers`.
    ///
    /// # Errors
    /// As [`Operator::metrics`].
    pub async fn metric(&self, name: &str) -> Result<f64, OperatorError> {
        Ok(self.metrics().await?.value(name, &[]).unwrap_or_default())
    }

    /// Its requests to the API server so far.
    ///
    /// # Errors
    /// As [`Operator::metrics`].
    pub async fn requests(&self) -> Result<Requests, OperatorError> {
        let metrics = self.metrics().await?;
        let label = |labels: &promtext::Labels, name: &str| -> String {
            labels.get(name).cloned().unwrap_or_default()
        };
        let counts = metrics.samples(REQUESTS, &[]).map(|sample| {
            let request = Request {
                verb: label(&sample.labels, "verb"),
                resource: label(&sample.labels, "resource"),
            };
            // A counter holds a whole number.
            (request, sample.value as u64)
        });
        Ok(Requests(counts.collect()))
    }
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Verb, as Kubernetes names them: `get`, `list`, `watch`, `patch` …
    pub verb: String,
    /// Resource, with its subresource: `kafkaconsumers/status`.
    pub resource: String,
}

impl Request {
    /// Whether it is one to keep the Lease.
    pub fn is_of_lease(&self) -> bool {
        self.resource == "leases"
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// Requests, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(pub BTreeMap<Request, u64>);

impl Requests {
    /// Those that came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let left = self.0.iter().filter_map(|(request, count)| {
            let before = earlier.0.get(request).copied().unwrap_or_default();
            (*count > before).then(|| (request.clone(), count - before))
        });
        Self(left.collect())
    }

    /// Those of a kind.
    #[must_use]
    pub fn only(&self, which: impl Fn(&Request) -> bool) -> Self {
        let kept = self.0.iter().filter(|(request, _)| which(request));
        Self(
            kept.map(|(request, count)| (request.clone(), *count))
                .collect(),
        )
    }

    /// Those that change something, but the Lease.
    #[must_use]
    pub fn writes(&self) -> Self {
        self.only(|request| request.is_write() && !request.is_of_lease())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests<const N: usize>(counts: [(&str, &str, u64); N]) -> Requests {
        let counts = counts.map(|(verb, resource, count)| {
            let request = Request {
                verb: verb.to_owned(),
                resource: resource.to_owned(),
            };
            (request, count)
        });
        Requests(counts.into())
    }

    #[test]
    fn what_came_later_and_what_changes_something_is_told_apart() {
        let before = requests([("list", "pods", 1), ("update", "leases", 3)]);
        let after = requests([
            ("list", "pods", 1),
            ("patch", "deployments", 2),
            ("update", "leases", 5),
        ]);
        let since = after.since(&before);
        assert_eq!(
            since,
            requests([("patch", "deployments", 2), ("update", "leases", 2)])
        );
        assert_eq!(since.writes(), requests([("patch", "deployments", 2)]));
        assert_eq!(since.only(Request::is_of_lease).count(), 2);
    }
}
