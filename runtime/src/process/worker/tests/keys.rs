//! Messages of one key, in order, beside those of others.

use std::collections::VecDeque;

use super::*;
use crate::queue::lane::LaneFinder;

/// Puts messages with these keys into a queue of their own, at the offsets from 0 on.
pub(super) fn put(fixture: &mut Fixture<impl Send>, keys: &[&str]) {
    let lanes = LaneFinder::default();
    fixture.shared.defers = true;
    fixture.seat.queue = Arc::new(WorkQueue::new(100, 1 << 20, Arc::default()));
    let jobs = (0..).zip(keys).map(|(offset, key)| {
        let mut delivery = fixture.message(offset, "{}");
        if let Delivery::Message(job) = &mut delivery {
            job.lane = Some(lanes.find("orders", 1, key.as_bytes()));
        }
        delivery
    });
    fixture.seat.queue.put(&mut jobs.collect::<VecDeque<_>>());
}

/// Fails, and meanwhile the partition begins to drain.
fn fail_and_drain(message: &Message<'_, Value>) -> Result<(), HandlerError> {
    message.assignment().drain(true);
    Err(HandlerError::retryable("never"))
}

/// Works until nothing is ready, waits until what is deferred is due, and so on.
pub(super) async fn work_off<H: Handler<Value>>(fixture: &Fixture<H>) {
    let queue = &fixture.seat.queue;
    while queue.load().0 > 0 {
        queue.release_due(Instant::now() + Duration::from_secs(60));
        let mut ready = Vec::new();
        queue.take_more(1, &mut ready);
        for delivery in ready {
            fixture.process_alone(delivery).await.unwrap();
        }
    }
}

pub(super) fn handled(steps: &[String]) -> Vec<&str> {
    let calls = steps.iter().map(|step| &step["handle ".len()..]);
    calls.map(|call| call.split(' ').next().unwrap()).collect()
}

#[tokio::test]
async fn a_failing_key_waits_alone_and_its_messages_stay_in_order() {
    let fail_twice = |message: &Message<'_, Value>| match (message.offset(), message.attempt()) {
        (0, 1..=2) => Err(HandlerError::retryable("not yet")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", attempts(3, FailureAction::Stop), fail_twice);
    put(&mut fixture, &["a", "a", "b", "b"]);
    let mut first = Vec::new();
    fixture.seat.queue.take_more(1, &mut first);
    let first = first.pop().unwrap();
    fixture.process_alone(first).await.unwrap();
    // Not due yet: the other key goes on, with the same handler.
    for _ in 0..2 {
        let mut ready = Vec::new();
        fixture.seat.queue.take_more(1, &mut ready);
        let ready = ready.pop().unwrap();
        fixture.process_alone(ready).await.unwrap();
    }
    assert_eq!(handled(&fixture.steps()), ["0#1", "2#1", "3#1"]);
    assert_eq!(fixture.partition.committable(), Some(0));
    work_off(&fixture).await;
    assert_eq!(
        handled(&fixture.steps())[3..],
        ["0#2", "0#3", "1#1"],
        "attempts are counted on, and the key's next message comes last"
    );
    assert_eq!(fixture.partition.committable(), Some(4));
    assert_eq!(fixture.processed("", "orders", true), (4.0, 4.0));
    assert_eq!(fixture.processed("", "orders", false), (0.0, 0.0));
    assert_eq!(fixture.metric("penstock_retries_total"), Some(2.0));
}

#[tokio::test]
async fn a_key_that_is_given_up_lets_its_next_message_go() {
    let poison = |message: &Message<'_, Value>| match message.offset() {
        0 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", attempts(3, FailureAction::Skip), poison);
    put(&mut fixture, &["a", "a"]);
    work_off(&fixture).await;
    assert_eq!(handled(&fixture.steps()), ["0#1", "1#1"]);
    assert_eq!(fixture.partition.committable(), Some(2));
}

#[tokio::test]
async fn a_deferred_message_is_abandoned_when_its_partition_is_about_to_go() {
    let mut fixture = fixture("", attempts(3, FailureAction::Stop), fail_and_drain);
    put(&mut fixture, &["a"]);
    let mut ready = Vec::new();
    fixture.seat.queue.take_more(1, &mut ready);
    let ready = ready.pop().unwrap();
    fixture.process_alone(ready).await.unwrap();
    assert_eq!(fixture.seat.queue.load().0, 0);
    assert_eq!(fixture.partition.in_flight(), 0);
    assert_eq!(fixture.partition.committable(), Some(0));
    assert_eq!(
        fixture.processed("", "orders", false),
        (1.0, 1.0),
        "its timer and counter are recorded all the same"
    );
}

#[tokio::test]
async fn in_a_batch_only_the_messages_that_failed_wait() {
    let once = |message: &Message<'_, Value>| match (message.offset(), message.attempt()) {
        (1, 1) => Err(HandlerError::retryable("once")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", attempts(2, FailureAction::Stop), once);
    put(&mut fixture, &["a", "b", "c", "b"]);
    let take = |most| {
        let mut ready = Vec::new();
        fixture.seat.queue.take_more(most, &mut ready);
        ready
    };
    let batch = take(10);
    assert_eq!(batch.len(), 3, "one message of each key");
    fixture
        .shared
        .process_batch(batch, &fixture.seat)
        .await
        .unwrap();
    assert!(take(10).is_empty());
    let later = Instant::now() + Duration::from_secs(60);
    fixture.seat.queue.release_due(later);
    let batch = take(10);
    fixture
        .shared
        .process_batch(batch, &fixture.seat)
        .await
        .unwrap();
    let batch = take(10);
    fixture
        .shared
        .process_batch(batch, &fixture.seat)
        .await
        .unwrap();
    assert_eq!(
        handled(&fixture.steps()),
        ["0#1", "1#1", "2#1", "1#2", "3#1"]
    );
    assert_eq!(fixture.partition.committable(), Some(4));
    assert_eq!(fixture.processed("", "orders", true), (4.0, 4.0));
}

/// What is ready, and what is behind that, as one batch.
fn batch(fixture: &Fixture<impl Send>) -> Vec<Delivery> {
    let mut batch = Vec::new();
    fixture.seat.queue.take_more(100, &mut batch);
    fixture.seat.queue.take_behind(100, &mut batch);
    batch
}

/// Gives batches until nothing is left, whatever has to be waited for.
pub(super) async fn work_off_in_batches<H: BatchHandler<Value>>(fixture: &Fixture<H>) {
    while fixture.seat.queue.load().0 > 0 {
        let later = Instant::now() + Duration::from_secs(60);
        fixture.seat.queue.release_due(later);
        let work = fixture.shared.process_batch(batch(fixture), &fixture.seat);
        work.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_behind_a_failed_message_of_its_key_is_given_again_behind_it() {
    let once = |message: &Message<'_, Value>| match (message.offset(), message.attempt()) {
        (1, 1) => Err(HandlerError::retryable("once")),
        // That of a message which was not begun.
        (2, 1) => Err(HandlerError::permanent("a verdict that does not count")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", attempts(2, FailureAction::Skip), once);
    put(&mut fixture, &["a", "a", "a", "b", "b"]);
    let first = batch(&fixture);
    assert_eq!(first.len(), 5);
    let work = fixture.shared.process_batch(first, &fixture.seat);
    work.await.unwrap();
    assert_eq!(fixture.seat.queue.load().0, 2, "the key waits");
    assert!(batch(&fixture).is_empty());
    assert_eq!(fixture.partition.committable(), Some(1));
    assert_eq!(fixture.processed("", "orders", true), (3.0, 3.0));
    fixture.steps.lock().clear();
    let later = Instant::now() + Duration::from_secs(60);
    fixture.seat.queue.release_due(later);
    let mut again = Vec::new();
    fixture.seat.queue.take_more(100, &mut again);
    let work = fixture.shared.process_batch(again, &fixture.seat);
    work.await.unwrap();
    assert_eq!(handled(&fixture.steps()), ["1#2"], "one by one too");
    let Delivery::Message(last) = batch(&fixture).pop().unwrap() else {
        panic!("a message");
    };
    assert_eq!((last.record.offset(), last.failed), (2, 0));
    assert_eq!(fixture.metric("penstock_retries_total"), Some(1.0));
    assert_eq!(fixture.processed("", "orders", false), (0.0, 0.0));
}

#[tokio::test]
async fn what_is_behind_a_message_that_is_given_up_comes_again_at_once() {
    let poison = |message: &Message<'_, Value>| match message.offset() {
        0 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", attempts(3, FailureAction::Skip), poison);
    put(&mut fixture, &["a", "a", "a"]);
    let work = fixture.shared.process_batch(batch(&fixture), &fixture.seat);
    work.await.unwrap();
    assert_eq!(fixture.partition.committable(), Some(1));
    work_off_in_batches(&fixture).await;
    let steps = fixture.steps();
    assert_eq!(handled(&steps)[3..], ["1#1", "2#1"]);
    assert_eq!(fixture.partition.committable(), Some(3));
    assert_eq!(fixture.processed("", "orders", true), (2.0, 2.0));
    assert_eq!(fixture.processed("", "orders", false), (1.0, 1.0));
}

#[tokio::test]
async fn what_is_behind_a_message_that_the_handler_skips_counts() {
    let skip = |message: &Message<'_, Value>| match message.offset() {
        0 => Err(HandlerError::skip("not ours")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", stop_at_once(), skip);
    put(&mut fixture, &["a", "a", "a"]);
    work_off_in_batches(&fixture).await;
    assert_eq!(handled(&fixture.steps()), ["0#1", "1#1", "2#1"]);
    assert_eq!(fixture.partition.committable(), Some(3));
}

#[tokio::test]
async fn nothing_of_a_key_goes_on_behind_a_message_that_ends_the_consumer() {
    let poison = |message: &Message<'_, Value>| match message.offset() {
        1 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    };
    let mut fixture = fixture("", stop_at_once(), poison);
    put(&mut fixture, &["a", "a", "a", "a"]);
    let mut first = Vec::new();
    fixture.seat.queue.take_more(1, &mut first);
    fixture.seat.queue.take_behind(3, &mut first);
    let work = fixture.shared.process_batch(first, &fixture.seat);
    let failure = work.await.unwrap_err();
    assert!(failure.to_string().contains("offset 1"), "{failure}");
    assert!(batch(&fixture).is_empty(), "the fourth stays");
    assert_eq!(fixture.partition.committable(), Some(1));
    assert_eq!(fixture.partition.in_flight(), 1, "that is held");
}

#[tokio::test]
async fn a_key_is_left_to_the_next_owner_as_a_whole() {
    let mut fixture = fixture("", attempts(3, FailureAction::Stop), fail_and_drain);
    put(&mut fixture, &["a", "a", "a"]);
    let mut first = Vec::new();
    // The pump will look for what is held only later.
    fixture.seat.queue.take_more(1, &mut first);
    fixture.seat.queue.take_behind(2, &mut first);
    let work = fixture.shared.process_batch(first, &fixture.seat);
    work.await.unwrap();
    assert!(batch(&fixture).is_empty());
    assert_eq!(
        (fixture.seat.queue.load().0, fixture.partition.in_flight()),
        (0, 0)
    );
    assert_eq!(fixture.partition.committable(), Some(0));
}

/// A handler that lets others run before it is done.
struct Yielding;

impl BatchHandler<Value> for Yielding {
    async fn handle_batch(
        &self,
        messages: &[Message<'_, Value>],
    ) -> Vec<Result<Done, HandlerError>> {
        tokio::task::yield_now().await;
        messages.iter().map(|_| Ok(Done::default())).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gathers_is_woken_when_keys_are_let_go() {
    let mut fixture = fixture("", stop_at_once(), |_| Ok(()));
    put(&mut fixture, &["a"; 20]);
    let Fixture {
        shared,
        partition,
        seat,
        ..
    } = fixture.with_handler(Yielding);
    let shared = Arc::new(shared);
    let workers: Vec<_> = (0..2)
        .map(|number| {
            let seat = Seat {
                queue: Arc::clone(&seat.queue),
                busy: Busy::new(Progress::new(2), number),
            };
            tokio::spawn(work_in_batches(Arc::clone(&shared), seat, 10))
        })
        .collect();
    // Time passes only while nobody has anything to do.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(partition.committable(), Some(20));
    seat.queue.close();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
}
