//! A handler that is away, silent or refused: the runtime waits, and charges nothing.

use futures_util::FutureExt as _;
use v1::from_runtime::Message as Said;

use super::*;

/// Longer than any message may take or wait.
const LONG: Duration = Duration::from_secs(1000);

fn lack(fixture: &Fixture) -> Option<Lack> {
    fixture.handler.availability().lack()
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_down_is_waited_for() {
    let fixture = fixture("Fast", "5s");
    let mut given = fixture.give([0]);
    tokio::time::sleep(LONG).await;
    assert!((&mut given).now_or_never().is_none());
    assert_eq!(lack(&fixture), Some(Lack::Connection));
    let mut server = Scripted::start(fixture.socket());
    let mut call = server.call().await;
    call.welcome(1);
    let batch = call.batch().await;
    assert_eq!(lack(&fixture), None);
    assert_eq!(batch.runs[0].deliveries[0].attempt, 1);
    call.settle(batch.first_id, 1, done());
    assert!(verdicts(given).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_grants_nothing_is_waited_for() {
    let fixture = fixture("Fast", "5s");
    let mut server = Scripted::start(fixture.socket());
    let mut given = fixture.give(0..3);
    let mut call = server.call().await;
    call.welcome(1);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    // Silent for far more than a timeout, and then a burst.
    tokio::time::sleep(LONG).await;
    let mut burst = fixture.give(10..20);
    tokio::time::sleep(LONG).await;
    assert!((&mut given).now_or_never().is_none());
    assert!((&mut burst).now_or_never().is_none());
    assert_eq!(lack(&fixture), Some(Lack::Credits));
    call.grant(100);
    for _ in 0..2 {
        let batch = call.batch().await;
        call.settle(batch.first_id, offsets(&batch).len() as u64, done());
    }
    assert!(verdicts(given).await.iter().all(Result::is_ok));
    assert!(verdicts(burst).await.iter().all(Result::is_ok));
    assert_eq!(lack(&fixture), None);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_reads_nothing_charges_nothing() {
    let fixture = fixture("Fast", "5s");
    let mut server = Scripted::start(fixture.socket());
    let long = |offset| OwnedRecord {
        topic: "orders".into(),
        offset,
        payload: Some(vec![0; CHUNK_BYTES]),
        ..OwnedRecord::default()
    };
    // Far more than the stream holds.
    let given: Vec<_> = (0..8)
        .map(|batch| {
            let records = (0..3).map(|place| Record::from(long(batch * 3 + place)));
            fixture.give_records(records.collect())
        })
        .collect();
    let mut call = server.call().await;
    call.welcome(1000);
    tokio::time::sleep(LONG).await;
    assert_eq!(lack(&fixture), Some(Lack::Reading));
    // Whatever was sent and did not begin is returned; the rest waits for room.
    tokio::spawn(async move {
        while let Some(said) = call.next_if_open().await {
            if let Said::Batch(batch) = said {
                call.settle(batch.first_id, offsets(&batch).len() as u64, done());
                call.grant(1);
            }
        }
    });
    for given in given {
        for kind in kinds(&verdicts(given).await) {
            assert!(
                matches!(kind, Ok(()) | Err(FailureKind::NotAttempted)),
                "{kind:?}"
            );
        }
    }
    assert_eq!(lack(&fixture), None);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_each_wait() {
    for lacking in [Lack::Connection, Lack::Credits, Lack::Handshake] {
        let fixture = fixture("KeyOrdered", "5s");
        let mut server = (lacking != Lack::Connection).then(|| Scripted::start(fixture.socket()));
        let record = Record::from(OwnedRecord {
            topic: "orders".into(),
            ..OwnedRecord::default()
        });
        let partition = Arc::clone(record.assignment());
        let given = fixture.give_records(vec![record]);
        if let Some(server) = &mut server {
            let call = server.call().await;
            match lacking {
                Lack::Credits => call.welcome(0),
                _ => call.say(v1::FromHandler {
                    welcome: Some(v1::Welcome::default()),
                    ..v1::FromHandler::default()
                }),
            }
            let calls = async {
                if lacking == Lack::Handshake {
                    loop {
                        server.call().await.say(v1::FromHandler {
                            welcome: Some(v1::Welcome::default()),
                            ..v1::FromHandler::default()
                        });
                    }
                }
                std::future::pending::<()>().await;
            };
            let limit = Duration::from_secs(60);
            assert!(tokio::time::timeout(limit, calls).await.is_err());
            // Until now: dropped, it ends the stream.
            drop(call);
        } else {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(lack(&fixture), Some(lacking));
        partition.drain(true);
        let kinds = kinds(&verdicts(given).await);
        assert_eq!(kinds, [Err(FailureKind::NotAttempted)], "{lacking:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_keep_the_order_is_refused_at_once() {
    let fixture = fixture("KeyOrdered", "5s");
    let mut server = Scripted::start(fixture.socket());
    let (up, ()) = tokio::join!(fixture.handler.wait_until_up(LIMIT), async {
        server.call().await.say(v1::FromHandler {
            credits: 100,
            welcome: Some(v1::Welcome {
                version: 2,
                sdk_name: "custom".into(),
                orders: vec![v1::Order::Batch.into()],
                ..v1::Welcome::default()
            }),
            ..v1::FromHandler::default()
        });
    });
    let error = up.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    assert_eq!(
        error.reason(),
        "the handler (custom) does not keep ORDER_KEY, which mode KeyOrdered needs; update the SDK, or choose another mode"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ends_each_stream_at_once_is_not_hammered() {
    let fixture = fixture("Fast", "5s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give([0]);
    let mut streams = 0;
    let ends = async {
        loop {
            server.call().await.welcome(0);
            streams += 1;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), ends)
            .await
            .is_err()
    );
    assert!((60..200).contains(&streams), "{streams}");
    let mut call = server.call().await;
    call.welcome(1);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    assert!(verdicts(given).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_returns_is_reported() {
    let fixture = fixture("InOrder", "5s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give([0]);
    let mut call = server.call().await;
    call.welcome(10);
    let first = call.batch().await.first_id;
    call.begin(first, 1);
    assert_eq!(kinds(&verdicts(given).await), [Err(FailureKind::Retryable)]);
    // The handler is alive, and its call is at the message still.
    assert_eq!(call.cancel().await.deliveries.len(), 1);
    let given = fixture.give([0]);
    call.batch().await;
    call.grant(1);
    let returned = tokio::time::timeout(LONG, given).await.expect("it ends");
    assert_eq!(kinds(&returned.unwrap()), [Err(FailureKind::NotAttempted)]);
    assert_eq!(lack(&fixture), Some(Lack::Beginning));
    // The call returns.
    assert_eq!(call.cancel().await.deliveries.len(), 1);
    let given = fixture.give([0]);
    let first = call.batch().await.first_id;
    call.begin(first, 1);
    call.settle(first, 1, done());
    assert!(verdicts(given).await[0].is_ok());
    assert_eq!(lack(&fixture), None);
}
