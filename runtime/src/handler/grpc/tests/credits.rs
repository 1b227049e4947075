//! The handler is never given more than it has granted.

use tokio::time::Instant;
use v1::FromHandler;

use super::*;

#[tokio::test]
async fn a_slow_handler_is_never_flooded() {
    const WINDOW: u32 = 10;
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given: Vec<_> = (0..20)
        .map(|batch| fixture.give(batch * 50..(batch + 1) * 50))
        .collect();
    let mut call = server.call().await;
    call.grant(WINDOW);
    let (mut credits, mut handled) = (WINDOW as usize, 0);
    while handled < 1000 {
        let batch = call.batch().await;
        let count = offsets(&batch).len();
        assert!(count <= credits, "{count} with {credits} credits");
        (credits, handled) = (credits - count, handled + count);
        call.settle(batch.first_id, count as u64, done());
        if credits == 0 {
            // All that there can be has come; only now is room made.
            credits = WINDOW as usize;
            call.grant(WINDOW);
        }
    }
    for given in given {
        assert!(verdicts(given).await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn time_spent_waiting_for_credits_is_no_part_of_an_attempt() {
    let fixture = fixture("Fast", "1s");
    let mut server = Scripted::start(fixture.socket());
    let started = Instant::now();
    let given = fixture.give(0..20);
    let mut call = server.call().await;
    // Twice the timeout in all, yet each message is quick and the handler goes on.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        call.grant(1);
        let batch = call.batch().await;
        call.settle(batch.first_id, 1, done());
    }
    assert!(verdicts(given).await.iter().all(Result::is_ok));
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn credits_beyond_all_measure_are_no_limit() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..3);
    let mut call = server.call().await;
    for _ in 0..10 {
        call.grant(u32::MAX);
    }
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1, 2]);
    call.settle(batch.first_id, 3, done());
    assert!(verdicts(given).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn long_messages_go_in_several_batches() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let long = |offset| OwnedRecord {
        topic: "orders".into(),
        offset,
        payload: Some(vec![0; CHUNK_BYTES / 2]),
        ..OwnedRecord::default()
    };
    let given = fixture.give_records((0..3).map(|offset| Record::from(long(offset))).collect());
    let mut call = server.call().await;
    call.grant(100);
    for offset in 0..3 {
        let batch = call.batch().await;
        assert_eq!(offsets(&batch), [offset]);
        call.say(FromHandler {
            credits: 1,
            verdicts: vec![v1::Verdict {
                first_id: batch.first_id,
                count: 1,
                outcome: Some(done()),
            }],
            ..FromHandler::default()
        });
    }
    assert!(verdicts(given).await.iter().all(Result::is_ok));
}
