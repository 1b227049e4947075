//! Several messages that arrive, are taken, and are noted together.

use futures_util::FutureExt as _;

use super::*;
use crate::offsets::gaps::Gaps;
use crate::process::worker::hand::Hand;

/// With so many messages in the queue.
fn filled<F>(count: i64, policy: DeliveryPolicy, answer: F) -> Fixture<Noting<F>>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    let mut fixture = fixture("", policy, answer);
    fixture.seat.queue = Arc::new(WorkQueue::new(100, usize::MAX, Arc::default()));
    let mut messages = (0..count).map(|n| fixture.message(n, "{}")).collect();
    fixture.seat.queue.put(&mut messages);
    fixture
}

impl<H: Handler<Value>> Fixture<H> {
    async fn process_next(&self, hand: &mut Hand) -> Result<(), Failure> {
        let delivery = hand.next(&self.seat).await.unwrap();
        self.shared.process(delivery, &self.seat, hand).await
    }
}

/// Takes the next message and is done with it at once, however long this test takes.
async fn handle_at_once<H>(fixture: &Fixture<H>, hand: &mut Hand) {
    let Some(Delivery::Message(job)) = hand.next(&fixture.seat).await else {
        panic!("no message")
    };
    hand.was_at_once();
    hand.settled().add(&fixture.partition, job.record.offset());
    hand.close();
}

#[tokio::test]
async fn what_is_done_at_once_is_taken_and_noted_together() {
    let fixture = filled(10, stop_at_once(), |_| Ok(()));
    let mut hand = Hand::new(true);
    handle_at_once(&fixture, &mut hand).await;
    assert_eq!(fixture.seat.queue.load().0, 9);
    handle_at_once(&fixture, &mut hand).await;
    assert_eq!(fixture.seat.queue.load().0, 0);
    assert_eq!(fixture.partition.committable(), Some(1));
    for _ in 2..10 {
        handle_at_once(&fixture, &mut hand).await;
    }
    // Nothing is in hand any more, so it is noted before the wait for the next.
    assert!(hand.next(&fixture.seat).now_or_never().is_none());
    assert_eq!(fixture.partition.committable(), Some(10));
}

#[tokio::test]
async fn what_is_in_hand_is_for_the_others_once_the_handler_takes_its_time() {
    let mut policy = attempts(2, FailureAction::Stop);
    policy.initial = Duration::from_secs(3600);
    policy.max = policy.initial;
    let fixture = filled(6, policy, |message| match message.offset() {
        2 => Err(HandlerError::retryable("down")),
        _ => Ok(()),
    });
    let mut hand = fixture.shared.hand();
    for _ in 0..2 {
        handle_at_once(&fixture, &mut hand).await;
    }
    assert_eq!(fixture.seat.queue.load().0, 0);
    assert!(fixture.process_next(&mut hand).now_or_never().is_none());
    assert_eq!(fixture.partition.committable(), Some(2));
    for offset in 3..6 {
        let Some(Delivery::Message(job)) = fixture.seat.queue.take().await else {
            panic!("no message")
        };
        assert_eq!(job.record.offset(), offset);
    }
}

#[tokio::test]
async fn one_message_at_a_time_is_in_hand_where_there_is_an_order() {
    let fixture = filled(3, stop_at_once(), |_| Ok(())).in_order(CommitResult::Committed);
    let mut hand = fixture.shared.hand();
    for done in 1..=3 {
        fixture.process_next(&mut hand).await.unwrap();
        assert_eq!(fixture.partition.committable(), Some(done));
        assert_eq!(fixture.seat.queue.load().0, 3 - done as usize);
    }
}

#[tokio::test]
async fn a_consumer_that_ends_leaves_what_it_has_in_hand_to_others() {
    let fixture = filled(6, stop_at_once(), |_| Ok(()));
    let mut hand = fixture.shared.hand();
    for _ in 0..2 {
        handle_at_once(&fixture, &mut hand).await;
    }
    assert_eq!(fixture.partition.in_flight(), 5);
    let delivery = hand.next(&fixture.seat).await.unwrap();
    delivery.abandon();
    drop(hand);
    assert_eq!(fixture.partition.in_flight(), 0);
    assert_eq!(fixture.partition.committable(), Some(2));
}

#[test]
fn what_an_earlier_owner_handled_is_dropped_as_it_arrives_and_its_attempts_count() {
    let mut fixture = fixture("", stop_at_once(), |_| Ok(()));
    let new = || {
        let metrics = &fixture.shared.metrics;
        Partition::new("orders", 1, 1, metrics, Arc::default(), None)
    };
    let resumed = new().resume(Gaps::new(5, 9, [5..6, 7..8], [(7, 4)]));
    let other = Arc::new(new());
    fixture.partition = Arc::new(resumed);
    let message = |partition: &Arc<Partition>, offset| {
        let record = OwnedRecord {
            offset,
            ..OwnedRecord::default()
        };
        let record = Record::owned(record, Arc::clone(partition));
        Delivery::Message(Job::new(record, None))
    };
    let mut read = VecDeque::with_capacity(8);
    // Its places begin in the midst, so that the messages lie in two pieces.
    read.extend((0..5).map(|offset| message(&other, offset)));
    (0..5).for_each(|_| drop(read.pop_front()));
    read.extend([5, 6].map(|offset| message(&fixture.partition, offset)));
    read.push_back(message(&other, 6));
    read.extend([7, 8, 9].map(|offset| message(&fixture.partition, offset)));
    arrive(&mut read);
    let left = |read: &VecDeque<Delivery>| -> Vec<_> {
        let jobs = read.iter().map(|delivery| match delivery {
            Delivery::Message(job) => (job.record.offset(), job.failed),
            Delivery::Error(error) => panic!("{error:?}"),
        });
        jobs.collect()
    };
    assert_eq!(left(&read), [(5, 0), (6, 0), (7, 4), (9, 0)]);
    assert_eq!(fixture.partition.in_flight(), 3);

    // The client is sent back in the midst of a run: what was known counts no more.
    fixture.partition = Arc::new(new().resume(Gaps::new(5, 9, [5..6, 7..8], [(7, 4)])));
    let offsets = [6, 4, 6, 7];
    let mut read = offsets
        .map(|offset| message(&fixture.partition, offset))
        .into();
    arrive(&mut read);
    assert_eq!(left(&read), [(4, 0), (6, 0), (7, 0)]);
}
