//! The library's own server half, at the other end.

use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use penstock_handler::{Delivered, Server};

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
    let returned = Err(FailureKind::NotAttempted);
    assert_eq!(kinds[..3], [retry, returned, Ok(())]);
    assert_eq!(kinds[3..5], [Err(FailureKind::Skip), returned]);
    assert_eq!(kinds[5..7], [Err(FailureKind::Permanent), returned]);
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
        (0, Some("c"), "retry"),
        (0, Some("d"), ""),
    ]));
    let kinds = kinds(&verdicts(given).await);
    assert_eq!(kinds[..2], [Ok(()), Err(FailureKind::Skip)]);
    assert_eq!(kinds[2], Err(FailureKind::Retryable));
    assert!(kinds[3..].iter().all(Result::is_err));
    assert_eq!(*begun.lock(), [0, 1, 2]);
}

/// Serves a function with some lanes. It stops with the token.
fn serve_with(
    fixture: &Fixture,
    concurrency: usize,
    handle: impl penstock_handler::Handle,
) -> CancellationToken {
    let stop = CancellationToken::new();
    let server = Server::unix(fixture.socket()).concurrency(concurrency);
    let server = server.run(handle, stop.clone());
    tokio::spawn(async { server.await.unwrap() });
    stop
}

const RETURNED: Result<(), FailureKind> = Err(FailureKind::NotAttempted);

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_verdict_wherever_it_comes() {
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("in its end");
        }
    }
    let fixture = fixture("InOrder", "5s");
    let handle = |message: Delivered| {
        let value = message.value.unwrap_or_default();
        assert_ne!(value, "making", "in the making");
        async move {
            assert_ne!(value, "step", "in a step");
            if value == "end" {
                let _panics = PanicsInDrop;
                std::future::pending::<()>().await;
            }
            Ok::<(), HandlerError>(())
        }
    };
    let _stop = serve_with(&fixture, 1, handle);
    for value in ["making", "", "step", "", "end", ""] {
        let given = fixture.give_records(records(&[(0, None, value)]));
        let expected = match value {
            "" => Ok(()),
            _ => Err(FailureKind::Retryable),
        };
        assert_eq!(kinds(&verdicts(given).await), [expected], "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_is_dropped_and_its_siblings_continue() {
    let fixture = fixture("Fast", "5s");
    let (sender, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |message: Delivered| {
        let sender = sender.clone();
        async move {
            let offset = message.offset;
            let _guard = scopeguard(move || _ = sender.send(offset));
            if offset == 1 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok::<(), HandlerError>(())
        }
    };
    let _stop = serve_with(&fixture, 2, handle);
    // With two lanes, the last two begin when the time of the first is over.
    let verdicts = verdicts(fixture.give(0..6)).await;
    let late = Err(FailureKind::Retryable);
    assert_eq!(
        kinds(&verdicts),
        [Ok(()), late, Ok(()), Ok(()), Ok(()), Ok(())]
    );
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(dropped.recv().await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
}

/// Calls a function when it is dropped.
fn scopeguard(end: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}

#[tokio::test(start_paused = true)]
async fn at_a_stop_calls_finish_and_what_waits_is_released() {
    let fixture = fixture("Fast", "30s");
    let (sender, mut began) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |message: Delivered| {
        let _ = sender.send(message.offset);
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<(), HandlerError>(())
        }
    };
    let stop = serve_with(&fixture, 2, handle);
    let given = fixture.give(0..4);
    let mut first = vec![began.recv().await.unwrap(), began.recv().await.unwrap()];
    first.sort_unstable();
    assert_eq!(first, [0, 1]);
    stop.cancel();
    assert_eq!(
        kinds(&verdicts(given).await),
        [Ok(()), Ok(()), RETURNED, RETURNED]
    );
    assert!(began.try_recv().is_err(), "none began after the stop");
}

#[tokio::test]
async fn what_can_not_begin_in_time_is_released() {
    // By the clock on the wall, which does not stand still.
    let fixture = extended("Fast", "30s", "waitTimeout: 200ms");
    let handle = async |_: Delivered| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<(), HandlerError>(())
    };
    let _stop = serve_with(&fixture, 1, handle);
    let verdicts = verdicts(fixture.give(0..2)).await;
    assert_eq!(kinds(&verdicts), [Ok(()), RETURNED]);
    assert_eq!(reason(&verdicts), "the handler could not begin it in time");
}
