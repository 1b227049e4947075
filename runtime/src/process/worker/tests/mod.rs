//! What is done with messages, without Kafka.

mod batch;
mod drains;
mod hand;
mod histories;
mod keys;
mod order;
mod single;
mod unattempted;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::validate::{DeliveryPolicy, FailureAction};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::commit::committer::{CommitRequest, CommitResult};
use crate::group::partition::Partition;
use crate::handler::decode::Json;
use crate::handler::record::{Message, OwnedRecord};
use crate::handler::{BatchHandler, Handler};
use crate::observe::progress::{Busy, Progress};
use crate::process::delivery::stop_at_once;

/// What happened, in order.
type Steps = Arc<Mutex<Vec<String>>>;

/// A handler that takes notes and answers by a closure; also in batches.
struct Noting<F> {
    steps: Steps,
    metrics: Metrics,
    answer: F,
}

impl<F> Noting<F>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    fn answer(&self, message: &Message<'_, Value>) -> Result<(), HandlerError> {
        let active = series(&self.metrics, "kafka_consumer_active_messages{").unwrap_or(0.0);
        self.steps.lock().push(format!(
            "handle {}#{} active {active}",
            message.offset(),
            message.attempt()
        ));
        (self.answer)(message)
    }
}

impl<F> Handler<Value> for Noting<F>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn handle(&self, message: Message<'_, Value>) -> Result<Done, HandlerError> {
        self.answer(&message).map(Into::into)
    }
}

impl<F> BatchHandler<Value> for Noting<F>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn handle_batch(
        &self,
        messages: &[Message<'_, Value>],
    ) -> Vec<Result<Done, HandlerError>> {
        let answers = messages.iter().map(|message| self.answer(message));
        answers.map(|answer| answer.map(Into::into)).collect()
    }
}

struct Fixture<H> {
    shared: Shared<Json<Value>, H>,
    partition: Arc<Partition>,
    steps: Steps,
    seat: Seat,
}

fn fixture<F>(client_name: &str, policy: DeliveryPolicy, answer: F) -> Fixture<Noting<F>>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    let metrics = Metrics::new(client_name, "kafka_consumer.test").unwrap();
    let steps = Steps::default();
    Fixture {
        partition: partition(&metrics, 1),
        seat: Seat {
            queue: Arc::new(WorkQueue::new(1, 1, Arc::default())),
            busy: Busy::new(Progress::new(1), 0),
        },
        shared: Shared {
            span: "kafka_consumer.test.handler".into(),
            decoder: Json::new(),
            handler: Noting {
                steps: Arc::clone(&steps),
                metrics: metrics.clone(),
                answer,
            },
            policy,
            timeout: Duration::from_secs(5),
            metrics,
            dead_letters: None,
            in_order: false,
            committer: None,
            produces: false,
            defers: false,
            gathering: Gathering::default(),
        },
        steps,
    }
}

fn partition(metrics: &Metrics, number: i32) -> Arc<Partition> {
    let pump = Arc::default();
    Arc::new(Partition::new("orders", number, 1, metrics, pump, None))
}

impl<H> Fixture<H> {
    /// The same with another handler.
    fn with_handler<G>(self, handler: G) -> Fixture<G> {
        let shared = self.shared;
        Fixture {
            partition: self.partition,
            steps: self.steps,
            seat: self.seat,
            shared: Shared {
                handler,
                span: shared.span,
                decoder: shared.decoder,
                policy: shared.policy,
                timeout: shared.timeout,
                metrics: shared.metrics,
                dead_letters: shared.dead_letters,
                in_order: shared.in_order,
                committer: shared.committer,
                produces: shared.produces,
                defers: shared.defers,
                gathering: shared.gathering,
            },
        }
    }

    /// Commits in order from now on, with this result.
    fn in_order(mut self, result: CommitResult) -> Self {
        let (committer, requests) = Committer::new(Arc::new(Notify::new()));
        tokio::spawn(answer_commits(requests, result, Arc::clone(&self.steps)));
        self.shared.in_order = true;
        self.shared.committer = Some(committer);
        self
    }

    fn message(&self, offset: i64, payload: &str) -> Delivery {
        self.message_of(&self.partition, offset, payload)
    }

    fn message_of(&self, partition: &Arc<Partition>, offset: i64, payload: &str) -> Delivery {
        let record = Record::owned(
            OwnedRecord {
                offset,
                payload: Some(payload.into()),
                ..OwnedRecord::default()
            },
            Arc::clone(partition),
        );
        let mut read = VecDeque::from([Delivery::Message(Job::new(record, None))]);
        arrive(&mut read);
        read.pop_front().unwrap()
    }

    async fn process(&self, offset: i64, payload: &str) -> Result<(), Failure>
    where
        H: Handler<Value>,
    {
        self.process_alone(self.message(offset, payload)).await
    }

    /// With an empty hand.
    async fn process_alone(&self, delivery: Delivery) -> Result<(), Failure>
    where
        H: Handler<Value>,
    {
        let mut hand = self.shared.hand();
        self.shared.process(delivery, &self.seat, &mut hand).await
    }

    async fn process_batch(&self, payloads: &[&str]) -> Result<(), Failure>
    where
        H: BatchHandler<Value>,
    {
        let deliveries = (0..).zip(payloads);
        let deliveries = deliveries
            .map(|(offset, payload)| self.message(offset, payload))
            .collect();
        self.shared.process_batch(deliveries, &self.seat).await
    }

    fn steps(&self) -> Vec<String> {
        self.steps.lock().clone()
    }

    fn metric(&self, series_start: &str) -> Option<f64> {
        series(&self.shared.metrics, series_start)
    }

    /// The counter and the histogram's count, for a value of `kafka_success`.
    fn processed(&self, client: &str, topic: &str, success: bool) -> (f64, f64) {
        let labels = format!(
            "{{kafka_client_name=\"{client}\",kafka_success=\"{success}\",kafka_topic=\"{topic}\"}}"
        );
        let value = |name: &str| self.metric(&format!("{name}{labels}")).unwrap_or(0.0);
        (
            value("kafka_consumer_messages_processed_total"),
            value("kafka_consumer_message_processing_time_seconds_count"),
        )
    }
}

async fn answer_commits(
    mut requests: mpsc::UnboundedReceiver<CommitRequest>,
    result: CommitResult,
    steps: Steps,
) {
    while let Some(request) = requests.recv().await {
        steps.lock().push(format!("commit {}", request.message + 1));
        let _ = request.reply.send(result.clone());
    }
}

/// The value of the first series that starts so.
fn series(metrics: &Metrics, start: &str) -> Option<f64> {
    let page = metrics.render().unwrap();
    let line = page.lines().find(|line| line.starts_with(start))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn now_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

fn attempts(max: u32, on_failure: FailureAction) -> DeliveryPolicy {
    DeliveryPolicy {
        max_attempts: NonZeroU32::new(max).unwrap(),
        initial: Duration::from_millis(1),
        on_failure,
        ..stop_at_once()
    }
}
