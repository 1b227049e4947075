//! Several messages of one key in a call.

use v1::verdict::Outcome;
use v1::{Retry, Skip};

use super::*;

/// Gives messages with these keys, at the offsets from 0 on, as one call.
fn give(fixture: &Fixture, keys: &[Option<&str>]) -> JoinHandle<Verdicts> {
    let records = (0..).zip(keys).map(|(offset, key)| {
        Record::from(OwnedRecord {
            topic: "orders".into(),
            offset,
            key: key.map(Into::into),
            ..OwnedRecord::default()
        })
    });
    fixture.give_records(records.collect())
}

const A: Option<&str> = Some("a");
const B: Option<&str> = Some("b");

const LATE: Result<(), FailureKind> = Err(FailureKind::Retryable);
const RETURNED: Result<(), FailureKind> = Err(FailureKind::NotAttempted);

async fn open(timeout: &str, credits: u32) -> (Fixture, Scripted, Call) {
    let fixture = fixture("KeyOrdered", timeout);
    let mut server = Scripted::start(fixture.socket());
    let (up, call) = tokio::join!(fixture.handler.wait_until_up(LIMIT), async {
        let call = server.call().await;
        call.grant(credits);
        call
    });
    up.unwrap();
    assert_eq!(call.hello.order(), v1::Order::Key);
    (fixture, server, call)
}

#[tokio::test]
async fn nothing_is_sent_behind_a_failure_of_its_key() {
    let (fixture, _server, mut call) = open("30s", 3).await;
    let given = give(&fixture, &[A, None, B, A, None, B, A]);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1, 2]);
    let retry = || Outcome::Retry(Retry::default());
    call.settle(batch.first_id, 2, retry());
    call.settle(batch.first_id + 2, 1, Outcome::Skip(Skip::default()));
    call.grant(100);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [4, 5], "a skip lets others go on");
    call.settle(batch.first_id, 2, done());
    let skipped = Err(FailureKind::Skip);
    assert_eq!(
        kinds(&verdicts(given).await),
        [LATE, LATE, skipped, RETURNED, Ok(()), Ok(()), RETURNED]
    );
}

#[tokio::test]
async fn the_time_that_those_before_it_took_is_no_failure_of_a_message() {
    let (fixture, _server, mut call) = open("200ms", 100).await;
    let given = give(&fixture, &[A, B, A, A, B, None]);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    call.cancel().await;
    // Where nothing is reported, those that were first of their keys began.
    assert_eq!(
        kinds(&verdicts(given).await),
        [Ok(()), LATE, RETURNED, RETURNED, RETURNED, LATE]
    );
}
