//! Twins of the source's tests of its message handler, and what it leaves to
//! the reader: the order of the steps, and that each is done exactly once.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::offsets::gaps::Gaps;
use crate::program::end_code::EndCode;

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
        end: EndCode::KafkaError,
        text: "Broker: Offset out of range".into(),
        topic: "orders".into(),
        partition: None,
    };
    let delivery = Delivery::Error(error);
    let failure = fixture.process_alone(delivery).await;
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
        "topic orders partition 1 offset 7: the commit failed: no; check the group's coordinator \
         and the length of its rebalances. The message was handled and comes again"
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
async fn a_handler_may_skip_a_message_whatever_follows_a_failure() {
    for on_failure in [FailureAction::Stop, FailureAction::Skip] {
        let fixture = fixture("", attempts(3, on_failure), |_| {
            Err(HandlerError::skip("not for us"))
        });
        fixture.process(7, "{}").await.unwrap();
        assert_eq!(fixture.steps().len(), 1, "one attempt");
        assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
        assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
        assert_eq!(fixture.partition.committable(), Some(8));
    }
}

#[tokio::test]
async fn a_dead_letter_without_a_topic_for_it_is_a_permanent_failure() {
    let answer = |_: &Message<'_, Value>| Err(HandlerError::dead_letter("poison"));
    let stops = fixture("", attempts(3, FailureAction::Stop), answer);
    let failure = stops.process(7, "{}").await.unwrap_err().to_string();
    assert!(failure.contains("failed at attempt 1: poison"), "{failure}");
    let skips = fixture("", attempts(3, FailureAction::Skip), answer);
    skips.process(7, "{}").await.unwrap();
    assert_eq!(skips.metric("penstock_skipped_messages_total"), Some(1.0));
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_message() {
    let fixture = fixture("", attempts(1, FailureAction::Skip), |_| panic!("index"));
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.metric("kafka_consumer_active_messages{"), Some(0.0));
}

#[tokio::test]
async fn attempts_of_an_earlier_owner_count() {
    let mut fixture = fixture("", attempts(5, FailureAction::Skip), |_| {
        Err(HandlerError::retryable("never"))
    });
    let known = Gaps::new(7, 9, [7..8, 8..9], [(7, 3)]);
    let partition = Partition::new(
        "orders",
        1,
        2,
        &fixture.shared.metrics,
        Arc::default(),
        None,
    );
    fixture.partition = Arc::new(partition.resume(known));
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(
        fixture.steps(),
        ["handle 7#4 active 1", "handle 7#5 active 1"]
    );
}

#[tokio::test]
async fn attempts_are_kept_for_the_next_owner_unless_they_end_the_process() {
    let mut policy = attempts(2, FailureAction::Stop);
    policy.initial = Duration::from_millis(10);
    let fixture = fixture("", policy, |message| match message.offset() {
        7 => Err(HandlerError::retryable("down")),
        _ => Err(HandlerError::permanent("no")),
    });
    let known = || {
        let point = fixture.partition.commit_point().unwrap();
        Gaps::decode(point.metadata.as_bytes(), point.offset).unwrap()
    };
    let first = fixture.message(7, "{}");
    let mut hand = fixture.shared.hand();
    let (failed, ()) = tokio::join!(
        fixture.shared.process(first, &fixture.seat, &mut hand),
        async {
            while fixture.steps().is_empty() || known().is_none() {
                tokio::task::yield_now().await;
            }
            assert_eq!(known().unwrap().attempts(), [(7, 1)]);
        }
    );
    assert!(failed.is_err());
    assert_eq!(fixture.steps().len(), 2);
    assert_eq!(known(), None);
}

#[tokio::test]
async fn a_drain_ends_the_wait_between_attempts() {
    let mut policy = attempts(3, FailureAction::Stop);
    policy.initial = Duration::from_secs(3600);
    policy.max = policy.initial;
    let fixture = fixture("", policy, |message| {
        message.assignment().drain(true);
        Err(HandlerError::retryable("down"))
    });
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.steps().len(), 1);
    assert_eq!(fixture.partition.committable(), Some(7));
    assert_eq!(fixture.partition.in_flight(), 0);
}

#[tokio::test]
async fn a_verdict_after_the_revocation_changes_nothing() {
    let fixture = fixture("", stop_at_once(), |message| {
        message.assignment().revoke();
        Ok(())
    })
    .in_order(CommitResult::Committed);
    fixture.process(7, "{}").await.unwrap();
    assert_eq!(fixture.steps(), ["handle 7#1 active 1"]);
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
    assert_eq!(fixture.partition.committable(), Some(7));
}

/// Never ends by itself.
struct Hanging;

impl Handler<Value> for Hanging {
    async fn handle(&self, _: Message<'_, Value>) -> Result<Done, HandlerError> {
        std::future::pending().await
    }
}

/// A fixture whose attempts never end by themselves.
fn hanging(timeout: Duration) -> Fixture<Hanging> {
    let mut fixture = fixture("", stop_at_once(), |_| Ok(())).with_handler(Hanging);
    fixture.shared.timeout = timeout;
    fixture
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
