//! Start, stop and failure of a consumer: twins of the source's server tests.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{LIMIT, Mock, Recorder, Running, wait_until};
use parking_lot::Mutex;
use penstock_crds::spec::OffsetReset;
use penstock_runtime::decode::Json;
use penstock_runtime::gaps::Gaps;
use penstock_runtime::handler::{Handler, HandlerError};
use penstock_runtime::record::Message;
use penstock_runtime::{ConnectError, Done, RunError, Runtime};
use rdkafka::types::RDKafkaRespErr;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const ACTIVE: &str = "kafka_consumer_active_messages{";
const QUEUED: &str = "penstock_queued_messages{";

/// A free address on the loopback interface.
async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_stop_before_the_start_consumes_nothing() {
    let mock = Mock::new("orders", 1);
    mock.produce(5, 1).await;
    let recorder = Recorder::new();
    let stop = CancellationToken::new();
    stop.cancel();
    let runtime = Runtime::new(mock.consumer("InOrder", ""))
        .metrics_address(None)
        .health_address(None);
    let run = runtime.run(Json::<Value>::new(), recorder.clone(), stop);
    tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    assert!(recorder.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_has_seven_places_for_five_handlers() {
    let mock = Mock::new("orders", 1);
    mock.produce(100, 1).await;
    let recorder = Recorder::new().slow(Duration::from_secs(3600));
    let more = "  maxConcurrency: 5\n  commit: Handled\n  stopTimeout: 1s";
    let running = Running::start(mock.consumer("Fast", more), &recorder);
    wait_until("five are active and seven queued", || {
        running.metric(ACTIVE) == Some(5.0) && running.metric(QUEUED) == Some(7.0)
    })
    .await;
    let ended = running.stop().await;
    assert!(
        matches!(ended, Err(RunError::StopTimeout { unfinished: 5, .. })),
        "{ended:?}"
    );
    // Nothing is settled, and the group begins at the same place again.
    assert_eq!(mock.committed("test.group", 1), [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_commits_what_is_in_flight_and_leaves_what_is_queued() {
    for (mode, more, in_flight) in [
        ("InOrder", "", 1),
        ("Fast", "  maxConcurrency: 2\n  commit: Handled", 2),
    ] {
        let mock = Mock::new("orders", 1);
        mock.produce(50, 1).await;
        let recorder = Recorder::new().slow(Duration::from_millis(500));
        let running = Running::start(mock.consumer(mode, more), &recorder);
        wait_until("handlers are busy", || {
            running.metric(ACTIVE) == Some(f64::from(in_flight))
        })
        .await;
        running.stop().await.expect("a clean stop");
        let handled = i64::try_from(recorder.seen().len()).unwrap();
        assert!(handled >= i64::from(in_flight) && handled < 10, "{handled}");
        assert_eq!(mock.committed("test.group", 1), [Some(handled)], "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commit_at_a_stop_is_sent_again_when_it_meets_a_rebalance() {
    let mock = Mock::new("orders", 1);
    mock.produce(20, 1).await;
    let recorder = Recorder::new();
    let more = "  maxConcurrency: 2\n  commit: Handled";
    let running = Running::start(mock.consumer("Fast", more), &recorder);
    recorder.wait_for(20).await;
    mock.refuse_commits(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 3]);
    running.stop().await.expect("a clean stop");
    assert_eq!(mock.committed("test.group", 1), [Some(20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_order_that_is_refused_for_long_ends_it() {
    let mock = Mock::new("orders", 1);
    mock.produce(3, 1).await;
    mock.refuse_commits(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 1000]);
    let recorder = Recorder::new();
    let limit = Duration::from_secs(1);
    let runtime = Runtime::new(mock.consumer("InOrder", ""))
        .metrics_address(None)
        .health_address(None)
        .commit_retry_limit(limit);
    let run = runtime.run(
        Json::<Value>::new(),
        recorder.clone(),
        CancellationToken::new(),
    );
    let run = tokio::spawn(run);
    recorder.wait_for(1).await;
    let handled = Instant::now();
    let ended = tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    // The handler's clock and the pump's begin a moment apart.
    assert!(handled.elapsed() > limit.mul_f64(0.9));
    assert_eq!(
        ended.expect_err("the failure ends it").to_string(),
        "topic orders partition 0 offset 0: the commit failed: the coordinator refused it \
         for 1s, at last with RebalanceInProgress (Broker: Group rebalance in progress); check the \
         group's coordinator and the length of its rebalances. The message was handled and comes \
         again"
    );
    assert_eq!(recorder.seen().len(), 1);
    assert_eq!(mock.committed("test.group", 1), [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_still_handles_what_was_read_where_reading_commits_it() {
    let mock = Mock::new("orders", 1);
    mock.produce(50, 1).await;
    let recorder = Recorder::new().slow(Duration::from_millis(300));
    let running = Running::start(mock.consumer("Fast", "  maxConcurrency: 4"), &recorder);
    wait_until("handlers are busy", || running.metric(ACTIVE) == Some(4.0)).await;
    running.stop().await.expect("a clean stop");
    let handled = i64::try_from(recorder.seen().len()).unwrap();
    assert!(handled < 50, "{handled}");
    assert_eq!(mock.committed("test.group", 1), [Some(handled)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_group_that_begins_at_the_end_gets_its_first_message_again_after_a_failure() {
    for (mode, more) in [("InOrder", ""), ("Fast", "  commit: Handled")] {
        let mock = Mock::new("orders", 1);
        let mut consumer = mock.consumer(mode, more);
        consumer.offset_reset = OffsetReset::Latest;
        let failing = Recorder::answering(|_| Err(HandlerError::permanent("poison")));
        let running = Running::start(consumer.clone(), &failing);
        wait_until("partitions are assigned", || {
            running.metric("penstock_assigned_partitions{") == Some(1.0)
        })
        .await;
        // What is produced before the client has looked up the end is not new to it.
        while failing.seen().is_empty() {
            mock.produce(1, 1).await;
        }
        let first = failing.seen()[0].offset;
        running.ended().await.expect_err("the failure ends it");
        let recorder = Recorder::new();
        let running = Running::start(consumer, &recorder);
        assert_eq!(recorder.wait_for(1).await[0].offset, first, "{mode}");
        running.stop().await.expect("a clean stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_page_is_up_through_the_drain() {
    let mock = Mock::new("orders", 1);
    mock.produce(1, 1).await;
    let recorder = Recorder::new().slow(Duration::from_secs(2));
    let (health, metrics) = (free_address().await, free_address().await);
    let stop = CancellationToken::new();
    let runtime = Runtime::new(mock.consumer("InOrder", ""))
        .metrics_address(Some(metrics))
        .health_address(Some(health))
        .health_check(Arc::new(|| Ok(true)));
    let run = tokio::spawn(runtime.run(Json::<Value>::new(), recorder.clone(), stop.clone()));
    wait_until("the handler is busy", || recorder.in_flight() == 1).await;
    stop.cancel();
    let answer = get(health, "/health").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"status\":\"healthy\""), "{answer}");
    assert!(get(health, "/livez").await.contains("200 OK"));
    assert!(get(health, "/readyz").await.contains("200 OK"));
    let page = get(metrics, "/metrics").await;
    assert!(
        page.contains(
            "kafka_consumer_active_messages{kafka_client_name=\"\",kafka_topic=\"orders\"} 1"
        ),
        "{page}"
    );
    assert_eq!(recorder.in_flight(), 1, "the drain was over too soon");
    run.await.unwrap().expect("a clean stop");
    assert!(TcpStream::connect(health).await.is_err());
}

#[tokio::test]
async fn an_unknown_topic_ends_it_before_it_subscribes() {
    let mock = Mock::new("orders", 1);
    let mut consumer = mock.consumer("InOrder", "");
    consumer.topics = vec![penstock_crds::names::TopicName::parse("ordres").unwrap()];
    let ended = Running::start(consumer, &Recorder::new()).ended().await;
    let Err(RunError::Connect(error)) = ended else {
        panic!("{ended:?}");
    };
    assert!(matches!(error, ConnectError::UnknownTopic(_)));
    assert_eq!(
        error.to_string(),
        "topic 'ordres' does not exist. maybe it's misspelled or on a different kafka cluster?"
    );
}

#[tokio::test]
async fn a_missing_dead_letter_topic_is_found_at_the_start() {
    let mock = Mock::new("orders", 1);
    let more = "  delivery: {onFailure: DeadLetter, deadLetterTopic: orders-dead}";
    let ended = Running::start(mock.consumer("InOrder", more), &Recorder::new())
        .ended()
        .await;
    let error = ended.expect_err("the topic is missing").to_string();
    assert!(
        error.starts_with("topic 'orders-dead' does not exist."),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_do_not_answer_end_it_within_the_time_for_metadata() {
    let mock = Mock::new("orders", 1);
    let mut consumer = mock.consumer("InOrder", "");
    let nobody = free_address().await.to_string();
    consumer.kafka.bootstrap_servers.clone_from(&nobody);
    let ended = Running::start(consumer, &Recorder::new()).ended().await;
    let error = ended.expect_err("nobody answers").to_string();
    let (line, cause) = error.split_once('\n').expect("two lines");
    assert_eq!(
        line,
        format!("failed getting metadata from {nobody}, exiting.")
    );
    assert!(
        cause.starts_with(&format!("{nobody}/bootstrap: ")),
        "{cause}"
    );
    assert!(cause.contains("Connection refused"), "{cause}");
    assert!(
        cause.contains("See whether a broker listens there"),
        "{cause}"
    );
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_before_anything_is_consumed() {
    let mock = Mock::new("orders", 1);
    mock.produce(5, 1).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let recorder = Recorder::new();
    let runtime = Runtime::new(mock.consumer("InOrder", ""))
        .metrics_address(Some(address))
        .health_address(None);
    let stop = CancellationToken::new();
    let ended = runtime
        .run(Json::<Value>::new(), recorder.clone(), stop)
        .await;
    let error = ended.expect_err("the address is taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(error.contains("--metrics-address"), "{error}");
    assert!(recorder.seen().is_empty());
}

/// Fails at message 0 once three others are in flight, which end only behind that.
#[derive(Clone, Default)]
struct FailsFirst {
    begun: Arc<AtomicUsize>,
    failed: CancellationToken,
    handled: Arc<Mutex<BTreeSet<i64>>>,
}

impl Handler<Value> for FailsFirst {
    async fn handle(&self, message: Message<'_, Value>) -> Result<Done, HandlerError> {
        if message.offset() == 0 {
            wait_until("three others are in flight", || {
                self.begun.load(Ordering::SeqCst) == 3
            })
            .await;
            self.failed.cancel();
            return Err(HandlerError::permanent("poison"));
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.failed.cancelled().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.handled.lock().insert(message.offset());
        Ok(Done::default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_handler_ends_the_others_after_their_message() {
    let mock = Mock::new("orders", 1);
    mock.produce(100, 1).await;
    let more = "  maxConcurrency: 4\n  commit: Handled";
    let handler = FailsFirst::default();
    let runtime = Runtime::new(mock.consumer("Fast", more))
        .metrics_address(None)
        .health_address(None);
    let run = runtime.run(
        Json::<Value>::new(),
        handler.clone(),
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(LIMIT, run).await.unwrap();
    assert!(matches!(ended, Err(RunError::Failure(_))), "{ended:?}");
    let handled = handler.handled.lock().clone();
    assert!(handled.is_superset(&BTreeSet::from([1, 2, 3])));
    assert!(handled.len() < 20, "{handled:?}");
    // The group begins at the failed message again, without the messages handled behind it.
    let (offset, metadata) = mock.committed_point("test.group").expect("a commit");
    let gaps = Gaps::decode(metadata.as_bytes(), offset).unwrap().unwrap();
    let known = (offset..gaps.horizon()).filter(|at| gaps.is_complete(*at));
    assert_eq!((offset, known.collect()), (0, handled));
}
