//! Consumers on the mock cluster.

mod common;

use std::time::Duration;

use common::{Mock, Recorder, Running};
use penstock_runtime::RunError;
use penstock_runtime::handler::HandlerError;

/// Per partition, the numbers that a recorder saw, in order.
fn by_partition(seen: &[common::Seen], partitions: usize) -> Vec<Vec<i64>> {
    let mut offsets = vec![Vec::new(); partitions];
    for message in seen {
        offsets[message.partition as usize].push(message.offset);
    }
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_order_handles_each_partition_in_order_and_commits_each_message() {
    let mock = Mock::new("orders", 3);
    mock.produce(300, 3).await;
    let recorder = Recorder::new();
    let running = Running::start(mock.consumer("InOrder", ""), &recorder);
    let seen = recorder.wait_for(300).await;
    for offsets in by_partition(&seen, 3) {
        assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    }
    running.stop().await.expect("a clean stop");
    assert_eq!(mock.committed("test.group", 3), [Some(100); 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fast_runs_all_its_handlers_side_by_side() {
    let mock = Mock::new("orders", 2);
    mock.produce(100, 2).await;
    let recorder = Recorder::new().slow(Duration::from_millis(200));
    let running = Running::start(mock.consumer("Fast", "  maxConcurrency: 50"), &recorder);
    recorder.wait_for(100).await;
    assert_eq!(recorder.most_in_flight(), 50);
    assert_eq!(
        running.metric("kafka_consumer_messages_processed_total{kafka_client_name=\"client\",kafka_success=\"true\",kafka_topic=\"orders\"}"),
        Some(100.0)
    );
    running.stop().await.expect("a clean stop");
    assert_eq!(mock.committed("test.group", 2), [Some(50); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handled_commits_no_further_than_a_message_that_is_not_done() {
    let mock = Mock::new("orders", 1);
    mock.produce(50, 1).await;
    let recorder = Recorder::answering(|seen| match seen.offset {
        20 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    });
    let consumer = mock.consumer("Fast", "  maxConcurrency: 4\n  commit: Handled");
    let running = Running::start(consumer, &recorder);
    let ended = running.ended().await;
    assert!(matches!(ended, Err(RunError::Failure(_))), "{ended:?}");
    assert_eq!(mock.committed("test.group", 1), [Some(20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_handler_ends_an_in_order_consumer_without_a_commit_and_the_message_comes_again()
{
    let mock = Mock::new("orders", 1);
    mock.produce(10, 1).await;
    let failing = Recorder::answering(|seen| match seen.offset {
        5 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    });
    let ended = Running::start(mock.consumer("InOrder", ""), &failing)
        .ended()
        .await;
    let message = ended.expect_err("the failure ends it").to_string();
    assert!(message.contains("partition 0 offset 5"), "{message}");
    assert_eq!(mock.committed("test.group", 1), [Some(5)]);
    let recorder = Recorder::new();
    let running = Running::start(mock.consumer("InOrder", ""), &recorder);
    let seen = recorder.wait_for(5).await;
    assert_eq!(seen[0].offset, 5);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_larger_than_the_queue_is_followed_by_the_next_without_a_wait() {
    let mock = Mock::new("orders", 1);
    mock.produce(2_000, 1).await;
    let recorder = Recorder::new();
    let more = "  maxConcurrency: 4\n  consumeBatchSize: 100";
    let running = Running::start(mock.consumer("Fast", more), &recorder);
    recorder.wait_for(1).await;
    let started = std::time::Instant::now();
    recorder.wait_for(2_000).await;
    // Twenty reads: with a wait after each it takes ten seconds or more.
    assert!(started.elapsed() < Duration::from_secs(5));
    running.stop().await.expect("a clean stop");
}
