//! Positions, by a client that does what the test says.

use std::iter::once;
use std::sync::atomic::Ordering;

use penstock_crds::spec::OnOffsetLost;

use super::*;
use crate::commit::Committer;
use crate::kafka::scripted::{Fetch, Scripted, named};
use crate::kafka::{OutOfRange, TopicId};
use crate::partition::Partition;

/// A pump that commits every second, with one partition to come: its log and the group's
/// offset are set.
struct Fixture {
    client: Arc<Scripted>,
    pump: Pump<Scripted>,
    queue: Arc<WorkQueue<Delivery>>,
    // Requests come from handlers, of which there are none.
    _committer: Committer,
}

fn fixture(strategy: Strategy, committed: Option<i64>, log: (i64, i64)) -> Fixture {
    let client = Arc::new(Scripted {
        partitions: 1,
        ..Scripted::default()
    });
    let name = named("orders", 0);
    client.logs.lock().insert(name.clone(), log);
    client.ids.lock().push(("orders".into(), TopicId(1)));
    if let Some(offset) = committed {
        client.committed.lock().insert(name.clone(), offset);
    }
    let assign = Event::Assign(vec![name]);
    client.events.lock().push_back(assign);
    let wake = Arc::new(Notify::new());
    let queue = Arc::new(WorkQueue::new(100, usize::MAX, Arc::clone(&wake)));
    let (committer, requests) = Committer::new(Arc::clone(&wake));
    let pump = Pump::new(PumpParts {
        name: "kafka_consumer.test".into(),
        client: Arc::clone(&client),
        queue: Arc::clone(&queue),
        wake,
        strategy,
        lanes: None,
        commits: Commits::new(requests, Duration::from_secs(30), None),
        held_bytes: usize::MAX,
        commit_interval: Duration::from_secs(1),
        policy: Policy {
            reset: Some(crate::kafka::Edge::End),
            lost: OnOffsetLost::Earliest,
        },
        stores: false,
        batch_size: 100,
        drain_limit: Duration::from_secs(1),
        metrics: Metrics::new("", "kafka_consumer.test").unwrap(),
        progress: Progress::new(1),
        stop: CancellationToken::new(),
        finish: CancellationToken::new(),
    });
    Fixture {
        client,
        pump,
        queue,
        _committer: committer,
    }
}

impl Fixture {
    /// Runs for so long.
    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = self.pump.advance();
            if !self.pump.pump() {
                let rest = end.saturating_duration_since(Instant::now());
                let _ = tokio::time::timeout(rest, self.pump.wait(next)).await;
            }
        }
    }

    fn fetch(&self, fetched: impl IntoIterator<Item = Fetch>) {
        let named = fetched.into_iter().map(|it| (named("orders", 0), it));
        self.client.fetched.lock().extend(named);
    }

    fn partition(&self) -> Arc<Partition> {
        Arc::clone(self.pump.assignment.get("orders", 0).unwrap())
    }

    fn commits(&self) -> Vec<i64> {
        let commits = self.client.commits.lock();
        commits.iter().map(|(offset, _)| *offset).collect()
    }
}

const WHILE: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn the_end_of_a_partition_is_committed_once_by_whatever_strategy() {
    for strategy in [Strategy::Handled, Strategy::EachMessage, Strategy::Read] {
        let mut fixture = fixture(strategy, Some(10), (0, 14));
        fixture.run(WHILE).await;
        // Nothing is to be told yet.
        assert!(fixture.commits().is_empty(), "{strategy:?}");
        fixture.fetch([Fetch::Message(10), Fetch::End(14)]);
        fixture.run(WHILE).await;
        // What lies behind the message in flight is told in the metadata at most.
        assert!(fixture.commits().iter().all(|it| *it == 10), "{strategy:?}");
        fixture.client.commits.lock().clear();
        fixture.partition().settle(once(10..11));
        fixture.run(2 * WHILE).await;
        assert_eq!(fixture.commits(), [14], "{strategy:?}");
        // Only markers.
        fixture.fetch([Fetch::End(16)]);
        fixture.run(2 * WHILE).await;
        assert_eq!(fixture.commits(), [14, 16], "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_new_group_begins_is_committed_before_anything_is_handed_out() {
    let mut fixture = fixture(Strategy::EachMessage, None, (0, 50));
    fixture.client.is_slow.store(true, Ordering::Relaxed);
    fixture.run(WHILE).await;
    assert_eq!(fixture.commits(), [50]);
    fixture.fetch([Fetch::Message(50)]);
    fixture.run(WHILE).await;
    assert_eq!(fixture.queue.load().0, 0);
    fixture.client.answer();
    fixture.run(WHILE).await;
    assert_eq!(fixture.queue.load().0, 1);
    assert_eq!(fixture.commits(), [50]);
}

#[tokio::test(start_paused = true)]
async fn retention_moves_the_position_and_leaves_messages_in_flight_alone() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (0, 100));
    fixture.run(WHILE).await;
    fixture.fetch([Fetch::Message(10), Fetch::Message(11)]);
    fixture.run(WHILE).await;
    let partition = fixture.partition();
    fixture
        .client
        .logs
        .lock()
        .insert(named("orders", 0), (60, 100));
    fixture.fetch([Fetch::OutOfRange(OutOfRange {
        position: Some(12),
        departs_at: None,
    })]);
    fixture.run(WHILE).await;
    let restarts = fixture.client.restarts.lock().clone();
    assert_eq!(restarts.len(), 1);
    assert_eq!(restarts[0].offset, Some(60));
    assert!(Arc::ptr_eq(&partition, &fixture.partition()));
    // What is in flight holds the commit back.
    assert!(fixture.commits().iter().all(|it| *it <= 10));
    partition.settle(once(10..12));
    fixture.run(WHILE).await;
    assert_eq!(fixture.commits().last(), Some(&60));
    let page = fixture.pump.parts.metrics.render().unwrap();
    let lost = "penstock_lost_messages_total{consumer=\"kafka_consumer.test\",kafka_topic=\"orders\",reason=\"retention\"} 48\n";
    assert!(page.contains(lost), "{page}");
}

#[tokio::test(start_paused = true)]
async fn late_verdicts_and_commits_of_a_log_that_is_gone_settle_nothing_of_the_new_one() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (0, 100));
    fixture.run(WHILE).await;
    fixture.fetch((10..13).map(Fetch::Message));
    fixture.run(WHILE).await;
    let before = fixture.partition();
    // The new log is shorter, and its messages get the same offsets.
    fixture
        .client
        .logs
        .lock()
        .insert(named("orders", 0), (0, 5));
    *fixture.client.ids.lock() = vec![("orders".into(), TopicId(2))];
    fixture.fetch([Fetch::OutOfRange(OutOfRange {
        position: Some(13),
        departs_at: None,
    })]);
    fixture.run(WHILE).await;
    let after = fixture.partition();
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(before.is_revoked() && after.epoch > before.epoch);
    assert_eq!(fixture.client.restarts.lock()[0].offset, Some(0));
    // What waited for a handler is taken back.
    assert_eq!(fixture.queue.load().0, 0);

    fixture.fetch((0..13).map(Fetch::Message));
    fixture.run(WHILE).await;
    before.settle(once(10..13));
    after.settle(once(0..10));
    let late = CommitOutcome {
        topic: "orders".into(),
        partition: 0,
        offset: Some(900),
        metadata: String::new(),
        result: Ok(()),
    };
    let late = Event::Commit(vec![late]);
    fixture.client.events.lock().push_back(late);
    fixture.run(WHILE).await;
    // 10 to 12 are in flight, and only their own verdicts settle them.
    assert_eq!(fixture.commits().last(), Some(&10));
    after.settle(once(10..13));
    fixture.run(WHILE).await;
    assert_eq!(fixture.commits().last(), Some(&13));
}

#[tokio::test(start_paused = true)]
async fn with_fail_a_lost_offset_ends_the_consumer_and_nothing_is_restarted() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (60, 100));
    fixture.pump.parts.policy.lost = OnOffsetLost::Fail;
    fixture.pump.recovery = Recovery::new(
        fixture.pump.parts.policy,
        Arc::clone(&fixture.pump.parts.wake),
    );
    fixture.run(WHILE).await;
    fixture.fetch([Fetch::OutOfRange(OutOfRange {
        position: Some(10),
        departs_at: None,
    })]);
    fixture.run(WHILE).await;
    assert!(fixture.client.restarts.lock().is_empty());
    assert_eq!(fixture.queue.load().0, 1);
    let Some(Delivery::Error(error)) = fixture.queue.take().await else {
        panic!("no error");
    };
    assert!(error.text.contains("onOffsetLost is Fail"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_puts_partitions_at_their_ends_back_to_their_positions() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (0, 14));
    let other = named("orders", 1);
    fixture.client.logs.lock().insert(other.clone(), (0, 0));
    fixture.client.committed.lock().insert(other.clone(), 0);
    fixture.run(WHILE).await;
    fixture.fetch([Fetch::Message(10), Fetch::End(14)]);
    fixture.run(WHILE).await;
    assert!(fixture.client.seeks.lock().is_empty());
    // What is assigned already is paused by the client meanwhile.
    let assign = Event::Assign(vec![other.clone()]);
    fixture.client.events.lock().push_back(assign);
    fixture.run(WHILE).await;
    let seeks = fixture.client.seeks.lock().clone();
    assert_eq!(seeks.len(), 1);
    assert_eq!(seeks[0].partition, named("orders", 0));
    assert_eq!(seeks[0].offset, Some(14));
    let revoke = Event::Revoke {
        partitions: vec![other],
        lost: false,
    };
    fixture.client.events.lock().push_back(revoke);
    fixture.run(WHILE).await;
    assert_eq!(fixture.client.seeks.lock().len(), 2);
    // A message behind the end: the client's position is right again.
    fixture.fetch([Fetch::Message(14)]);
    fixture.run(WHILE).await;
    assert_eq!(fixture.partition().displaced_from(), None);
}
