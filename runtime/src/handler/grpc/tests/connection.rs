//! Streams that end, and handlers that are not there.

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use super::server::service;
use super::*;

#[tokio::test]
async fn a_broken_stream_charges_none_of_several_that_had_begun() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give(0..5);
    let mut call = server.call().await;
    call.grant(3);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    call.break_off(Status::internal("out of luck"));
    let mut call = server.call().await;
    call.grant(10);
    let batch = call.batch().await;
    assert_eq!(offsets(&batch), [3, 4], "what was never sent");
    assert!(
        batch.runs[0]
            .deliveries
            .iter()
            .all(|delivery| delivery.attempt == 1)
    );
    call.settle(batch.first_id, 2, done());
    let verdicts = verdicts(given).await;
    let returned = Err(FailureKind::NotAttempted);
    assert_eq!(
        kinds(&verdicts),
        [Ok(()), returned, returned, Ok(()), Ok(())]
    );
    assert!(
        reason(&verdicts).contains("out of luck"),
        "{}",
        reason(&verdicts)
    );
}

#[tokio::test]
async fn what_a_stream_that_ends_in_order_leaves_costs_no_attempt() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    for _ in 0..2 {
        let given = fixture.give(0..3);
        let mut call = server.call().await;
        call.grant(10);
        let batch = call.batch().await;
        assert_eq!(offsets(&batch), [0, 1, 2]);
        call.settle(batch.first_id + 1, 1, done());
        drop(call);
        let verdicts = verdicts(given).await;
        let returned = Err(FailureKind::NotAttempted);
        assert_eq!(kinds(&verdicts), [returned, Ok(()), returned]);
    }
}

#[tokio::test]
async fn a_handler_that_goes_away_breaks_the_stream_and_is_found_again() {
    let fixture = fixture("Fast", "30s");
    let mut server = Scripted::start(fixture.socket());
    let given = fixture.give([0]);
    let mut call = server.call().await;
    call.grant(10);
    call.batch().await;
    let connection = call;
    drop(server);
    connection.break_off(Status::unavailable("gone"));
    assert_eq!(kinds(&verdicts(given).await), [Err(FailureKind::Retryable)]);
    let given = fixture.give([0]);
    let mut server = Scripted::start(fixture.socket());
    let mut call = server.call().await;
    call.grant(10);
    let batch = call.batch().await;
    call.settle(batch.first_id, 1, done());
    assert_eq!(kinds(&verdicts(given).await), [Ok(())]);
}

#[tokio::test]
async fn a_handler_that_is_down_is_named() {
    let fixture = fixture("Fast", "30s");
    let limit = Duration::from_millis(100);
    let error = fixture.handler.wait_until_up(limit).await.unwrap_err();
    let expected = format!(
        "no connection to the handler at {} within 100ms: No such file or directory (os error 2)",
        fixture.socket().display()
    );
    assert_eq!(error.reason(), expected);
}

#[tokio::test]
async fn a_handler_is_up_once_its_health_says_so() {
    let fixture = fixture("Fast", "30s");
    let (sender, calls) = mpsc::unbounded_channel();
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
    let router = Server::builder()
        .add_service(health_service)
        .add_service(service(sender));
    let mut server = Scripted::start_with(fixture.socket(), router, calls);
    let error = fixture
        .handler
        .wait_until_up(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(
        error.reason().ends_with("its health is NOT_SERVING"),
        "{error}"
    );
    let up = tokio::join!(fixture.handler.wait_until_up(LIMIT), async {
        health.set_service_status("", ServingStatus::Serving).await;
        server.call().await.grant(1);
    });
    up.0.unwrap();
}

#[tokio::test]
async fn a_server_of_something_else_is_refused_at_once() {
    let fixture = fixture("Fast", "30s");
    let (_, calls) = mpsc::unbounded_channel();
    let (_health, health_service) = tonic_health::server::health_reporter();
    let router = Server::builder().add_service(health_service);
    let _server = Scripted::start_with(fixture.socket(), router, calls);
    let error = fixture.handler.wait_until_up(LIMIT).await.unwrap_err();
    let expected = "the handler does not serve penstock.handler.v1.Handler";
    assert!(error.reason().starts_with(expected), "{error}");
    assert_eq!(error.kind(), FailureKind::Permanent);
}

#[tokio::test]
async fn a_server_that_speaks_no_http_2_is_refused_in_time() {
    let fixture = fixture("Fast", "30s");
    let listener = UnixListener::bind(fixture.socket()).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Whether it still wants to know does not matter.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = fixture
        .handler
        .wait_until_up(Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(
        error.reason().starts_with("no connection to the handler"),
        "{error}"
    );
}
