//! The operator's metrics. No label contains the name of an object: a label for each consumer would
//! grow without bound.

use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request};
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use tower::{Layer, Service};

/// The operator's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    failures: IntCounter,
    duration: Histogram,
    statuses: IntCounter,
    consumers: IntGauge,
    leader: IntGauge,
    requests: IntCounterVec,
}

/// The bounds of the durations, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

impl Metrics {
    /// Creates the metrics in a separate registry.
    ///
    /// # Errors
    /// Returns an error if two metrics have the same name, which never happens.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            reconciles: IntCounter::new(
                "penstock_operator_reconciles_total",
                "Passes over a KafkaConsumer",
            )?,
            failures: IntCounter::new(
                "penstock_operator_reconcile_failures_total",
                "Passes that failed and are tried again",
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    "penstock_operator_reconcile_duration_seconds",
                    "Time of a pass over a KafkaConsumer",
                )
                .buckets(BUCKETS.to_vec()),
            )?,
            statuses: IntCounter::new(
                "penstock_operator_status_writes_total",
                "Statuses written because they had changed",
            )?,
            consumers: IntGauge::new(
                "penstock_operator_consumers",
                "KafkaConsumers that are looked after",
            )?,
            leader: IntGauge::new(
                "penstock_operator_leader",
                "1 while this operator holds the Lease and works",
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "penstock_operator_api_requests_total",
                    "Requests to the API server",
                ),
                &["verb", "resource"],
            )?,
        };
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.failures.clone()),
            Box::new(metrics.duration.clone()),
            Box::new(metrics.statuses.clone()),
            Box::new(metrics.consumers.clone()),
            Box::new(metrics.leader.clone()),
            Box::new(metrics.requests.clone()),
        ];
        for collector in collectors {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Counts a pass, which ends when the value is dropped.
    pub fn reconcile(&self) -> ReconcileTimer {
        self.reconciles.inc();
        ReconcileTimer {
            duration: self.duration.clone(),
            began: Instant::now(),
        }
    }

    /// Counts a failed pass.
    pub fn reconcile_failed(&self) {
        self.failures.inc();
    }

    /// Counts a written status.
    pub fn status_written(&self) {
        self.statuses.inc();
    }

    /// Sets the number of consumers.
    pub fn consumers(&self, count: usize) {
        self.consumers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes that this operator leads, or that it does not.
    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Returns the layer that counts a client's requests.
    pub fn count_requests(&self) -> CountRequests {
        CountRequests {
            requests: self.requests.clone(),
        }
    }

    /// Returns the page, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "the page with the metrics can't be written");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Records the time of a pass when it is dropped, however the pass ends.
pub struct ReconcileTimer {
    duration: Histogram,
    began: Instant,
}

impl Drop for ReconcileTimer {
    fn drop(&mut self) {
        self.duration.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Counts requests to the API server by verb and resource.
#[derive(Clone)]
pub struct CountRequests {
    requests: IntCounterVec,
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            requests: self.requests.clone(),
        }
    }
}

/// A client whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    requests: IntCounterVec,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (verb, resource) = describe(request.method(), request.uri());
        self.requests
            .with_label_values(&[verb, resource.as_str()])
            .inc();
        self.inner.call(request)
    }
}

/// Returns the verb as Kubernetes counts it, and the resource with its subresource.
fn describe(method: &Method, uri: &http::Uri) -> (&'static str, String) {
    let mut parts = uri.path().trim_matches('/').split('/').peekable();
    // `api/v1/…` or `apis/GROUP/VERSION/…`
    let prefix = match parts.next() {
        Some("apis") => 2,
        _ => 1,
    };
    let mut parts = parts.skip(prefix).peekable();
    if parts.peek() == Some(&"namespaces") {
        parts.next();
        parts.next();
    }
    let resource = parts.next().unwrap_or_default();
    let name = parts.next();
    let resource = match parts.next() {
        Some(subresource) => format!("{resource}/{subresource}"),
        None => resource.to_owned(),
    };
    let query = uri.query().unwrap_or_default();
    let watch = query
        .split('&')
        .any(|pair| pair == "watch=true" || pair == "watch=1");
    let verb = match (method.as_str(), name) {
        ("GET", _) if watch => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(method: Method, uri: &str) -> String {
        let (verb, resource) = describe(&method, &uri.parse().unwrap());
        format!("{verb} {resource}")
    }

    #[test]
    fn requests_are_told_apart_as_the_api_server_does() {
        let base = "/apis/penstock.dev/v1alpha1";
        assert_eq!(
            described(
                Method::PATCH,
                &format!("{base}/namespaces/shop/kafkaconsumers/orders/status?x=1")
            ),
            "patch kafkaconsumers/status"
        );
        assert_eq!(
            described(
                Method::GET,
                &format!("{base}/kafkaconsumers?watch=true&x=1")
            ),
            "watch kafkaconsumers"
        );
        assert_eq!(
            described(Method::GET, "/api/v1/namespaces/a/secrets/b"),
            "get secrets"
        );
        assert_eq!(
            described(Method::GET, "/api/v1/pods?limit=250"),
            "list pods"
        );
        assert_eq!(
            described(
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"
            ),
            "update leases"
        );
    }

    #[test]
    fn a_pass_is_timed_however_it_ends() {
        let metrics = Metrics::new().unwrap();
        drop(metrics.reconcile());
        let text = metrics.text();
        assert!(
            text.contains("penstock_operator_reconciles_total 1"),
            "{text}"
        );
        assert!(
            text.contains("penstock_operator_reconcile_duration_seconds_count 1"),
            "{text}"
        );
    }
}
