//! Verdicts that say that no attempt was made: the message comes again, as the same attempt.

use std::sync::atomic::{AtomicU32, Ordering};

use super::keys::{handled, put, work_off, work_off_in_batches};
use super::*;

/// Does not begin a message so often, and then fails it once.
fn reluctant(
    offset: i64,
    times: u32,
) -> impl Fn(&Message<'_, Value>) -> Result<(), HandlerError> + Send + Sync + 'static {
    let count = AtomicU32::new(0);
    move |message: &Message<'_, Value>| {
        if message.offset() != offset {
            return Ok(());
        }
        match count.fetch_add(1, Ordering::Relaxed) {
            given if given < times => Err(HandlerError::not_attempted("not yet")),
            given if given == times => Err(HandlerError::retryable("once")),
            _ => Ok(()),
        }
    }
}

/// More than there are attempts.
const TIMES: u32 = 5;

/// The calls for a message.
fn calls(steps: &[String], offset: i64) -> Vec<String> {
    let calls = handled(steps).into_iter().map(str::to_owned);
    let prefix = format!("{offset}#");
    calls.filter(|call| call.starts_with(&prefix)).collect()
}

const EXPECTED: [&str; 7] = ["1#1", "1#1", "1#1", "1#1", "1#1", "1#1", "1#2"];

/// Nothing was counted but the one attempt that failed.
fn check(fixture: &Fixture<impl Send>) {
    let steps = fixture.steps();
    let steps: Vec<_> = steps
        .into_iter()
        .filter(|step| step.starts_with("handle"))
        .collect();
    assert_eq!(calls(&steps, 1), EXPECTED);
    assert_eq!(fixture.metric("penstock_retries_total"), Some(1.0));
    assert_eq!(fixture.partition.committable(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_single_message_is_given_again_after_growing_pauses() {
    let fixture = fixture("", attempts(2, FailureAction::Stop), reluctant(1, TIMES));
    let began = Instant::now();
    for offset in 0..3 {
        fixture.process(offset, "{}").await.unwrap();
    }
    check(&fixture);
    // 10, 20, 40, 80 and 160 ms, less what jitter takes.
    let pauses = began.elapsed().as_millis();
    assert!((240..320).contains(&pauses), "{pauses}");
}

#[tokio::test(start_paused = true)]
async fn the_others_of_a_batch_are_not_given_again() {
    let fixture = fixture("", attempts(2, FailureAction::Stop), reluctant(1, TIMES));
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    check(&fixture);
    let steps = fixture.steps();
    assert_eq!(calls(&steps, 0).len() + calls(&steps, 2).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn in_order_nothing_behind_it_counts() {
    let policy = attempts(2, FailureAction::Stop);
    let fixture = fixture("", policy, reluctant(1, TIMES)).in_order(CommitResult::Committed);
    fixture.process_batch(&["{}"; 3]).await.unwrap();
    check(&fixture);
    let steps = fixture.steps();
    let last = steps.iter().rfind(|step| step.starts_with("handle"));
    assert!(last.unwrap().starts_with("handle 2#1"), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn its_key_waits_and_keeps_its_order() {
    for batches in [false, true] {
        let mut fixture = fixture("", attempts(2, FailureAction::Stop), reluctant(1, TIMES));
        put(&mut fixture, &["b", "a", "a"]);
        match batches {
            true => work_off_in_batches(&fixture).await,
            false => work_off(&fixture).await,
        }
        check(&fixture);
        let steps = fixture.steps();
        let last = handled(&steps).pop().map(str::to_owned);
        assert_eq!(last.as_deref(), Some("2#1"), "{steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_it_to_the_next_owner_with_its_attempts() {
    let not_now = |message: &Message<'_, Value>| {
        message.assignment().drain(true);
        Err(HandlerError::not_attempted("it drains"))
    };
    for batches in [false, true] {
        let fixture = fixture("", stop_at_once(), not_now);
        match batches {
            true => fixture.process_batch(&["{}"]).await.unwrap(),
            false => fixture.process(0, "{}").await.unwrap(),
        }
        assert_eq!(fixture.steps().len(), 1);
        assert_eq!(
            fixture.metric("penstock_abandoned_messages_total"),
            Some(1.0)
        );
        assert_eq!(fixture.partition.committable(), Some(0));
    }
}
