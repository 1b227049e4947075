//! What is sent for a commit, and what is not.

use std::iter;

use tokio::sync::mpsc;

use super::*;
use crate::commit::strategy::Strategy;
use crate::kafka::Consumer;
use crate::observe::metrics::Metrics;

/// A partition with these offsets in flight.
fn partition(delivered: usize) -> Arc<Partition> {
    let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
    let partition = Arc::new(Partition::new(
        "orders",
        0,
        1,
        &metrics,
        Arc::default(),
        None,
    ));
    let mut failed = vec![0; delivered];
    let messages = (0..).zip(&mut failed);
    partition.deliver(messages.map(|(offset, failed)| (offset, None, failed)));
    partition
}

/// The same, and a commit behind one of them.
fn asked(
    delivered: usize,
    message: i64,
) -> (
    Commits<Consumer>,
    Arc<Partition>,
    oneshot::Receiver<CommitResult>,
) {
    let partition = partition(delivered);
    let (_, requests) = mpsc::unbounded_channel();
    let mut commits = Commits::new(requests, Duration::from_secs(30), None);
    let (reply, result) = oneshot::channel();
    commits.add(Arc::clone(&partition), Wanted::Message(message), reply);
    (commits, partition, result)
}

fn sent(commits: &mut Commits<Consumer>) -> Vec<i64> {
    let mut sent = Vec::new();
    commits.send_due(|_, point| {
        sent.push(point.offset);
        Ok(())
    });
    sent
}

#[tokio::test]
async fn a_commit_that_would_pass_an_unsettled_message_fails() {
    let (mut commits, _partition, mut result) = asked(3, 1);
    assert!(sent(&mut commits).is_empty());
    let expected = CommitResult::Failed("offset 0 before it is unsettled".into());
    assert_eq!(result.try_recv(), Ok(expected));
}

#[tokio::test]
async fn a_commit_that_would_pass_a_message_which_a_drain_abandoned_is_void() {
    let (mut commits, partition, mut result) = asked(3, 1);
    partition.drain(true);
    partition.abandon(0);
    assert!(sent(&mut commits).is_empty());
    assert_eq!(result.try_recv(), Ok(CommitResult::Revoked));
}

#[tokio::test]
async fn a_commit_behind_the_first_unsettled_message_is_sent_though_the_partition_drains() {
    let (mut commits, partition, _result) = asked(3, 1);
    partition.settle(iter::once(0..1));
    partition.drain(true);
    partition.abandon(2);
    assert_eq!(sent(&mut commits), [2]);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_followed_by_a_lower_one() {
    let (mut commits, partition, _result) = asked(1, 0);
    assert_eq!(sent(&mut commits), [1]);
    // The brokers may have applied it, although the message is abandoned then.
    partition.commit_ended();
    partition.abandon(0);
    partition.fail(0, 1);
    assert_eq!(partition.committable(), Some(0));
    assert_eq!(partition.uncommitted(), None);
}

#[tokio::test]
async fn a_commit_of_attempts_on_its_way_is_followed_by_one_that_forgets_them() {
    let partition = partition(1);
    let without = CommitPoint {
        offset: 0,
        metadata: String::new(),
    };
    partition.committed(without.clone());
    assert_eq!(partition.uncommitted(), None);
    partition.fail(0, 1);
    let with = partition.uncommitted().expect("the attempt is news");
    partition.commit_sent(with.offset);
    // The message ends the consumer before the answer.
    partition.forget_attempts(0);
    for strategy in [Strategy::Handled, Strategy::EachMessage] {
        assert!(partition.needs_commit(strategy), "{strategy:?}");
    }
    partition.commit_ended();
    partition.committed(with);
    assert_eq!(partition.uncommitted(), Some(without.clone()));
    partition.committed(without);
    assert_eq!(partition.uncommitted(), None);
}

#[tokio::test]
async fn a_commit_of_a_message_from_before_the_client_was_sent_back_is_void() {
    let (mut commits, partition, mut result) = asked(3, 1);
    partition.deliver([(0, None, &mut 0)]);
    assert!(sent(&mut commits).is_empty());
    assert_eq!(result.try_recv(), Ok(CommitResult::Revoked));
}
