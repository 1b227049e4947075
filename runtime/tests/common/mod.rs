//! Consumers on librdkafka's mock cluster: a broker in this process, for fast tests.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::manifest;
use penstock_crds::validate::ValidatedConsumer;
use penstock_runtime::decode::Json;
use penstock_runtime::handler::{Handler, HandlerError};
use penstock_runtime::record::Message;
use penstock_runtime::telemetry::{self, LogFormat};
use penstock_runtime::{Done, Metrics, RunError, Runtime};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything in these tests.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    assert!(waited.is_ok(), "waited {LIMIT:?} until {what}");
}

/// A mock cluster with one topic.
pub struct Mock {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    pub topic: String,
}

impl Mock {
    pub fn new(topic: &str, partitions: i32) -> Self {
        if let Ok(filter) = std::env::var("RUST_LOG") {
            // Fails for all tests of a process but the first.
            std::mem::forget(telemetry::init(LogFormat::Text, &filter, "test"));
        }
        let cluster = MockCluster::new(1).expect("a mock cluster starts");
        cluster.create_topic(topic, partitions, 1).expect("a topic");
        Self {
            cluster,
            topic: topic.to_owned(),
        }
    }

    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Produces `{"n": 0}`, `{"n": 1}`, … to the partitions in turn.
    pub async fn produce(&self, count: usize, partitions: usize) {
        let values: Vec<_> = (0..count).map(|n| format!("{{\"n\": {n}}}")).collect();
        self.produce_values(&values, partitions).await;
    }

    pub async fn produce_values(&self, values: &[impl AsRef<str>], partitions: usize) {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .create()
            .expect("a producer");
        let sends = values.iter().enumerate().map(|(n, value)| {
            let key = (n % 10).to_string();
            let producer = &producer;
            async move {
                producer
                    .send(
                        FutureRecord::to(&self.topic)
                            .partition((n % partitions) as i32)
                            .key(&key)
                            .payload(value.as_ref()),
                        LIMIT,
                    )
                    .await
                    .expect("the mock takes messages");
            }
        });
        futures_util::future::join_all(sends).await;
    }

    /// Lets the next commits fail, one for each code.
    pub fn refuse_commits(&self, codes: &[RDKafkaRespErr]) {
        self.cluster
            .request_errors(RDKafkaApiKey::OffsetCommit, codes);
    }

    fn committed_list(&self, group: &str, partitions: i32) -> TopicPartitionList {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("group.id", group)
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, partitions - 1);
        consumer.committed_offsets(list, LIMIT).expect("offsets")
    }

    /// What a group has committed for partition 0, with the metadata.
    pub fn committed_point(&self, group: &str) -> Option<(i64, String)> {
        let committed = self.committed_list(group, 1);
        let element = committed.find_partition(&self.topic, 0)?;
        match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }
    }

    /// What a group has committed, by partition.
    pub fn committed(&self, group: &str, partitions: i32) -> Vec<Option<i64>> {
        let committed = self.committed_list(group, partitions);
        (0..partitions)
            .map(|partition| {
                let element = committed.find_partition(&self.topic, partition)?;
                match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                }
            })
            .collect()
    }

    /// A manifest for this cluster; `more` are further lines of the spec.
    pub fn manifest(&self, mode: &str, more: &str) -> String {
        format!(
            "apiVersion: penstock.dev/v1alpha1
kind: KafkaConsumer
metadata: {{name: test}}
spec:
  group: test.group
  topics: [{}]
  mode: {mode}
  offsetReset: Earliest
  kafka: {{bootstrapServers: '{}'}}
  handler: {{image: none, protocol: Embedded, timeout: 10s}}
{more}",
            self.topic,
            self.brokers()
        )
    }

    /// That manifest, checked.
    pub fn consumer(&self, mode: &str, more: &str) -> ValidatedConsumer {
        let text = self.manifest(mode, more);
        manifest::read_one(&text).expect("a valid manifest").1
    }
}

/// What a handler was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub attempt: u32,
    pub data: Value,
}

type Verdict = dyn Fn(&Seen) -> Result<(), HandlerError> + Send + Sync;

/// A handler that notes what it is given and answers by a closure.
#[derive(Clone)]
pub struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    delay: Duration,
    verdict: Arc<Verdict>,
}

impl Recorder {
    pub fn new() -> Self {
        Self::answering(|_| Ok(()))
    }

    pub fn answering(
        verdict: impl Fn(&Seen) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            seen: Arc::default(),
            in_flight: Arc::default(),
            most_in_flight: Arc::default(),
            delay: Duration::ZERO,
            verdict: Arc::new(verdict),
        }
    }

    pub fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Messages that are with the handler now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Most messages that were with the handler at one time.
    pub fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Waits until so many messages were handled, and returns them.
    pub async fn wait_for(&self, count: usize) -> Vec<Seen> {
        let what = format!("{count} messages are handled");
        wait_until(&what, || self.seen.lock().len() >= count).await;
        self.seen()
    }
}

impl Handler<Value> for Recorder {
    async fn handle(&self, message: Message<'_, Value>) -> Result<Done, HandlerError> {
        let seen = Seen {
            partition: message.partition(),
            offset: message.offset(),
            attempt: message.attempt(),
            data: message.data().clone(),
        };
        let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.seen.lock().push(seen.clone());
        (self.verdict)(&seen).map(Into::into)
    }
}

/// A consumer that runs.
pub struct Running {
    pub metrics: Metrics,
    pub stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub fn start(consumer: ValidatedConsumer, recorder: &Recorder) -> Self {
        let metrics = Metrics::new("client", consumer.name.as_str()).expect("metrics");
        let stop = CancellationToken::new();
        let runtime = Runtime::new(consumer)
            .metrics_address(None)
            .health_address(None)
            .metrics(metrics.clone());
        let task = tokio::spawn(runtime.run(Json::<Value>::new(), recorder.clone(), stop.clone()));
        Self {
            metrics,
            stop,
            task,
        }
    }

    pub async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until the consumer ends by itself.
    pub async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the consumer ends")
            .expect("without a panic")
    }

    /// The value of a series, by its name and labels as written on the page.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = self.metrics.render().expect("a page");
        let line = page.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}
