//! Handlers as they are, by the Rust SDK: whatever their pace, no message is charged without
//! cause.

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use penstock_handler::{Delivered, Server};

/// Serves a handler that waits until then, and as long as that.
fn serve(fixture: &Fixture, until: Instant, takes: Duration) -> DropGuard {
    let handle = move |_: Delivered| async move {
        tokio::time::sleep_until(until).await;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok::<(), HandlerError>(())
    };
    let stop = CancellationToken::new();
    let server = Server::unix(fixture.socket()).run(handle, stop.clone());
    tokio::spawn(async { server.await.unwrap() });
    stop.drop_guard()
}

/// Gives so many messages from this offset on, by eight workers in batches of 50. Returns
/// the number that was charged.
async fn charged(fixture: &Fixture, from: i64, count: i64) -> usize {
    let batches = (from..from + count).step_by(50);
    let given = iter(batches).map(|first| fixture.give(first..first + 50));
    let verdicts: Vec<_> = given.buffer_unordered(8).collect().await;
    let kinds = verdicts
        .iter()
        .flat_map(|verdicts| kinds(verdicts.as_ref().unwrap()));
    kinds.filter(Result::is_err).count()
}

#[tokio::test(start_paused = true)]
async fn a_flawless_handler_is_never_charged_whatever_its_pace() {
    for (takes, count) in [(0, 5000), (5, 3000), (50, 3000), (500, 1000)] {
        let fixture = fixture("Fast", "2s");
        let takes = Duration::from_millis(takes);
        let _stop = serve(&fixture, Instant::now(), takes);
        assert_eq!(charged(&fixture, 0, count).await, 0, "{takes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_charges_no_more_than_what_it_held_up() {
    let fixture = fixture("Fast", "10s");
    let until = Instant::now() + Duration::from_secs(16);
    let _stop = serve(&fixture, until, Duration::from_millis(5));
    // Sixteen calls run into their timeout; the next sixteen outlast the stall.
    assert_eq!(charged(&fixture, 0, 3000).await, 16);
}

#[tokio::test(start_paused = true)]
async fn a_burst_after_a_quiet_minute_is_charged_nothing() {
    let fixture = fixture("KeyOrdered", "2s");
    let _stop = serve(&fixture, Instant::now(), Duration::from_millis(50));
    assert_eq!(charged(&fixture, 0, 100).await, 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(charged(&fixture, 100, 2000).await, 0);
}
