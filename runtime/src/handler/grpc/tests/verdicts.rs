//! What becomes of messages.

use v1::cancel::Reason;
use v1::verdict::Outcome;
use v1::{DeadLetter, Done, Fail, FromHandler, Range, Retry, Skip, Verdict};

use super::*;
use crate::handler::produce::ProducerRecord;

/// A stream with enough credits.
async fn open(fixture: &Fixture) -> (Scripted, Call) {
    let mut server = Scripted::start(fixture.socket());
    let (up, call) = tokio::join!(fixture.handler.wait_until_up(LIMIT), async {
        let call = server.call().await;
        call.grant(1000);
        call
    });
    up.unwrap();
    (server, call)
}

#[tokio::test]
async fn each_message_gets_its_verdict() {
    let fixture = fixture("Fast", "30s");
    let (_server, mut call) = open(&fixture).await;
    assert_eq!(
        (call.hello.group.as_str(), call.hello.max_batch),
        ("shop.orders", 50)
    );
    let given = fixture.give(0..6);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1, 2, 3, 4, 5]);
    let outcomes = [
        Outcome::Retry(Retry {
            reason: "busy".into(),
            delay_ms: 1500,
        }),
        Outcome::Skip(Skip::default()),
        Outcome::DeadLetter(DeadLetter::default()),
        Outcome::Fail(Fail::default()),
    ];
    for (id, outcome) in (batch.first_id + 2..).zip(outcomes) {
        call.settle(id, 0, outcome);
    }
    call.settle(batch.first_id, 2, done());
    let verdicts = verdicts(given).await;
    assert_eq!(
        kinds(&verdicts),
        [
            Ok(()),
            Ok(()),
            Err(FailureKind::Retryable),
            Err(FailureKind::Skip),
            Err(FailureKind::DeadLetter),
            Err(FailureKind::Permanent),
        ]
    );
    let busy = verdicts[2].as_ref().unwrap_err();
    assert_eq!(busy.reason(), "busy");
    assert_eq!(busy.retry_after(), Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn records_to_produce_go_with_one_delivery() {
    let fixture = fixture("Fast", "30s");
    let (_server, mut call) = open(&fixture).await;
    let given = fixture.give(0..3);
    let batch = call.batch().await;
    let produce = vec![v1::Record {
        topic: "out".into(),
        value: Some("x".into()),
        ..v1::Record::default()
    }];
    let with_records = || {
        Outcome::Done(Done {
            produce: produce.clone(),
        })
    };
    call.settle(batch.first_id, 1, with_records());
    call.settle(batch.first_id + 1, 2, with_records());
    let verdicts = verdicts(given).await;
    let failed = Err(FailureKind::Permanent);
    assert_eq!(kinds(&verdicts), [Ok(()), failed, failed]);
    let record = ProducerRecord::new("out", "x");
    assert_eq!(verdicts[0], Ok(record.into()));
}

#[tokio::test]
async fn what_has_no_verdict_in_time_is_cancelled_and_the_rest_counts() {
    let fixture = fixture("Fast", "200ms");
    let (_server, mut call) = open(&fixture).await;
    let given = fixture.give(0..6);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    call.settle(batch.first_id + 3, 1, done());
    let verdicts = verdicts(given).await;
    let late = Err(FailureKind::Retryable);
    assert_eq!(kinds(&verdicts), [Ok(()), late, late, Ok(()), late, late]);
    assert_eq!(reason(&verdicts), "the handler took longer than 200ms");
    let cancel = call.cancel().await;
    assert_eq!(cancel.reason(), Reason::TimedOut);
    let range = |first_id, count| Range { first_id, count };
    let first = batch.first_id;
    assert_eq!(
        cancel.deliveries,
        [range(first + 1, 2), range(first + 4, 2)]
    );
}

#[tokio::test]
async fn a_late_verdict_changes_nothing() {
    let fixture = fixture("Fast", "200ms");
    let (_server, mut call) = open(&fixture).await;
    let late = fixture.give([0]);
    let late_batch = call.batch().await;
    assert_eq!(kinds(&verdicts(late).await), [Err(FailureKind::Retryable)]);
    call.cancel().await;
    let given = fixture.give([0]);
    let batch = call.batch().await;
    assert_ne!(batch.first_id, late_batch.first_id);
    call.settle(late_batch.first_id, 1, Outcome::Fail(Fail::default()));
    call.settle(batch.first_id, 1, done());
    assert_eq!(kinds(&verdicts(given).await), [Ok(())]);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let fixture = fixture("Fast", "30s");
    let (_server, mut call) = open(&fixture).await;
    let given = fixture.give(0..3);
    let batch = call.batch().await;
    call.settle(batch.first_id + 1, 1, done());
    // Whether that has come by now makes no difference to what is void.
    given.abort();
    let cancel = call.cancel().await;
    assert_eq!(cancel.reason(), Reason::Revoked);
    let void: u64 = cancel.deliveries.iter().map(|range| range.count).sum();
    assert!((2..=3).contains(&void), "{cancel:?}");
}

#[tokio::test]
async fn verdicts_on_what_nobody_sent_change_nothing() {
    let fixture = fixture("Fast", "30s");
    let (_server, mut call) = open(&fixture).await;
    let given = fixture.give(0..3);
    let batch = call.batch().await;
    let first = batch.first_id;
    let absurd = [
        (0, 0),
        (first + 3, u64::MAX),
        (u64::MAX, u64::MAX),
        (first + 1000, 7),
    ];
    for (first_id, count) in absurd {
        call.settle(first_id, count, Outcome::Fail(Fail::default()));
    }
    // The first word on a delivery counts.
    call.settle(first + 1, 1, done());
    call.settle(0, u64::MAX, Outcome::Skip(Skip::default()));
    assert_eq!(
        kinds(&verdicts(given).await),
        [Err(FailureKind::Skip), Ok(()), Err(FailureKind::Skip)]
    );
}

#[tokio::test]
async fn a_verdict_without_a_known_outcome_may_pass() {
    let fixture = fixture("Fast", "30s");
    let (_server, mut call) = open(&fixture).await;
    let given = fixture.give([0]);
    let first_id = call.batch().await.first_id;
    let verdict = Verdict {
        first_id,
        ..Verdict::default()
    };
    call.say(FromHandler {
        verdicts: vec![verdict],
        ..FromHandler::default()
    });
    assert_eq!(kinds(&verdicts(given).await), [Err(FailureKind::Retryable)]);
}

#[tokio::test]
async fn in_order_nothing_is_sent_behind_a_failure() {
    let fixture = fixture("InOrder", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..6);
    let mut call = server.call().await;
    assert_eq!(call.hello.order(), v1::Order::Batch);
    call.grant(3);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1, 2]);
    call.grant(100);
    call.settle(batch.first_id, 2, done());
    call.settle(batch.first_id + 2, 1, Outcome::Retry(Retry::default()));
    let verdicts = verdicts(given).await;
    assert_eq!(
        kinds(&verdicts),
        [Ok(()), Ok(()), Err(FailureKind::Retryable)],
        "no verdict behind the failure"
    );
}
