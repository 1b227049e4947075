//! The library's own server half, at the other end.

use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::serve::{Delivered, Server};
use super::*;

/// Offsets in the order in which they were handled.
type Begun = Arc<Mutex<Vec<i64>>>;

/// Serves a handler that answers by the message's value. It stops with the guard.
fn serve(fixture: &Fixture) -> (Begun, DropGuard) {
    let begun = Begun::default();
    let noted = Arc::clone(&begun);
    let handle = move |message: Delivered| {
        noted.lock().push(message.offset);
        async move {
            match message.value.as_deref() {
                Some(b"retry") => Err(HandlerError::retryable("not yet")),
                Some(b"fail") => Err(HandlerError::permanent("never")),
                Some(b"skip") => Err(HandlerError::skip("not ours")),
                _ => Ok(()),
            }
        }
    };
    let stop = CancellationToken::new();
    let server = Server::unix(fixture.socket()).run(handle, stop.clone());
    tokio::spawn(async { server.await.unwrap() });
    (begun, stop.drop_guard())
}

/// Messages with these partitions, keys and values, at the offsets from 0 on.
fn records(messages: &[(i32, Option<&str>, &str)]) -> Vec<Record> {
    let records = (0..)
        .zip(messages)
        .map(|(offset, (partition, key, value))| {
            Record::from(OwnedRecord {
                topic: "orders".into(),
                partition: *partition,
                offset,
                key: key.map(Into::into),
                payload: Some((*value).into()),
                ..OwnedRecord::default()
            })
        });
    records.collect()
}

#[tokio::test]
async fn what_follows_a_failure_of_its_key_is_not_begun() {
    let fixture = fixture("KeyOrdered", "30s");
    let (begun, _stop) = serve(&fixture);
    let given = fixture.give_records(records(&[
        (0, Some("a"), "retry"),
        (0, Some("a"), ""),
        (0, Some("b"), ""),
        // Another partition's keys are others.
        (1, Some("a"), "skip"),
        (0, Some("a"), ""),
        (1, Some("a"), "fail"),
        (1, Some("a"), ""),
        (0, Some(""), "retry"),
        // No key is not the empty key.
        (0, None, "retry"),
        (0, None, ""),
    ]));
    let kinds = kinds(&verdicts(given).await);
    let retry = Err(FailureKind::Retryable);
    assert_eq!(kinds[..3], [retry, retry, Ok(())]);
    assert_eq!(kinds[3..5], [Err(FailureKind::Skip), retry]);
    assert_eq!(kinds[5..7], [Err(FailureKind::Permanent), retry]);
    assert_eq!(kinds[7..], [retry, retry, Ok(())]);
    let mut begun = begun.lock().clone();
    begun.sort_unstable();
    assert_eq!(begun, [0, 2, 3, 5, 7, 8, 9]);
}

#[tokio::test]
async fn in_order_nothing_is_begun_behind_a_failure() {
    let fixture = fixture("InOrder", "30s");
    let (begun, _stop) = serve(&fixture);
    let given = fixture.give_records(records(&[
        (0, Some("a"), ""),
        (0, Some("b"), "skip"),
        (0, Some("c"), ""),
    ]));
    assert_eq!(
        kinds(&verdicts(given).await),
        [Ok(()), Err(FailureKind::Skip), Err(FailureKind::Retryable)]
    );
    assert_eq!(*begun.lock(), [0, 1]);
}
