//! Several messages in one call.

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn a_batch_gives_each_message_its_own_verdict() {
    let fixture = fixture(
        "",
        attempts(2, FailureAction::Skip),
        |message| match message.offset() {
            1 => Err(HandlerError::permanent("poison")),
            2 if message.attempt() == 1 => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        },
    );
    fixture
        .process_batch(&["{}", "{}", "{}", "no json"])
        .await
        .unwrap();
    assert_eq!(fixture.processed("", "orders", true), (2.0, 2.0));
    assert_eq!(fixture.processed("", "orders", false), (2.0, 2.0));
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.metric("penstock_invalid_messages_total"), Some(1.0));
    assert_eq!(fixture.partition.committable(), Some(4));
    let steps = fixture.steps();
    assert!(steps.last().unwrap().starts_with("handle 2#2"), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_done_with_but_for_the_messages_that_wait_for_another_attempt() {
    let fixture = fixture("", attempts(2, FailureAction::Stop), |message| {
        match (message.offset(), message.attempt()) {
            (2, 1) => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        }
    });
    let work = fixture.process_batch(&["{}"; 4]);
    tokio::pin!(work);
    // It goes as far as it can, which is to the wait.
    assert!((&mut work).now_or_never().is_none());
    assert_eq!(fixture.processed("", "orders", true), (3.0, 3.0));
    assert_eq!(fixture.partition.committable(), Some(2));
    work.await.unwrap();
    assert_eq!(fixture.processed("", "orders", true), (4.0, 4.0));
    assert_eq!(fixture.partition.committable(), Some(4));
}

#[tokio::test]
async fn a_batch_in_order_goes_on_behind_a_message_that_was_given_up() {
    let fixture = fixture(
        "",
        attempts(1, FailureAction::Skip),
        |message| match message.offset() {
            1 => Err(HandlerError::permanent("poison")),
            _ => Ok(()),
        },
    )
    .in_order(CommitResult::Committed);
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    let steps = fixture.steps();
    let again = steps.iter().filter(|step| step.starts_with("handle 2#1"));
    assert_eq!(
        again.count(),
        2,
        "the verdict behind the failure does not count: {steps:?}"
    );
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
    assert_eq!(fixture.partition.committable(), Some(3));
}

#[tokio::test]
async fn a_batch_in_order_continues_after_a_message_that_the_handler_skips() {
    let skip = |message: &Message<'_, Value>| match message.offset() {
        1 => Err(HandlerError::skip("not ours")),
        _ => Ok(()),
    };
    let fixture = fixture("", stop_at_once(), skip).in_order(CommitResult::Committed);
    fixture.process_batch(&["{}"; 4]).await.unwrap();
    let calls: Vec<_> = fixture
        .steps()
        .iter()
        .map(|step| step.split(" active").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        calls,
        [
            "handle 0#1",
            "handle 1#1",
            "handle 2#1",
            "handle 3#1",
            "commit 4"
        ]
    );
    assert_eq!(fixture.metric("penstock_skipped_messages_total"), Some(1.0));
}

/// Takes longer than an attempt may, in steps that do not.
struct Slow {
    keeps_time: bool,
}

/// How long a step takes, and how many there are.
const STEP: Duration = Duration::from_secs(3);
const STEPS: u32 = 20;

impl BatchHandler<Value> for Slow {
    async fn handle_batch(
        &self,
        messages: &[Message<'_, Value>],
    ) -> Vec<Result<Done, HandlerError>> {
        self.handle_batch_alive(messages, &|| {}).await
    }

    async fn handle_batch_alive(
        &self,
        messages: &[Message<'_, Value>],
        alive: &(dyn Fn() + Sync),
    ) -> Vec<Result<Done, HandlerError>> {
        for _ in 0..STEPS {
            alive();
            tokio::time::sleep(STEP).await;
        }
        vec![Ok(Done::default()); messages.len()]
    }

    fn keeps_time(&self) -> bool {
        self.keeps_time
    }
}

/// A handler in place of the one that takes notes, and what the liveness probe looks at.
fn handled_by<H>(handler: H) -> (Fixture<H>, Arc<Progress>) {
    let policy = attempts(1, FailureAction::Skip);
    let progress = Progress::new(1);
    let mut fixture = fixture("", policy, |_| Ok(())).with_handler(handler);
    fixture.seat.busy = Busy::new(Arc::clone(&progress), 0);
    (fixture, progress)
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_given_up_after_the_time_of_an_attempt_unless_its_handler_keeps_the_time() {
    for keeps_time in [false, true] {
        let (slow, _) = handled_by(Slow { keeps_time });
        slow.process_batch(&["{}"; 2]).await.unwrap();
        let skipped = slow.metric("penstock_skipped_messages_total");
        assert_eq!(skipped, Some(if keeps_time { 0.0 } else { 2.0 }));
        let handled = slow.processed("", "orders", true).0;
        assert_eq!(handled, if keeps_time { 2.0 } else { 0.0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_keeps_the_time_and_gets_no_further_is_seen_by_the_liveness_probe() {
    struct Stuck;
    impl BatchHandler<Value> for Stuck {
        async fn handle_batch(&self, _: &[Message<'_, Value>]) -> Vec<Result<Done, HandlerError>> {
            std::future::pending().await
        }

        async fn handle_batch_alive(
            &self,
            messages: &[Message<'_, Value>],
            alive: &(dyn Fn() + Sync),
        ) -> Vec<Result<Done, HandlerError>> {
            alive();
            self.handle_batch(messages).await
        }

        fn keeps_time(&self) -> bool {
            true
        }
    }
    let minutes = Duration::from_secs(300);
    let (stuck, progress) = handled_by(Stuck);
    let mut work = Box::pin(stuck.process_batch(&["{}"; 2]));
    assert!((&mut work).now_or_never().is_none());
    tokio::time::advance(minutes).await;
    assert!((&mut work).now_or_never().is_none());
    assert_eq!(progress.longest_attempt(), Some(minutes));
    drop(work);
    assert_eq!(progress.longest_attempt(), None);

    // One that gets further is at no attempt for long.
    let (slow, progress) = handled_by(Slow { keeps_time: true });
    let work = slow.process_batch(&["{}"; 2]);
    tokio::pin!(work);
    for step in 0..STEPS {
        assert!((&mut work).now_or_never().is_none(), "step {step}");
        assert_eq!(
            progress.longest_attempt(),
            Some(Duration::ZERO),
            "step {step}"
        );
        tokio::time::advance(STEP).await;
    }
    work.await.unwrap();
}

#[tokio::test]
async fn a_batch_in_order_is_committed_up_to_the_message_that_failed() {
    let fixture = fixture("", stop_at_once(), |message| match message.offset() {
        2 => Err(HandlerError::permanent("poison")),
        _ => Ok(()),
    })
    .in_order(CommitResult::Committed);
    let failure = fixture.process_batch(&["{}"; 5]).await.unwrap_err();
    assert!(failure.to_string().contains("offset 2"), "{failure}");
    let steps = fixture.steps();
    assert_eq!(
        steps.last().unwrap(),
        "commit 2",
        "one commit for the prefix"
    );
    assert_eq!(fixture.partition.committable(), Some(2));
}

#[tokio::test]
async fn a_batch_in_order_gives_what_follows_a_failed_message_again() {
    let fixture = fixture("", attempts(2, FailureAction::Stop), |message| {
        match (message.offset(), message.attempt()) {
            (1, 1) => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        }
    })
    .in_order(CommitResult::Committed);
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    let handled: Vec<_> = fixture
        .steps()
        .iter()
        .map(|step| step.split(" active").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        handled,
        [
            "handle 0#1",
            "handle 1#1",
            "handle 2#1",
            "handle 1#2",
            "handle 2#1",
            "commit 3"
        ]
    );
}
