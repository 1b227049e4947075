//! What waits in the handler, and what has begun.

use v1::cancel::Reason;
use v1::verdict::Outcome;
use v1::{Extension, FromHandler, Range, Release, Retry, Skip};

use super::*;

/// A stream of a handler that reports what begins.
async fn open(fixture: &Fixture, credits: u32) -> (Scripted, Call) {
    let mut server = Scripted::start(fixture.socket());
    let (up, call) = tokio::join!(fixture.handler.wait_until_up(LIMIT), async {
        let call = server.call().await;
        call.welcome(credits);
        call
    });
    up.unwrap();
    (server, call)
}

fn range(first_id: u64, count: u64) -> Range {
    Range { first_id, count }
}

fn record(partition: i32, offset: i64) -> Record {
    Record::from(OwnedRecord {
        topic: "orders".into(),
        partition,
        offset,
        ..OwnedRecord::default()
    })
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

const RETURNED: Result<(), FailureKind> = Err(FailureKind::NotAttempted);
const LATE: Result<(), FailureKind> = Err(FailureKind::Retryable);

#[tokio::test(start_paused = true)]
async fn a_message_may_wait_far_longer_than_an_attempt_may_take() {
    let fixture = fixture("Fast", "5s");
    let (_server, mut call) = open(&fixture, 10).await;
    assert_eq!((call.hello.timeout_ms, call.hello.wait_ms), (5000, 60_000));
    let given = fixture.give(0..4);
    let batch = call.batch().await;
    for place in 0..4 {
        // Each takes nearly all the time of an attempt.
        call.begin(batch.first_id + place, 1);
        seconds(4).await;
        call.settle(batch.first_id + place, 1, done());
    }
    assert!(verdicts(given).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn only_the_attempt_that_takes_too_long_is_cancelled_and_charged() {
    let fixture = fixture("Fast", "5s");
    let (_server, mut call) = open(&fixture, 10).await;
    let given = fixture.give(0..3);
    let first = call.batch().await.first_id;
    seconds(20).await;
    call.begin(first + 1, 1);
    let cancel = call.cancel().await;
    assert_eq!(cancel.reason(), Reason::TimedOut);
    assert_eq!(cancel.deliveries, [range(first + 1, 1)]);
    call.settle(first, 1, done());
    call.settle(first + 2, 1, done());
    let verdicts = verdicts(given).await;
    assert_eq!(kinds(&verdicts), [Ok(()), LATE, Ok(())]);
    assert_eq!(reason(&verdicts), "the handler took longer than 5s");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_begin_in_time_comes_again_as_the_same_attempt() {
    let fixture = fixture("Fast", "90s");
    let (_server, mut call) = open(&fixture, 10).await;
    let given = fixture.give(0..3);
    let first = call.batch().await.first_id;
    call.begin(first, 1);
    seconds(60).await;
    call.settle(first, 1, done());
    seconds(31).await;
    let cancel = call.cancel().await;
    assert_eq!(cancel.reason(), Reason::NotBegun);
    assert_eq!(cancel.deliveries, [range(first + 1, 2)]);
    assert_eq!(kinds(&verdicts(given).await), [Ok(()), RETURNED, RETURNED]);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_no_attempt_and_may_ask_for_a_delay() {
    let fixture = fixture("Fast", "5s");
    let (_server, mut call) = open(&fixture, 10).await;
    let given = fixture.give(0..2);
    let first = call.batch().await.first_id;
    let release = Release {
        reason: "stops".into(),
        delay_ms: 700,
    };
    call.settle(first, 2, Outcome::Release(release));
    let verdicts = verdicts(given).await;
    assert_eq!(kinds(&verdicts), [RETURNED; 2]);
    let error = verdicts[0].as_ref().unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_millis(700)));
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_ask_for_more_time() {
    let fixture = extended("Fast", "5s", "maxTimeout: 20s");
    let (_server, mut call) = open(&fixture, 10).await;
    assert_eq!(call.hello.max_timeout_ms, 20_000);
    let given = fixture.give(0..1);
    let first = call.batch().await.first_id;
    let began = tokio::time::Instant::now();
    call.begin(first, 1);
    for _ in 0..6 {
        seconds(3).await;
        call.say(FromHandler {
            extensions: vec![Extension {
                deliveries: Some(range(first, 1)),
                time_ms: 4000,
            }],
            ..FromHandler::default()
        });
    }
    assert_eq!(call.cancel().await.reason(), Reason::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 20);
    assert_eq!(kinds(&verdicts(given).await), [LATE]);
}

#[tokio::test(start_paused = true)]
async fn in_order_nothing_begins_behind_an_attempt_that_takes_too_long() {
    for (mode, keys, charged, withdrawn) in [
        (
            "InOrder",
            [Some("a"), Some("b"), Some("a"), None],
            1,
            vec![(1, 1), (2, 2)],
        ),
        (
            "KeyOrdered",
            [Some("a"), Some("b"), Some("a"), None],
            0,
            vec![(0, 1), (2, 1)],
        ),
    ] {
        let fixture = fixture(mode, "5s");
        let (_server, mut call) = open(&fixture, 10).await;
        let records = (0..).zip(keys).map(|(offset, key)| {
            Record::from(OwnedRecord {
                topic: "orders".into(),
                offset,
                key: key.map(Into::into),
                ..OwnedRecord::default()
            })
        });
        let given = fixture.give_records(records.collect());
        let first = call.batch().await.first_id;
        if charged > 0 {
            call.settle(first, charged as u64, done());
        }
        call.begin(first + charged as u64, 1);
        let withdrawn = withdrawn.into_iter();
        let withdrawn = withdrawn.map(|(from, count)| range(first + from, count));
        let mut cancels = Vec::new();
        for reason in [Reason::TimedOut, Reason::NotBegun] {
            let cancel = call.cancel().await;
            assert_eq!(cancel.reason(), reason, "{mode}");
            cancels.extend(cancel.deliveries);
        }
        assert_eq!(cancels, withdrawn.collect::<Vec<_>>(), "{mode}");
        call.settle(first, 4, done());
        let kinds = kinds(&verdicts(given).await);
        assert_eq!(kinds[charged], LATE, "{mode}");
        assert_eq!(kinds[2], RETURNED, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_order_a_skip_continues_as_done_does() {
    let fixture = fixture("InOrder", "5s");
    let (_server, mut call) = open(&fixture, 2).await;
    let given = fixture.give(0..4);
    let skip = || Outcome::Skip(Skip::default());
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1]);
    call.settle(batch.first_id, 1, skip());
    call.settle(batch.first_id + 1, 1, done());
    call.grant(2);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [2, 3], "nothing is sent twice");
    call.settle(batch.first_id, 2, skip());
    let skipped = Err(FailureKind::Skip);
    assert_eq!(
        kinds(&verdicts(given).await),
        [skipped, Ok(()), skipped, skipped]
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_without_a_handshake_that_ends_a_batch_at_a_skip_gets_the_rest_again() {
    let fixture = fixture("InOrder", "5s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..3);
    let mut call = server.call().await;
    call.grant(10);
    let first = call.batch().await.first_id;
    call.settle(first, 1, Outcome::Skip(Skip::default()));
    call.settle(first + 1, 2, Outcome::Retry(Retry::default()));
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [1, 2]);
    call.settle(batch.first_id, 2, done());
    assert_eq!(
        kinds(&verdicts(given).await),
        [Err(FailureKind::Skip), Ok(()), Ok(())]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_more_of_a_partition_that_drains_is_sent() {
    let fixture = fixture("Fast", "5s");
    let (_server, mut call) = open(&fixture, 2).await;
    let records = (0..6).map(|offset| record(i32::from(offset % 2 == 1), offset));
    let records: Vec<_> = records.collect();
    let drains: Vec<_> = records
        .iter()
        .step_by(2)
        .map(|it| Arc::clone(it.assignment()))
        .collect();
    let given = fixture.give_records(records);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1]);
    drains.iter().for_each(|partition| partition.drain(true));
    call.settle(batch.first_id, 2, done());
    call.grant(10);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [3, 5]);
    call.settle(batch.first_id, 2, done());
    let all = [Ok(()), Ok(()), RETURNED, Ok(()), RETURNED, Ok(())];
    assert_eq!(kinds(&verdicts(given).await), all);
}

#[tokio::test(start_paused = true)]
async fn in_order_a_message_before_one_that_drains_is_still_sent() {
    let fixture = fixture("InOrder", "5s");
    let (_server, mut call) = open(&fixture, 1).await;
    let records = [(0, 0), (0, 1), (1, 9), (0, 2)];
    let records = records.map(|(partition, offset)| record(partition, offset));
    let drains = Arc::clone(records[2].assignment());
    let given = fixture.give_records(records.into());
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0]);
    drains.drain(true);
    call.settle(batch.first_id, 1, done());
    call.grant(10);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [1]);
    call.settle(batch.first_id, 1, done());
    // What is behind it comes again with it.
    assert_eq!(kinds(&verdicts(given).await), [Ok(()), Ok(()), RETURNED]);
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_has_of_a_revoked_partition_is_withdrawn() {
    for mode in ["Fast", "InOrder"] {
        let fixture = fixture(mode, "5s");
        let (_server, mut call) = open(&fixture, 10).await;
        let records = [(0, 0), (1, 9), (0, 1), (1, 10)];
        let records = records.map(|(partition, offset)| record(partition, offset));
        let revoked = [1, 3].map(|place: usize| Arc::clone(records[place].assignment()));
        let given = fixture.give_records(records.into());
        let batch = call.batch().await;
        let first = batch.first_id;
        call.begin(first, 1);
        revoked.iter().for_each(|partition| partition.revoke());
        // It goes on with the other partition.
        let mut cancelled = Vec::new();
        while cancelled.len() < 2 {
            let cancel = call.cancel().await;
            assert_eq!(cancel.reason(), v1::cancel::Reason::Revoked);
            let ids = cancel.deliveries.iter();
            cancelled.extend(ids.flat_map(|range| range.first_id..range.first_id + range.count));
        }
        cancelled.sort_unstable();
        assert_eq!(cancelled, [first + 1, first + 3], "{mode}");
        call.settle(first, 1, done());
        call.settle(first + 2, 1, done());
        let all = [Ok(()), RETURNED, Ok(()), RETURNED];
        assert_eq!(kinds(&verdicts(given).await), all, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_the_handler_are_kept() {
    let fixture = fixture("Fast", "5s");
    let mut server = Scripted::start(fixture.socket());
    let records = [10, 10, 900, 5000, 10, 10].into_iter().zip(0..);
    let records = records.map(|(size, offset)| {
        Record::from(OwnedRecord {
            topic: "orders".into(),
            offset,
            payload: Some(vec![0; size]),
            ..OwnedRecord::default()
        })
    });
    let given = fixture.give_records(records.collect());
    let mut call = server.call().await;
    call.say(FromHandler {
        credits: 100,
        welcome: Some(v1::Welcome {
            version: 2,
            max_batch: 3,
            max_message_bytes: 1000,
            features: vec![v1::Feature::Begun.into()],
            ..v1::Welcome::default()
        }),
        ..FromHandler::default()
    });
    for expected in [vec![0, 1], vec![2], vec![4, 5]] {
        let batch = call.batch().await;
        assert_eq!(offsets(&batch), expected);
        call.settle(batch.first_id, expected.len() as u64, done());
    }
    let verdicts = verdicts(given).await;
    assert_eq!(kinds(&verdicts)[3], Err(FailureKind::Permanent));
    assert!(reason(&verdicts).ends_with("raise the handler's limit for received messages"));
    assert_eq!(verdicts.iter().filter(|it| it.is_ok()).count(), 5);
}
