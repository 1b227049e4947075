//! Twins of the source's tests of its message handler, and what it leaves to
//! the reader: the order of the steps, and that each is done exactly once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::validate::{DeliveryPolicy, FailureAction};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::commit::{CommitRequest, CommitResult};
use crate::decode::Json;
use crate::delivery::stop_at_once;
use crate::handler::{BatchHandler, Handler};
use crate::partition::Partition;
use crate::progress::{Busy, Progress};
use crate::record::{Message, OwnedRecord};

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
    async fn handle(&self, message: Message<'_, Value>) -> Result<(), HandlerError> {
        self.answer(&message)
    }
}

impl<F> BatchHandler<Value> for Noting<F>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn handle_batch(&self, messages: &[Message<'_, Value>]) -> Vec<Result<(), HandlerError>> {
        messages
            .iter()
            .map(|message| self.answer(message))
            .collect()
    }
}

struct Fixture<H> {
    shared: Shared<Json<Value>, H>,
    partition: Arc<Partition>,
    steps: Steps,
    busy: Busy,
}

fn fixture<F>(client_name: &str, policy: DeliveryPolicy, answer: F) -> Fixture<Noting<F>>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    let metrics = Metrics::new(client_name, "kafka_consumer.test").unwrap();
    let steps = Steps::default();
    Fixture {
        partition: Arc::new(Partition::new(
            "orders",
            1,
            1,
            &metrics,
            Arc::default(),
            None,
        )),
        busy: Busy::new(Progress::new(1), 0),
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
            committer: None,
        },
        steps,
    }
}

impl<H> Fixture<H> {
    /// Commits in order from now on, with this result.
    fn in_order(mut self, result: CommitResult) -> Self {
        let (committer, requests) = Committer::new(Arc::new(Notify::new()));
        tokio::spawn(answer_commits(requests, result, Arc::clone(&self.steps)));
        self.shared.committer = Some(committer);
        self
    }

    fn message(&self, offset: i64, payload: &str) -> Delivery {
        self.partition.deliver(offset);
        Delivery::Message(Record::owned(
            OwnedRecord {
                offset,
                payload: Some(payload.into()),
                ..OwnedRecord::default()
            },
            Arc::clone(&self.partition),
        ))
    }

    async fn process(&self, offset: i64, payload: &str) -> Result<(), Failure>
    where
        H: Handler<Value>,
    {
        let message = self.message(offset, payload);
        self.shared.process(message, &self.busy).await
    }

    async fn process_batch(&self, payloads: &[&str]) -> Result<(), Failure>
    where
        H: BatchHandler<Value>,
    {
        let deliveries = (0..).zip(payloads);
        let deliveries = deliveries
            .map(|(offset, payload)| self.message(offset, payload))
            .collect();
        self.shared.process_batch(deliveries, &self.busy).await
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
        steps.lock().push(format!("commit {}", request.offset));
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

const LATENCY: &str = "penstock_message_latency_seconds";
const OFFSET: &str = "penstock_handled_offset{consumer=\"kafka_consumer.test\",kafka_partition=\"1\",kafka_topic=\"orders\"}";

#[tokio::test]
async fn success_is_timed_counted_and_its_latency_and_offset_kept() {
    for client in ["", "billing"] {
        let fixture = fixture(client, stop_at_once(), |_| Ok(()));
        let payload = format!("{{\"endpoint_timestamp\": {}}}", now_ms() - 1500);
        fixture.process(33, &payload).await.unwrap();
        assert_eq!(fixture.steps(), ["handle 33#1 active 1"]);
        assert_eq!(fixture.processed(client, "orders", true), (1.0, 1.0));
        assert_eq!(fixture.processed(client, "orders", false), (0.0, 0.0));
        let latency = fixture.metric(&format!("{LATENCY}_sum")).unwrap();
        assert!((1.5..60.0).contains(&latency), "{latency}");
        assert_eq!(fixture.metric(&format!("{LATENCY}_count")), Some(1.0));
        assert_eq!(fixture.metric(OFFSET), Some(33.0));
        assert_eq!(fixture.metric("kafka_consumer_active_messages{"), Some(0.0));
        assert_eq!(fixture.partition.committable(), Some(34));
    }
}

#[tokio::test]
async fn without_an_endpoint_timestamp_there_is_no_latency() {
    let fixture = fixture("", stop_at_once(), |_| Ok(()));
    fixture
        .process(33, r#"{"endpoint_timestamp": "soon"}"#)
        .await
        .unwrap();
    fixture.process(34, "[1]").await.unwrap();
    assert_eq!(fixture.metric(&format!("{LATENCY}_count")), Some(0.0));
    assert_eq!(fixture.processed("", "orders", true), (2.0, 2.0));
    assert_eq!(fixture.metric(OFFSET), Some(34.0));
}

#[tokio::test]
async fn a_kafka_error_fails_without_a_handler_or_a_commit() {
    let fixture = fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Committed);
    let error = ConsumeError {
        code: RDKafkaErrorCode::OffsetOutOfRange,
        text: "Broker: Offset out of range".into(),
        topic: "orders".into(),
    };
    let delivery = Delivery::Error(error);
    let failure = fixture.shared.process(delivery, &fixture.busy).await;
    assert_eq!(
        failure.unwrap_err().to_string(),
        "KafkaError: Broker: Offset out of range"
    );
    assert!(fixture.steps().is_empty());
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.metric("kafka_consumer_active_messages{"), Some(0.0));
}

#[tokio::test]
async fn an_invalid_value_is_skipped_counted_and_not_committed() {
    let fixture = fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Committed);
    fixture.process(7, "{not json").await.unwrap();
    assert!(fixture.steps().is_empty());
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.metric("penstock_invalid_messages_total"), Some(1.0));
    assert_eq!(fixture.metric(OFFSET), None);
    fixture.process(8, "{}").await.unwrap();
    assert_eq!(fixture.steps(), ["handle 8#1 active 1", "commit 9"]);
}

#[tokio::test]
async fn a_handler_error_fails_and_nothing_is_committed() {
    let fixture = fixture("", stop_at_once(), |_| Err(HandlerError::retryable("down")))
        .in_order(CommitResult::Committed);
    let failure = fixture.process(7, "{}").await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "topic orders partition 1 offset 7: the handler failed at attempt 1: down"
    );
    assert_eq!(fixture.steps(), ["handle 7#1 active 1"]);
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.metric(OFFSET), None);
    assert_eq!(fixture.partition.committable(), Some(7));
}

#[tokio::test]
async fn in_order_commits_after_the_handler_and_before_the_metrics() {
    let fixture = fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Committed);
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.steps(), ["handle 7#1 active 1", "commit 8"]);
    assert_eq!(fixture.metric(OFFSET), Some(7.0));
}

#[tokio::test]
async fn a_failed_commit_fails_the_message() {
    let fixture =
        fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Failed("no".into()));
    let failure = fixture.process(7, "{}").await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "topic orders partition 1 offset 7: the commit failed: no"
    );
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.metric(OFFSET), None);
}

#[tokio::test]
async fn a_commit_after_a_revocation_is_no_failure_of_the_consumer() {
    let fixture = fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Revoked);
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.partition.committable(), Some(7));
    assert_eq!(
        fixture.metric("penstock_abandoned_messages_total"),
        Some(1.0)
    );
}

fn attempts(max: u32, on_failure: FailureAction) -> DeliveryPolicy {
    DeliveryPolicy {
        max_attempts: NonZeroU32::new(max).unwrap(),
        initial: Duration::from_millis(1),
        on_failure,
        ..stop_at_once()
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_tried_again() {
    let failures = AtomicU32::new(2);
    let fixture = fixture(
        "",
        attempts(5, FailureAction::Stop),
        move |_| match failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        {
            Ok(_) => Err(HandlerError::retryable("not yet")),
            Err(_) => Ok(()),
        },
    );
    fixture.process(7, "{}").await.unwrap();
    let steps = fixture.steps();
    assert_eq!(steps.len(), 3);
    assert!(steps[2].starts_with("handle 7#3"), "{steps:?}");
    assert_eq!(fixture.processed("", "orders", true), (1.0, 1.0));
    assert_eq!(fixture.metric("penstock_retries_total"), Some(2.0));
}

#[tokio::test]
async fn skip_leaves_the_message_behind_after_the_last_attempt() {
    let fixture = fixture("", attempts(3, FailureAction::Skip), |_| {
        Err(HandlerError::retryable("never"))
    })
    .in_order(CommitResult::Committed);
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.steps().len(), 4);
    assert_eq!(fixture.steps()[3], "commit 8");
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.partition.committable(), Some(8));
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_message() {
    let fixture = fixture("", attempts(1, FailureAction::Skip), |_| panic!("index"));
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.metric("kafka_consumer_active_messages{"), Some(0.0));
}

#[tokio::test]
async fn a_drain_ends_the_wait_between_attempts() {
    let mut policy = attempts(3, FailureAction::Stop);
    policy.initial = Duration::from_secs(3600);
    policy.max = policy.initial;
    let fixture = fixture("", policy, |_| Err(HandlerError::retryable("down")));
    fixture.partition.drain(true);
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.partition.committable(), Some(7));
    assert_eq!(fixture.partition.in_flight(), 0);
}

#[tokio::test]
async fn a_verdict_after_the_revocation_changes_nothing() {
    let fixture = fixture("", stop_at_once(), |_| Ok(())).in_order(CommitResult::Committed);
    fixture.partition.revoke();
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.steps(), ["handle 7#1 active 1"]);
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.partition.committable(), Some(7));
}

/// Never ends by itself.
struct Hanging;

impl Handler<Value> for Hanging {
    async fn handle(&self, _: Message<'_, Value>) -> Result<(), HandlerError> {
        std::future::pending().await
    }
}

/// A fixture whose attempts never end by themselves.
fn hanging(timeout: Duration) -> Fixture<Hanging> {
    let Fixture {
        shared,
        partition,
        steps,
        busy,
    } = fixture("", stop_at_once(), |_| Ok(()));
    Fixture {
        shared: Shared {
            handler: Hanging,
            timeout,
            span: shared.span,
            decoder: shared.decoder,
            policy: shared.policy,
            metrics: shared.metrics,
            dead_letters: shared.dead_letters,
            committer: shared.committer,
        },
        partition,
        steps,
        busy,
    }
}

#[tokio::test]
async fn an_attempt_ends_with_its_time() {
    let fixture = hanging(Duration::from_millis(10));
    let failure = fixture.process(7, "{}").await.unwrap_err();
    assert!(
        failure
            .to_string()
            .ends_with("the handler took longer than 10ms"),
        "{failure}"
    );
}

#[tokio::test]
async fn an_attempt_ends_with_its_assignment() {
    let fixture = hanging(Duration::from_secs(3600));
    let revoking = Arc::clone(&fixture.partition);
    tokio::spawn(async move { revoking.revoke() });
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.partition.committable(), Some(7));
}

#[tokio::test]
async fn a_batch_gives_each_message_its_own_verdict() {
    let fixture = fixture(
        "",
        attempts(2, FailureAction::Skip),
        |message| match message.offset() {
            1 => Err(HandlerError::permanent("poison")),
            2 if message.attempt() == 1 => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        },
    );
    fixture
        .process_batch(&["{}", "{}", "{}", "no json"])
        .await
        .unwrap();
    assert_eq!(fixture.processed("", "orders", true), (2.0, 2.0));
    assert_eq!(fixture.processed("", "orders", false), (2.0, 2.0));
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.metric("penstock_invalid_messages_total"), Some(1.0));
    assert_eq!(fixture.partition.committable(), Some(4));
    let steps = fixture.steps();
    assert!(steps.last().unwrap().starts_with("handle 2#2"), "{steps:?}");
}

#[tokio::test]
async fn a_batch_in_order_is_committed_up_to_the_message_that_failed() {
    let fixture = fixture("", stop_at_once(), |message| match message.offset() {
        2 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    })
    .in_order(CommitResult::Committed);
    let failure = fixture.process_batch(&["{}"; 5]).await.unwrap_err();
    assert!(failure.to_string().contains("offset 2"), "{failure}");
    let steps = fixture.steps();
    assert_eq!(
        steps.last().unwrap(),
        "commit 2",
        "one commit for the prefix"
    );
    assert_eq!(fixture.partition.committable(), Some(2));
}

#[tokio::test]
async fn a_batch_in_order_gives_what_follows_a_failed_message_again() {
    let fixture = fixture("", attempts(2, FailureAction::Stop), |message| {
        match (message.offset(), message.attempt()) {
            (1, 1) => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        }
    })
    .in_order(CommitResult::Committed);
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    let handled: Vec<_> = fixture
        .steps()
        .iter()
        .map(|step| step.split(" active").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        handled,
        [
            "handle 0#1",
            "handle 1#1",
            "handle 2#1",
            "handle 1#2",
            "handle 2#1",
            "commit 3"
        ]
    );
}
