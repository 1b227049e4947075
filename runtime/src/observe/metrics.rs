//! The Prometheus series. Names, labels and help texts of the first three come from baseplate
//! and are an interface. The others replace baseplate's statsd series, or are new.

mod gauges;
mod register;
mod series;
#[cfg(test)]
mod tests;

pub use register::Description;
pub(crate) use series::{Outcome, PartitionMetrics, TopicMetrics};

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    Encoder as _, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use rdkafka::error::RDKafkaErrorCode;

use crate::commit::commits::TransactionEnd;
use crate::handler::{Availability, Lack};
use gauges::{LazyGauge, RemovableGauge};
use register::Register;

/// The upper bounds of the processing-time buckets in seconds, as in baseplate.
pub const PROCESSING_BUCKETS: [f64; 15] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 30.0,
];

/// The upper bounds of the end-to-end latency buckets in seconds: from a message that is
/// handled immediately to one that was in the topic for an hour.
pub const LATENCY_BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 3600.0,
];

const TOPIC_LABELS: [&str; 2] = ["kafka_client_name", "kafka_topic"];
const OUTCOME_LABELS: [&str; 3] = ["kafka_client_name", "kafka_topic", "kafka_success"];
const CONSUMER_LABELS: [&str; 2] = ["consumer", "kafka_topic"];
const TRANSACTION_LABELS: [&str; 2] = ["consumer", "outcome"];
const ERROR_LABELS: [&str; 2] = ["consumer", "error"];
const LOSS_LABELS: [&str; 3] = ["consumer", "kafka_topic", "reason"];
const HANDLER_LABELS: [&str; 2] = ["consumer", "reason"];
const PARTITION_LABELS: [&str; 3] = ["consumer", "kafka_topic", "kafka_partition"];

/// All series of one consumer.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    descriptions: Arc<[Description]>,
    client_name: Arc<str>,
    consumer: Arc<str>,
    processing_time: HistogramVec,
    processed: IntCounterVec,
    active: IntGaugeVec,
    latency: HistogramVec,
    offset: IntGaugeVec,
    invalid: IntCounterVec,
    retried: IntCounterVec,
    skipped: IntCounterVec,
    dead_lettered: IntCounterVec,
    abandoned: IntCounterVec,
    already_handled: IntCounterVec,
    committed: IntGaugeVec,
    lag: IntGaugeVec,
    time_lag: GaugeVec,
    last_fetch: GaugeVec,
    blocked: GaugeVec,
    lost: IntCounterVec,
    offsets_lost: IntCounterVec,
    /// Partitions that are assigned to this process.
    pub(crate) assigned: IntGauge,
    /// Assignments and revocations.
    pub(crate) rebalances: IntCounter,
    /// Commits that the brokers refused or did not answer.
    pub(crate) commit_failures: IntCounter,
    /// Partitions that are paused because too many of their messages wait for keys.
    pub(crate) paused: IntGauge,
    fetch_errors: IntCounterVec,
    produced: IntCounter,
    transactions: IntCounterVec,
    queued: IntGauge,
    queued_bytes: IntGauge,
    queue: Arc<Mutex<Option<Box<QueueLoad>>>>,
    handler_available: IntGaugeVec,
    handler: Arc<Mutex<Option<Arc<Availability>>>>,
}

/// Returns the number of messages that wait for a handler, and their bytes.
type QueueLoad = dyn Fn() -> (usize, usize) + Send + Sync;

impl Metrics {
    /// Registers the series of a consumer. `client_name` is the label `kafka_client_name`,
    /// which may be blank; `consumer` is the label `consumer`.
    pub fn new(client_name: &str, consumer: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let register = Register {
            registry: &registry,
            descriptions: RefCell::default(),
        };
        let one = |name: &str, help: &str| Opts::new(name, help).const_label("consumer", consumer);
        Ok(Self {
            processing_time: register.histograms(
                "kafka_consumer_message_processing_time_seconds",
                "latency histogram of how long it takes to process a message",
                &OUTCOME_LABELS,
                &PROCESSING_BUCKETS,
            )?,
            processed: register.counters(
                "kafka_consumer_messages_processed_total",
                "total count of messages processed by this host",
                &OUTCOME_LABELS,
            )?,
            active: register.gauges(
                "kafka_consumer_active_messages",
                "gauge that reflects the number of messages currently being processed",
                &TOPIC_LABELS,
            )?,
            latency: register.histograms(
                "penstock_message_latency_seconds",
                "time from a message's endpoint_timestamp to the start of its handling",
                &CONSUMER_LABELS,
                &LATENCY_BUCKETS,
            )?,
            offset: register.gauges(
                "penstock_handled_offset",
                "offset of the last handled message",
                &PARTITION_LABELS,
            )?,
            invalid: register.counters(
                "penstock_invalid_messages_total",
                "messages skipped because their value could not be decoded",
                &CONSUMER_LABELS,
            )?,
            retried: register.counters(
                "penstock_retries_total",
                "attempts after the first attempt at a message",
                &CONSUMER_LABELS,
            )?,
            skipped: register.counters(
                "penstock_skipped_messages_total",
                "messages skipped by onFailure: Skip or by a handler's verdict",
                &CONSUMER_LABELS,
            )?,
            dead_lettered: register.counters(
                "penstock_dead_lettered_messages_total",
                "messages written to the dead-letter topic",
                &CONSUMER_LABELS,
            )?,
            abandoned: register.counters(
                "penstock_abandoned_messages_total",
                "messages released unhandled by a revocation or a stop, to be delivered again",
                &CONSUMER_LABELS,
            )?,
            already_handled: register.counters(
                "penstock_already_handled_total",
                "messages read again but not passed to a handler, because they were handled before a restart or a rebalance",
                &CONSUMER_LABELS,
            )?,
            committed: register.gauges(
                "penstock_committed_offset",
                "last committed offset",
                &PARTITION_LABELS,
            )?,
            lag: register.gauges(
                "penstock_lag",
                "messages between the committed offset and the end of the partition; absent while unknown",
                &PARTITION_LABELS,
            )?,
            time_lag: register.seconds(
                "penstock_time_lag_seconds",
                "age of the oldest message that was read and is not settled, 0 if all are settled; absent while unknown",
            )?,
            last_fetch: register.seconds(
                "penstock_last_fetch_timestamp_seconds",
                "time at which the partition's end was last fetched or looked up",
            )?,
            blocked: register.seconds(
                "penstock_open_transaction_seconds",
                "time for which a producer's open transaction has blocked the partition; absent while none does",
            )?,
            lost: register.counters(
                "penstock_lost_messages_total",
                "offsets that the brokers no longer have and that were skipped or in flight, by reason: retention, truncation (the log became shorter) or recreation (the topic was created again)",
                &LOSS_LABELS,
            )?,
            offsets_lost: register.counters(
                "penstock_lost_positions_total",
                "cases in which the brokers no longer had a partition's position, by reason as in penstock_lost_messages_total",
                &LOSS_LABELS,
            )?,
            assigned: register.add(
                "gauge",
                IntGauge::with_opts(one(
                    "penstock_assigned_partitions",
                    "partitions assigned to this process",
                ))?,
            )?,
            rebalances: register.add(
                "counter",
                IntCounter::with_opts(one(
                    "penstock_rebalances_total",
                    "assignments and revocations of partitions",
                ))?,
            )?,
            commit_failures: register.add(
                "counter",
                IntCounter::with_opts(one(
                    "penstock_commit_failures_total",
                    "failed commits",
                ))?,
            )?,
            paused: register.add(
                "gauge",
                IntGauge::with_opts(one(
                    "penstock_paused_partitions",
                    "partitions that are paused because too many of their messages wait for their key",
                ))?,
            )?,
            fetch_errors: register.counters(
                "penstock_fetch_errors_total",
                "failed fetches of a partition that are retried from the same offset, by Kafka's error",
                &ERROR_LABELS,
            )?,
            produced: register.add(
                "counter",
                IntCounter::with_opts(one(
                    "penstock_produced_messages_total",
                    "records that handlers returned and that transactions committed",
                ))?,
            )?,
            transactions: register.counters(
                "penstock_transactions_total",
                "transactions by outcome: committed, aborted (another follows) or failed (the consumer ends)",
                &TRANSACTION_LABELS,
            )?,
            queued: register.add(
                "gauge",
                IntGauge::with_opts(one(
                    "penstock_queued_messages",
                    "messages waiting for a handler",
                ))?,
            )?,
            queued_bytes: register.add(
                "gauge",
                IntGauge::with_opts(one(
                    "penstock_queued_bytes",
                    "bytes of the messages waiting for a handler",
                ))?,
            )?,
            queue: Arc::default(),
            handler_available: register.gauges(
                "penstock_handler_available",
                "1 while the handler takes messages, 0 while the runtime waits for it; the reason is then connection, handshake, credits, reading, beginning or stability; with Http and BatchHttp only connection",
                &HANDLER_LABELS,
            )?,
            handler: Arc::default(),
            descriptions: register.descriptions.take().into(),
            client_name: client_name.into(),
            consumer: consumer.into(),
            registry,
        })
    }

    pub(crate) fn count_transaction(&self, end: &TransactionEnd) {
        let outcome = match end {
            TransactionEnd::Committed(records) => {
                self.produced.inc_by(*records as u64);
                "committed"
            }
            TransactionEnd::Aborted => "aborted",
            TransactionEnd::Failed(_) => "failed",
        };
        self.transactions
            .with_label_values(&[&*self.consumer, outcome])
            .inc();
    }

    /// Counts a fetch that failed and is retried.
    pub(crate) fn count_fetch_error(&self, code: RDKafkaErrorCode) {
        self.fetch_errors
            .with_label_values(&[&*self.consumer, &format!("{code:?}")])
            .inc();
    }

    /// Counts messages that are lost because the brokers no longer have a position.
    pub(crate) fn count_lost(&self, topic: &str, reason: &str, messages: u64) {
        let labels = [&*self.consumer, topic, reason];
        self.lost.with_label_values(&labels).inc_by(messages);
        self.offsets_lost.with_label_values(&labels).inc();
    }

    /// Returns the registry, to which a program may add other series.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns the descriptions of the series, in the order of the reference.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// Returns the page, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        if let Some(load) = &*self.queue.lock() {
            let (messages, bytes) = load();
            self.queued.set(saturated(messages));
            self.queued_bytes.set(saturated(bytes));
        }
        if let Some(handler) = &*self.handler.lock() {
            let lack = handler.lack();
            let reason = lack.map_or("", Lack::label);
            // The previous reason no longer applies.
            self.handler_available.reset();
            self.handler_available
                .with_label_values(&[&*self.consumer, reason])
                .set(lack.is_none().into());
        }
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        String::from_utf8(page).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    /// Reads the queue's load for each scrape: it changes with every message.
    pub(crate) fn watch_queue(&self, load: impl Fn() -> (usize, usize) + Send + Sync + 'static) {
        *self.queue.lock() = Some(Box::new(load));
    }

    /// Shows the availability of the handler in each scrape.
    pub(crate) fn watch_handler(&self, handler: Arc<Availability>) {
        *self.handler.lock() = Some(handler);
    }

    /// Returns the series of one topic, to be looked up once.
    pub(crate) fn topic(&self, topic: &str) -> TopicMetrics {
        let outcome = |success| {
            let labels = [&*self.client_name, topic, success];
            Outcome {
                time: self.processing_time.with_label_values(&labels),
                count: self.processed.with_label_values(&labels),
            }
        };
        let consumer = [&*self.consumer, topic];
        TopicMetrics {
            success: outcome("true"),
            failure: outcome("false"),
            active: self.active.with_label_values(&[&*self.client_name, topic]),
            latency: self.latency.with_label_values(&consumer),
            invalid: self.invalid.with_label_values(&consumer),
            retried: self.retried.with_label_values(&consumer),
            skipped: self.skipped.with_label_values(&consumer),
            dead_lettered: self.dead_lettered.with_label_values(&consumer),
            abandoned: self.abandoned.with_label_values(&consumer),
            already_handled: self.already_handled.with_label_values(&consumer),
        }
    }

    /// Returns the series of one partition, to be looked up once.
    pub(crate) fn partition(&self, topic: &str, partition: i32) -> PartitionMetrics {
        let labels = [&*self.consumer, topic, &partition.to_string()].map(str::to_owned);
        let gauge = |series: &IntGaugeVec| LazyGauge::new(series, &labels);
        PartitionMetrics {
            offset: gauge(&self.offset),
            committed: gauge(&self.committed),
            lag: RemovableGauge::new(&self.lag, &labels),
            time_lag: RemovableGauge::new(&self.time_lag, &labels),
            last_fetch: RemovableGauge::new(&self.last_fetch, &labels),
            blocked: RemovableGauge::new(&self.blocked, &labels),
        }
    }

    /// Removes a partition that is no longer assigned, so that its last values do not look
    /// current.
    pub(crate) fn forget_partition(&self, topic: &str, partition: i32) {
        let number = partition.to_string();
        let labels = [&*self.consumer, topic, &number];
        for series in [&self.offset, &self.committed, &self.lag] {
            // Fails only if the series is already removed.
            let _ = series.remove_label_values(&labels);
        }
        for series in [&self.time_lag, &self.last_fetch, &self.blocked] {
            let _ = series.remove_label_values(&labels);
        }
    }
}

fn saturated(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
