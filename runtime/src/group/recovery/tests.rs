//! Look-ups that succeed at last, and those that nobody needs any more.

use penstock_crds::spec::OnOffsetLost;

use super::*;
use crate::group::partition::StartCommit;
use crate::group::start::Inherited;
use crate::kafka::scripted::{Scripted, named};
use crate::observe::metrics::Metrics;

struct Fixture {
    client: Arc<Scripted>,
    assignment: Assignment,
    recovery: Recovery,
    wake: Arc<Notify>,
}

const REFUSED: OutOfRange = OutOfRange {
    position: Some(10),
    departs_at: None,
};

/// A partition assigned at offset 10, in a log from 30 to 90.
fn fixture() -> (Fixture, Arc<Partition>) {
    let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
    let wake = Arc::new(Notify::new());
    let policy = Policy {
        reset: Some(Edge::End),
        lost: OnOffsetLost::Earliest,
    };
    let mut assignment = Assignment::new(metrics, Arc::default());
    let name = named("orders", 1);
    let added = assignment.add(std::slice::from_ref(&name), Inherited::new(), None);
    let partition = Arc::clone(&added[0]);
    partition.begin_at(10, None, StartCommit::Made);
    let client = Arc::new(Scripted {
        partitions: 2,
        ..Scripted::default()
    });
    client.logs.lock().insert(name, (30, 90));
    let recovery = Recovery::new(policy, Arc::clone(&wake));
    let fixture = Fixture {
        client,
        assignment,
        recovery,
        wake,
    };
    (fixture, partition)
}

impl Fixture {
    /// Advances until there is something, as the pump does, or for so long.
    async fn advance(&mut self, limit: Duration) -> Vec<(Arc<Partition>, Found)> {
        let until = Instant::now() + limit;
        loop {
            let found = self.recovery.advance(&self.client, &self.assignment);
            if !found.is_empty() || Instant::now() >= until {
                return found;
            }
            let wait = tokio::time::timeout(Duration::from_millis(50), self.wake.notified());
            let _ = wait.await;
        }
    }
}

fn resumed(found: &[(Arc<Partition>, Found)]) -> &Resumption {
    match found {
        [(_, Found::Resumed(resumption, _))] => resumption,
        _ => panic!("{} partitions", found.len()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_position_is_looked_up_until_the_log_is_known() {
    let (mut fixture, partition) = fixture();
    fixture.client.logs.lock().clear();
    fixture.recovery.note(Arc::clone(&partition), REFUSED);
    assert!(fixture.advance(Duration::from_secs(60)).await.is_empty());
    // Twice for each try, which come at most every 5 s in the end.
    let tries = *fixture.client.look_ups.lock() / 2;
    assert!((10..25).contains(&tries), "{tries}");
    fixture
        .client
        .logs
        .lock()
        .insert(named("orders", 1), (30, 90));
    let found = fixture.advance(Duration::from_secs(10)).await;
    let resumption = resumed(&found);
    assert_eq!(resumption.offset, 30);
    let lost = resumption.lost.as_ref().unwrap();
    assert_eq!(lost.skipped, 10..30);
    // It is not looked up again.
    assert!(fixture.advance(Duration::from_secs(10)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_revoked_meanwhile_is_forgotten() {
    let (mut fixture, partition) = fixture();
    fixture.recovery.note(Arc::clone(&partition), REFUSED);
    fixture.assignment.remove(&[named("orders", 1)]);
    assert!(fixture.advance(Duration::from_secs(10)).await.is_empty());
    assert_eq!(*fixture.client.look_ups.lock(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_topic_with_another_id_is_read_from_its_start_though_nothing_is_refused() {
    let (mut fixture, partition) = fixture();
    let ids = |id| vec![("orders".to_owned(), TopicId(id))];
    *fixture.client.ids.lock() = ids(1);
    assert!(fixture.advance(Duration::from_secs(10)).await.is_empty());
    assert_eq!(partition.topic_id(), Some(TopicId(1)));
    // The new log is longer than the position.
    *fixture.client.ids.lock() = ids(2);
    let name = named("orders", 1);
    fixture.client.logs.lock().insert(name, (0, 500));
    let found = fixture.advance(Duration::from_secs(60)).await;
    let resumption = resumed(&found);
    assert_eq!(resumption.offset, 0);
    let reason = resumption.lost.as_ref().map(|lost| lost.reason);
    assert_eq!(reason, Some(positions::Reason::Recreation));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_revoked_before_its_topic_is_known_commits_the_id_too() {
    let (mut fixture, partition) = fixture();
    *fixture.client.ids.lock() = vec![("orders".to_owned(), TopicId(1))];
    let (client, assignment) = (Arc::clone(&fixture.client), &mut fixture.assignment);
    assert!(fixture.recovery.advance(&client, assignment).is_empty());
    assert_eq!(partition.topic_id(), None);
    assignment.remove(&[named("orders", 1)]);
    fixture.wake.notified().await;
    fixture.recovery.take_ids(&fixture.assignment);
    assert_eq!(partition.topic_id(), Some(TopicId(1)));
}

#[tokio::test(start_paused = true)]
async fn an_epoch_does_not_tell_where_a_log_departs_that_may_be_another() {
    let refused = OutOfRange {
        position: None,
        departs_at: Some(60),
    };
    for (seconds, offset) in [(4, 30), (40, 60)] {
        let (mut fixture, partition) = fixture();
        *fixture.client.ids.lock() = vec![("orders".to_owned(), TopicId(1))];
        let unrefused = Duration::from_secs(seconds);
        assert!(fixture.advance(unrefused).await.is_empty());
        fixture.recovery.note(Arc::clone(&partition), refused);
        let found = fixture.advance(Duration::from_secs(10)).await;
        assert_eq!(resumed(&found).offset, offset);
    }
}
