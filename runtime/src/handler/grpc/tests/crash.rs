//! Streams that break while messages are at work.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use tonic::Status;

use super::*;

const CHARGED: Result<(), FailureKind> = Err(FailureKind::Retryable);
const RETURNED: Result<(), FailureKind> = Err(FailureKind::NotAttempted);

/// What is to happen happens within this time, or never.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// How a process dies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Death {
    /// After it has reported all that it was sent as begun.
    Reported,
    /// Before it could report that the poison began; others had been reported.
    Sudden,
    /// Before it could report anything.
    Silent,
}

/// A handler's process that dies of some messages. It says done if it lives.
pub(super) async fn mortal(mut server: Scripted, poison: BTreeSet<i64>, death: Death) {
    loop {
        let mut call = server.call().await;
        call.welcome(1000);
        loop {
            let Some(batch) = call.batch_if_open().await else {
                return;
            };
            let offsets = offsets(&batch);
            for (id, offset) in (batch.first_id..).zip(&offsets) {
                let is_reported = match death {
                    Death::Reported => true,
                    Death::Sudden => !poison.contains(offset),
                    Death::Silent => false,
                };
                if is_reported {
                    call.begin(id, 1);
                }
            }
            if offsets.iter().any(|offset| poison.contains(offset)) {
                call.break_off(Status::unavailable("killed"));
                break;
            }
            call.settle(batch.first_id, offsets.len() as u64, done());
        }
    }
}

/// Ends a process, and waits until it has left its socket.
pub(super) async fn end(process: JoinHandle<()>) {
    process.abort();
    // It was cancelled.
    let _ = process.await;
}

/// Gives a batch until each message has another verdict than that it was not attempted.
/// Returns how often each was charged by then.
pub(super) async fn charges(
    fixture: &Fixture,
    mut offsets: Vec<i64>,
    attempts: u32,
) -> BTreeMap<i64, u32> {
    let mut charged = BTreeMap::new();
    for _ in 0..100 {
        if offsets.is_empty() {
            return charged;
        }
        let given = tokio::time::timeout(LONG, fixture.give(offsets.clone())).await;
        let verdicts = given.expect("the batch ends").unwrap();
        let mut rest = Vec::new();
        for (offset, kind) in offsets.into_iter().zip(kinds(&verdicts)) {
            match kind {
                Ok(()) => {}
                RETURNED => rest.push(offset),
                _ => {
                    let count = charged.entry(offset).or_insert(0);
                    *count += 1;
                    if *count < attempts {
                        rest.push(offset);
                    }
                }
            }
        }
        offsets = rest;
    }
    panic!("{offsets:?} never ends");
}

#[tokio::test(start_paused = true)]
async fn exactly_the_poison_is_charged() {
    let deaths = [Death::Reported, Death::Sudden, Death::Silent];
    let poisons = [BTreeSet::from([7]), BTreeSet::from([0, 13])];
    for (death, poison) in deaths
        .into_iter()
        .flat_map(|it| poisons.clone().map(|is| (it, is)))
    {
        let fixture = fixture("Fast", "30s");
        let server = Scripted::start(fixture.socket());
        let process = tokio::spawn(mortal(server, poison.clone(), death));
        let both = tokio::join!(
            charges(&fixture, (0..10).collect(), 3),
            charges(&fixture, (10..20).collect(), 3),
        );
        let charged: BTreeMap<_, _> = both.0.into_iter().chain(both.1).collect();
        let expected = poison.into_iter().map(|offset| (offset, 3));
        assert_eq!(charged, expected.collect(), "{death:?}");
        end(process).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_poison_is_found_though_its_streams_last_long() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    tokio::spawn(async move {
        loop {
            // It opens its pools for longer than a stream that ends at once lasts.
            let mut call = server.call().await;
            call.welcome(0);
            tokio::time::sleep(Duration::from_secs(12)).await;
            call.grant(1000);
            while let Some(v1::from_runtime::Message::Batch(batch)) = call.next_if_open().await {
                let sent = offsets(&batch);
                if sent.contains(&2) {
                    call.break_off(Status::unavailable("killed"));
                    break;
                }
                call.settle(batch.first_id, sent.len() as u64, done());
            }
        }
    });
    let charged = charges(&fixture, (0..4).collect(), 2).await;
    assert_eq!(charged, BTreeMap::from([(2, 2)]));
}

#[tokio::test(start_paused = true)]
async fn what_had_not_begun_costs_no_attempt() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    for (begins, kind) in [(false, RETURNED), (true, CHARGED)] {
        let given = fixture.give(0..2);
        let mut call = server.call().await;
        call.welcome(10);
        let first = call.batch().await.first_id;
        call.settle(first, 1, done());
        if begins {
            call.begin(first + 1, 1);
        }
        call.break_off(Status::unavailable("killed"));
        let verdicts = verdicts(given).await;
        assert_eq!(kinds(&verdicts), [Ok(()), kind]);
        let reason = verdicts[1].as_ref().unwrap_err().reason();
        assert!(
            reason.starts_with("the stream to the handler broke: "),
            "{reason}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn suspects_go_alone_while_all_else_waits() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..2);
    let mut call = server.call().await;
    call.welcome(10);
    let first = call.batch().await.first_id;
    call.begin(first, 2);
    call.break_off(Status::unavailable("killed"));
    assert_eq!(kinds(&verdicts(given).await), [RETURNED; 2]);
    // Both again, and others at the same time.
    let suspects = fixture.give(0..2);
    let mut call = server.call().await;
    call.welcome(10);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0]);
    let others = fixture.give(5..7);
    tokio::time::sleep(Duration::from_secs(1)).await;
    call.settle(batch.first_id, 1, done());
    // Whichever is next, the other suspect is alone.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let batch = call.batch().await;
        seen.push(offsets(&batch));
        call.settle(batch.first_id, offsets(&batch).len() as u64, done());
    }
    seen.sort();
    assert_eq!(seen, [vec![1], vec![5, 6]]);
    assert!(verdicts(suspects).await.iter().all(Result::is_ok));
    assert!(verdicts(others).await.iter().all(Result::is_ok));
    // With their verdicts they are suspects no longer.
    let given = fixture.give(0..2);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [0, 1]);
    call.settle(batch.first_id, 2, done());
    assert!(verdicts(given).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_can_not_be_read_is_found_too() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    tokio::spawn(async move {
        loop {
            let mut call = server.call().await;
            call.welcome(1000);
            while let Some(v1::from_runtime::Message::Batch(batch)) = call.next_if_open().await {
                let sent = offsets(&batch);
                let produce = vec![v1::Record {
                    value: Some(vec![0; 65 << 20].into()),
                    ..v1::Record::default()
                }];
                let too_long = v1::verdict::Outcome::Done(v1::Done { produce });
                call.begin(batch.first_id, sent.len() as u64);
                if let Some(place) = sent.iter().position(|offset| *offset == 2) {
                    call.settle(batch.first_id + place as u64, 1, too_long);
                    break;
                }
                call.settle(batch.first_id, sent.len() as u64, done());
            }
            // Open until the runtime has seen it.
            while call.next_if_open().await.is_some() {}
        }
    });
    let charged = charges(&fixture, (0..4).collect(), 2).await;
    assert_eq!(charged, BTreeMap::from([(2, 2)]));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_is_too_long_fails_alone() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..3);
    let mut call = server.call().await;
    call.welcome(10);
    let first = call.batch().await.first_id;
    let produce = vec![v1::Record {
        value: Some(vec![0; 17 << 20].into()),
        ..v1::Record::default()
    }];
    let too_long = v1::verdict::Outcome::Done(v1::Done { produce });
    call.settle(first + 1, 1, too_long);
    call.settle(first, 1, done());
    call.settle(first + 2, 1, done());
    let verdicts = verdicts(given).await;
    assert_eq!(
        kinds(&verdicts),
        [Ok(()), Err(FailureKind::Permanent), Ok(())]
    );
}

#[tokio::test(start_paused = true)]
async fn where_there_is_an_order_calls_of_a_broken_stream_are_waited_for() {
    for (mode, restarts, waits) in [
        ("InOrder", false, true),
        ("KeyOrdered", false, true),
        ("Fast", false, false),
        // A process that was gone has no call left.
        ("InOrder", true, false),
    ] {
        let fixture = fixture(mode, "30s");
        let mut server = Some(Scripted::start(fixture.socket()));
        let given = fixture.give([0]);
        let mut call = server.as_mut().unwrap().call().await;
        call.welcome(10);
        let first = call.batch().await.first_id;
        call.begin(first, 1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        call.break_off(Status::unavailable("a proxy timed out"));
        if restarts {
            server = None;
        }
        assert_eq!(kinds(&verdicts(given).await), [CHARGED]);
        let broke = Instant::now();
        let given = fixture.give([0]);
        if restarts {
            tokio::time::sleep(Duration::from_secs(1)).await;
            server = Some(Scripted::start(fixture.socket()));
        }
        let mut call = server.as_mut().unwrap().call().await;
        call.welcome(10);
        if waits {
            tokio::time::sleep_until(broke + Duration::from_secs(19)).await;
        }
        let batch = call.batch().await;
        let waited = broke.elapsed().as_secs();
        assert_eq!(waited >= 20, waits, "{mode} {restarts}: {waited}");
        call.settle(batch.first_id, 1, done());
        assert_eq!(kinds(&verdicts(given).await), [Ok(())]);
    }
}
