//! Positions, by a client that does what the test says.

use std::iter::once;
use std::sync::atomic::Ordering;

use penstock_crds::spec::OnOffsetLost;
use rdkafka::error::RDKafkaErrorCode;

use super::*;
use crate::commit::committer::Committer;
use crate::group::partition::Partition;
use crate::kafka::scripted::{Fetch, Scripted, named};
use crate::kafka::{CommitOutcome, Event, OutOfRange, TopicId};
use crate::offsets::gaps::{Gaps, METADATA_LIMIT};

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
        let text = text_of_topic(1, offset);
        client.metadata.lock().insert(name.clone(), text);
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

/// The metadata of an offset of the topic with this id.
fn text_of_topic(id: u128, offset: i64) -> String {
    let gaps = Gaps::new(offset, offset, [], []).with_topic_id(Some(id));
    gaps.encode(METADATA_LIMIT)
}

impl Fixture {
    /// The text of the last commit.
    fn text(&self) -> String {
        let texts = self.client.metadata.lock();
        texts.get(&named("orders", 0)).cloned().unwrap_or_default()
    }

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

    fn set_policy(&mut self, lost: OnOffsetLost) {
        self.pump.parts.policy.lost = lost;
        let wake = Arc::clone(&self.pump.parts.wake);
        self.pump.recovery = Recovery::new(self.pump.parts.policy, wake);
    }

    /// Cuts the log off at an offset, and lets it grow.
    fn truncate(&self, departs_at: i64, end: i64) {
        let name = named("orders", 0);
        self.client.logs.lock().insert(name, (0, end));
        self.fetch([Fetch::OutOfRange(OutOfRange {
            position: None,
            departs_at: Some(departs_at),
        })]);
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
    // Once more, with the topic's id, which was not known at first.
    fixture.client.answer();
    fixture.run(WHILE).await;
    assert_eq!(fixture.commits(), [50, 50]);
    assert_eq!(fixture.text(), text_of_topic(1, 50));
}

#[tokio::test(start_paused = true)]
async fn messages_wait_while_the_brokers_refuse_where_a_new_group_begins() {
    let refused = RDKafkaErrorCode::OffsetMetadataTooLarge;
    let mut fixture = fixture(Strategy::EachMessage, None, (0, 50));
    fixture.client.is_slow.store(true, Ordering::Relaxed);
    let within_limit = Duration::from_secs(2);
    fixture.run(within_limit).await;
    fixture.fetch([Fetch::Message(50)]);
    for _ in 0..2 {
        fixture.client.refuse(refused);
        fixture.run(within_limit).await;
    }
    assert_eq!(fixture.queue.load().0, 0);
    fixture.client.answer();
    fixture.run(Duration::from_secs(1)).await;
    assert_eq!(fixture.queue.load().0, 1);
}

#[tokio::test(start_paused = true)]
async fn neither_a_stop_nor_an_error_waits_for_a_refused_start() {
    for stops in [true, false] {
        let mut fixture = fixture(Strategy::Read, None, (0, 50));
        fixture.client.is_slow.store(true, Ordering::Relaxed);
        fixture.run(WHILE).await;
        fixture.fetch([Fetch::Message(50)]);
        fixture
            .client
            .refuse(RDKafkaErrorCode::GroupAuthorizationFailed);
        fixture.run(Duration::from_millis(10)).await;
        assert_eq!(fixture.queue.load().0, 0);
        match stops {
            true => fixture.pump.begin_stop(),
            false => {
                let code = RDKafkaErrorCode::Fatal;
                fixture
                    .pump
                    .fail(EndCode::ALL[0], code, "refused".to_owned());
            }
        }
        fixture.run(Duration::from_millis(10)).await;
        assert!(fixture.queue.load().0 > 0, "{stops}");
    }
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
async fn behind_what_a_truncation_left_the_position_names_no_epoch_of_the_log_before() {
    // The leader of epoch 3 wrote nothing of what is skipped: a position that named it would be
    // refused as truncated again.
    for (lost, offset, epoch) in [
        (OnOffsetLost::Earliest, 12, Some(3)),
        (OnOffsetLost::Latest, 50, None),
    ] {
        let mut fixture = fixture(Strategy::Handled, Some(10), (0, 100));
        fixture.set_policy(lost);
        fixture.run(WHILE).await;
        fixture.fetch((10..15).map(|offset| Fetch::Written(offset, 3)));
        fixture.run(WHILE).await;
        fixture.partition().settle(once(10..15));
        fixture.truncate(12, 50);
        fixture.run(WHILE).await;
        let restarts = fixture.client.restarts.lock().clone();
        let restarts: Vec<_> = restarts
            .iter()
            .map(|it| (it.offset, it.leader_epoch))
            .collect();
        assert_eq!(restarts, [(Some(offset), epoch)], "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_truncation_soon_after_the_first_sends_no_message_back() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (0, 100));
    fixture.run(WHILE).await;
    fixture.fetch((10..15).map(Fetch::Message));
    fixture.run(WHILE).await;
    fixture.partition().settle(once(10..15));
    fixture.truncate(13, 13);
    fixture.run(WHILE / 3).await;
    fixture.fetch((13..18).map(Fetch::Message));
    fixture.run(WHILE / 3).await;
    fixture.partition().settle(once(13..18));
    // The topic is still known to be the same, though its id was looked up just before.
    fixture.truncate(16, 16);
    fixture.run(WHILE / 3).await;
    let restarts = fixture.client.restarts.lock().clone();
    let restarts: Vec<_> = restarts.iter().map(|it| it.offset).collect();
    assert_eq!(restarts, [Some(13), Some(16)]);
}

#[tokio::test(start_paused = true)]
async fn with_fail_a_lost_offset_ends_the_consumer_and_nothing_is_restarted() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (60, 100));
    fixture.set_policy(OnOffsetLost::Fail);
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

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_created_again_meanwhile_is_read_from_its_start() {
    for strategy in [Strategy::Handled, Strategy::EachMessage, Strategy::Read] {
        // Its log has grown beyond the offset, so no broker refuses that.
        let mut fixture = fixture(strategy, Some(10), (0, 500));
        *fixture.client.ids.lock() = vec![("orders".into(), TopicId(2))];
        fixture.run(WHILE).await;
        let restarts = fixture.client.restarts.lock().clone();
        assert_eq!(restarts.len(), 1, "{strategy:?}");
        assert_eq!(restarts[0].offset, Some(0), "{strategy:?}");
        let page = fixture.pump.parts.metrics.render().unwrap();
        assert!(page.contains("reason=\"recreation\"} 0\n"), "{page}");
        fixture.run(WHILE).await;
        assert_eq!(fixture.commits().last(), Some(&0), "{strategy:?}");
        assert_eq!(fixture.text(), text_of_topic(2, 0), "{strategy:?}");
        // Once.
        fixture.run(60 * WHILE).await;
        assert_eq!(fixture.client.restarts.lock().len(), 1, "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_topic_that_can_not_be_looked_up_stays_as_it_was_committed() {
    let mut fixture = fixture(Strategy::Handled, Some(10), (0, 500));
    fixture.client.ids.lock().clear();
    fixture.run(WHILE).await;
    fixture.fetch([Fetch::Message(10)]);
    fixture.run(WHILE).await;
    fixture.partition().settle(once(10..11));
    fixture.run(WHILE).await;
    assert_eq!(fixture.text(), text_of_topic(1, 11));
    // Found out as soon as it is known.
    *fixture.client.ids.lock() = vec![("orders".into(), TopicId(2))];
    fixture.run(20 * WHILE).await;
    assert_eq!(fixture.client.restarts.lock()[0].offset, Some(0));
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_is_committed_without_its_topic_is_committed_once_more() {
    for strategy in [Strategy::Handled, Strategy::EachMessage, Strategy::Read] {
        let mut fixture = fixture(strategy, Some(10), (0, 500));
        fixture.client.metadata.lock().clear();
        fixture.run(10 * WHILE).await;
        assert_eq!(fixture.commits(), [10], "{strategy:?}");
        assert_eq!(fixture.text(), text_of_topic(1, 10), "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_begins_at_the_log_start_commits_nothing_before_a_message() {
    let mut fixture = fixture(Strategy::Handled, None, (5, 500));
    fixture.pump.parts.policy.reset = Some(crate::kafka::Edge::Start);
    fixture.run(10 * WHILE).await;
    assert!(fixture.commits().is_empty());
    fixture.fetch([Fetch::Message(5)]);
    fixture.run(WHILE).await;
    assert!(fixture.commits().is_empty());
    fixture.partition().settle(once(5..6));
    fixture.run(WHILE).await;
    assert_eq!(fixture.commits(), [6]);
    assert_eq!(fixture.text(), text_of_topic(1, 6));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_stored_with_the_topic_and_so_is_the_end() {
    let mut fixture = fixture(Strategy::Read, Some(10), (0, 14));
    fixture.pump.parts.stores = true;
    fixture.run(WHILE).await;
    // Two messages, and a marker behind them.
    fixture.fetch([Fetch::Message(10), Fetch::Message(11), Fetch::End(13)]);
    fixture.run(WHILE).await;
    let stored = |offset| (offset, text_of_topic(1, offset));
    assert_eq!(*fixture.client.stored.lock(), [stored(12), stored(13)]);
}
