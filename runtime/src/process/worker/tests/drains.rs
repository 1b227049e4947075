//! Partitions that drain or are revoked: nothing of theirs begins, and the rest continues.

use futures_util::FutureExt as _;

use super::*;
use crate::offsets::gaps::Gaps;

const BACKOFF: Duration = Duration::from_secs(30);

/// With the same wait before each attempt.
fn patient(max: u32) -> DeliveryPolicy {
    DeliveryPolicy {
        initial: BACKOFF,
        max: BACKOFF,
        jitter: 0.0,
        ..attempts(max, FailureAction::Skip)
    }
}

fn failing(_: &Message<'_, Value>) -> Result<(), HandlerError> {
    Err(HandlerError::retryable("down"))
}

/// The calls so far, as partition, offset and attempt.
type Calls = Arc<Mutex<Vec<Vec<(i32, i64, u32)>>>>;

/// A handler of batches that waits to be let go, and then answers by a closure.
struct Gated {
    calls: Calls,
    gate: Arc<Notify>,
    answers: Box<Answers>,
}

type Answers = dyn Fn(&[Message<'_, Value>]) -> Vec<Result<Done, HandlerError>> + Send + Sync;

impl BatchHandler<Value> for Gated {
    async fn handle_batch(
        &self,
        messages: &[Message<'_, Value>],
    ) -> Vec<Result<Done, HandlerError>> {
        let seen = messages.iter();
        let seen = seen.map(|it| (it.partition(), it.offset(), it.attempt()));
        self.calls.lock().push(seen.collect());
        self.gate.notified().await;
        (self.answers)(messages)
    }
}

/// A handler that answers each message.
fn gated<F>(policy: DeliveryPolicy, answer: F) -> Fixture<Gated>
where
    F: Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    gated_batches(policy, move |messages| {
        let answers = messages.iter().map(&answer);
        answers.map(|answer| answer.map(Into::into)).collect()
    })
}

/// A handler that answers a batch, perhaps not all of it.
fn gated_batches<F>(policy: DeliveryPolicy, answers: F) -> Fixture<Gated>
where
    F: Fn(&[Message<'_, Value>]) -> Vec<Result<Done, HandlerError>> + Send + Sync + 'static,
{
    fixture("", policy, |_| Ok(())).with_handler(Gated {
        calls: Calls::default(),
        gate: Arc::default(),
        answers: Box::new(answers),
    })
}

impl Fixture<Gated> {
    fn calls(&self) -> Vec<Vec<(i32, i64, u32)>> {
        self.shared.handler.calls.lock().clone()
    }
}

#[tokio::test]
async fn a_message_that_was_taken_before_the_drain_does_not_begin_after_it() {
    for in_order in [false, true] {
        let mut fixture = fixture("", stop_at_once(), |_| Ok(()));
        if in_order {
            fixture = fixture.in_order(CommitResult::Committed);
        }
        // The pump has not looked for queued messages yet.
        let taken = [7, 8].map(|offset| fixture.message(offset, "{}"));
        fixture.partition.drain(true);
        for delivery in taken {
            fixture.process_alone(delivery).await.unwrap();
        }
        assert!(fixture.steps().is_empty(), "{:?}", fixture.steps());
        assert_eq!(fixture.partition.committable(), Some(7));
        assert_eq!(fixture.partition.in_flight(), 0);
        assert_eq!(
            fixture.processed("", "orders", false),
            (0.0, 0.0),
            "it counts as if it had not been taken"
        );
    }
}

#[tokio::test]
async fn a_message_that_does_not_come_again_is_handled_while_its_partition_drains() {
    let fixture = fixture("", stop_at_once(), |_| Ok(()));
    let taken = fixture.message(7, "{}");
    fixture.partition.drain(false);
    fixture.process_alone(taken).await.unwrap();
    fixture.process_batch(&["{}"; 2]).await.unwrap();
    assert_eq!(fixture.steps().len(), 3);
    fixture.partition.revoke();
    let late = fixture.message(9, "{}");
    fixture.process_alone(late).await.unwrap();
    assert_eq!(fixture.steps().len(), 3, "it has another owner");
}

#[tokio::test]
async fn what_is_in_hand_neither_begins_nor_goes_back_to_the_queue_after_a_drain() {
    let mut fixture = fixture("", stop_at_once(), |_| Ok(()));
    fixture.seat.queue = Arc::new(WorkQueue::new(100, usize::MAX, Arc::default()));
    let mut messages = (0..6).map(|n| fixture.message(n, "{}")).collect();
    fixture.seat.queue.put(&mut messages);
    let mut hand = fixture.shared.hand();
    hand.was_at_once();
    let first = hand.next(&fixture.seat).await.unwrap();
    assert_eq!(fixture.seat.queue.load().0, 0, "the others are in hand");
    fixture.partition.drain(true);
    let second = hand.next(&fixture.seat).await.unwrap();
    for delivery in [first, second] {
        let work = fixture.shared.process(delivery, &fixture.seat, &mut hand);
        work.await.unwrap();
    }
    hand.pass_on(&fixture.seat);
    assert!(fixture.steps().is_empty());
    assert_eq!(fixture.seat.queue.load().0, 0);
    assert_eq!(fixture.partition.in_flight(), 0);
    assert_eq!(fixture.partition.committable(), Some(0));
}

#[tokio::test]
async fn a_batch_that_was_taken_before_the_drain_does_not_begin_after_it() {
    let fixture = fixture("", stop_at_once(), |_| Ok(()));
    let other = partition(&fixture.shared.metrics, 2);
    let taken = (0..6).map(|n| match n % 2 {
        0 => fixture.message(n, "{}"),
        _ => fixture.message_of(&other, n, "{}"),
    });
    let taken = taken.collect();
    fixture.partition.drain(true);
    let work = fixture.shared.process_batch(taken, &fixture.seat);
    work.await.unwrap();
    assert_eq!(fixture.steps().len(), 3, "{:?}", fixture.steps());
    assert_eq!(fixture.partition.committable(), Some(0));
    assert_eq!(fixture.partition.in_flight(), 0);
    assert_eq!(other.committable(), Some(6));
    assert_eq!(
        fixture.processed("", "orders", false),
        (0.0, 0.0),
        "they count as if they had not been taken"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_order_starts_nothing_when_a_drain_ends_a_backoff() {
    let fixture = fixture("", patient(5), |message| match message.offset() {
        0 => Err(HandlerError::retryable("down")),
        _ => Ok(()),
    })
    .in_order(CommitResult::Committed);
    let work = fixture.process_batch(&["{}"; 10]);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    let began = Instant::now();
    fixture.partition.drain(true);
    work.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let steps = fixture.steps();
    assert_eq!(steps.len(), 10, "one call and no commit: {steps:?}");
    assert_eq!(fixture.partition.commit_point().unwrap().offset, 0);
    assert_eq!(fixture.partition.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_order_commits_the_prefix_before_what_a_drain_abandons() {
    let fixture = fixture("", patient(5), |message| match message.offset() {
        2 => Err(HandlerError::retryable("down")),
        _ => Ok(()),
    })
    .in_order(CommitResult::Committed);
    let work = fixture.process_batch(&["{}", "{}", "{}", "no json", "{}"]);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    fixture.partition.drain(true);
    work.await.unwrap();
    assert_eq!(fixture.steps().last().unwrap(), "commit 2");
    let point = fixture.partition.commit_point().unwrap();
    assert_eq!(point.offset, 2);
    let gaps = Gaps::decode(point.metadata.as_bytes(), 2).unwrap().unwrap();
    let complete = (2..5).filter(|offset| gaps.is_complete(*offset));
    assert_eq!(complete.count(), 0, "all behind it comes again: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_abandons_all_messages_that_wait_for_another_attempt_at_once() {
    let fixture = fixture("", patient(5), failing);
    let work = fixture.process_batch(&["{}"; 40]);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    let began = Instant::now();
    fixture.partition.drain(true);
    work.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(fixture.steps().len(), 40, "one call");
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(0.0));
    assert_eq!(fixture.partition.in_flight(), 0);
    let point = fixture.partition.commit_point().unwrap();
    let gaps = Gaps::decode(point.metadata.as_bytes(), 0).unwrap().unwrap();
    assert!(gaps.attempts().iter().all(|(_, made)| *made == 1));
    assert_eq!((point.offset, gaps.attempts().len()), (0, 40));
}

#[tokio::test(start_paused = true)]
async fn the_other_partitions_of_a_batch_wait_for_their_own_backoff() {
    for in_order in [false, true] {
        let mut fixture = gated(patient(2), failing);
        fixture.shared.in_order = in_order;
        let other = partition(&fixture.shared.metrics, 2);
        let taken = vec![
            fixture.message_of(&other, 0, "{}"),
            fixture.message(0, "{}"),
        ];
        let work = fixture.shared.process_batch(taken, &fixture.seat);
        tokio::pin!(work);
        fixture.shared.handler.gate.notify_one();
        assert!((&mut work).now_or_never().is_none());
        let failed = Instant::now();
        tokio::time::advance(BACKOFF / 2).await;
        fixture.partition.drain(true);
        assert!((&mut work).now_or_never().is_none());
        assert_eq!(fixture.calls(), [[(2, 0, 1), (1, 0, 1)]]);
        assert_eq!(fixture.partition.in_flight(), 0, "abandoned");
        fixture.shared.handler.gate.notify_one();
        work.await.unwrap();
        assert!(failed.elapsed() >= BACKOFF, "{:?}", failed.elapsed());
        assert_eq!(fixture.calls()[1..], [[(2, 0, 2)]]);
        assert_eq!(fixture.partition.committable(), Some(0));
        assert_eq!(other.committable(), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_order_commits_and_releases_a_partition_that_drains_at_once() {
    let fixture = gated(patient(2), |message| {
        match (message.partition(), message.offset()) {
            (1, 1) => Err(HandlerError::retryable("down")),
            _ => Ok(()),
        }
    })
    .in_order(CommitResult::Committed);
    let other = partition(&fixture.shared.metrics, 2);
    let taken = vec![
        fixture.message_of(&other, 0, "{}"),
        fixture.message(0, "{}"),
        fixture.message(1, "{}"),
        fixture.message_of(&other, 1, "{}"),
    ];
    let (shared, seat) = (Arc::new(fixture.shared), fixture.seat);
    let gate = Arc::clone(&shared.handler.gate);
    let work = tokio::spawn(async move { shared.process_batch(taken, &seat).await });
    gate.notify_one();
    while fixture
        .partition
        .commit_point()
        .unwrap()
        .metadata
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    let failed = Instant::now();
    fixture.partition.drain(true);
    while fixture.partition.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(failed.elapsed(), Duration::ZERO);
    assert_eq!(fixture.partition.committable(), Some(1));
    assert_eq!(*fixture.steps.lock(), ["commit 1"]);
    assert_eq!(other.committable(), Some(0));
    gate.notify_one();
    work.await.unwrap().unwrap();
    assert_eq!(failed.elapsed(), Duration::ZERO, "only 1 had failed");
    assert_eq!(other.committable(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn each_message_of_a_batch_waits_for_its_own_backoff() {
    let mut policy = patient(2);
    policy.initial = Duration::from_millis(100);
    let began = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let fixture = fixture("", policy, move |message| {
        let elapsed = began.elapsed().as_millis();
        seen.lock().push((elapsed, message.offset()));
        let asked = Duration::from_millis([0, 150, 10_000][message.offset() as usize]);
        match message.attempt() {
            1 => Err(HandlerError::retryable("down").after(asked)),
            _ => Ok(()),
        }
    });
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    assert_eq!(
        times.lock()[3..],
        [(150, 0), (150, 1), (10_000, 2)],
        "those that are due soon after each other go together"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revocation_voids_the_verdicts_on_its_partition_and_leaves_the_call() {
    let fixture = gated(patient(2), |_| Ok(()));
    let other = partition(&fixture.shared.metrics, 2);
    let mut taken: Vec<_> = (0..3).map(|n| fixture.message(n, "{}")).collect();
    taken.extend((0..3).map(|n| fixture.message_of(&other, n, "{}")));
    let work = fixture.shared.process_batch(taken, &fixture.seat);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    fixture.partition.revoke();
    assert!((&mut work).now_or_never().is_none(), "the call goes on");
    fixture.shared.handler.gate.notify_one();
    work.await.unwrap();
    assert_eq!(fixture.calls().len(), 1, "nothing is given twice");
    assert_eq!(fixture.partition.committable(), Some(0));
    assert_eq!(fixture.partition.in_flight(), 0);
    assert_eq!(other.committable(), Some(3));
    assert_eq!(fixture.processed("", "orders", true), (3.0, 3.0));
}

#[tokio::test(start_paused = true)]
async fn in_order_what_a_handler_did_not_come_to_costs_no_attempt_though_the_first_is_void() {
    // It stops at the first of several messages, and handles one.
    let policy = attempts(1, FailureAction::Skip);
    let mut fixture = gated_batches(policy, |messages| match messages.len() {
        1 => vec![Ok(Done::default())],
        _ => vec![Err(HandlerError::retryable("no"))],
    });
    fixture.shared.in_order = true;
    let other = partition(&fixture.shared.metrics, 2);
    let taken = vec![
        fixture.message(0, "{}"),
        fixture.message_of(&other, 0, "{}"),
    ];
    let work = fixture.shared.process_batch(taken, &fixture.seat);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    fixture.partition.revoke();
    fixture.shared.handler.gate.notify_one();
    assert!((&mut work).now_or_never().is_none(), "it is given again");
    fixture.shared.handler.gate.notify_one();
    work.await.unwrap();
    assert_eq!(fixture.calls()[1..], [vec![(2, 0, 1)]]);
    assert_eq!(other.committable(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_when_all_its_partitions_are_revoked() {
    let fixture = gated(patient(2), |_| Ok(()));
    let other = partition(&fixture.shared.metrics, 2);
    let taken = vec![
        fixture.message(0, "{}"),
        fixture.message_of(&other, 0, "{}"),
    ];
    let work = fixture.shared.process_batch(taken, &fixture.seat);
    tokio::pin!(work);
    assert!((&mut work).now_or_never().is_none());
    other.revoke();
    assert!((&mut work).now_or_never().is_none());
    fixture.partition.revoke();
    work.await.unwrap();
    for partition in [&fixture.partition, &other] {
        assert_eq!(partition.committable(), Some(0));
        assert_eq!(partition.in_flight(), 0);
    }
}

#[tokio::test]
async fn what_was_done_in_the_same_call_as_a_failure_that_ends_the_consumer_counts() {
    let fixture = fixture("", stop_at_once(), |message| match message.offset() {
        1 => Err(HandlerError::permanent("poison")),
        3 => Err(HandlerError::permanent("poison too")),
        _ => Ok(()),
    });
    let failure = fixture.process_batch(&["{}"; 5]).await.unwrap_err();
    assert!(failure.to_string().contains("offset 1"), "{failure}");
    let point = fixture.partition.commit_point().unwrap();
    let gaps = Gaps::decode(point.metadata.as_bytes(), 1).unwrap().unwrap();
    let open: Vec<_> = (1..5).filter(|it| !gaps.is_complete(*it)).collect();
    assert_eq!((point.offset, open), (1, vec![1, 3]));
    assert_eq!(fixture.partition.lowest_unsettled(), Some(1));
}
