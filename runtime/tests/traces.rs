//! Spans: exported over OTLP where an endpoint is set.

mod common;

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Mock, wait_until};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A collector that keeps what it is sent and agrees to all.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let received = Arc::<Mutex<Vec<u8>>>::default();
    let keep = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, Arc::clone(&keep)));
        }
    });
    (endpoint, received)
}

async fn take(mut stream: TcpStream, keep: Arc<Mutex<Vec<u8>>>) {
    let mut request = Vec::new();
    while let Ok(read) = stream.read_buf(&mut request).await {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let length = text
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
        let head = request.windows(4).position(|end| end == b"\r\n\r\n");
        let complete = matches!((head, length), (Some(head), Some(length)) if request.len() >= head + 4 + length);
        if complete {
            keep.lock().append(&mut request);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
        if read == 0 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_the_pump_the_handler_and_the_commit_are_exported() {
    let (endpoint, received) = collector().await;
    let mock = Mock::new("orders", 1);
    mock.produce(3, 1).await;
    let handled = Arc::<AtomicUsize>::default();
    let port = handler(Arc::clone(&handled)).await;
    let mut manifest = tempfile::NamedTempFile::new().unwrap();
    let text = mock
        .manifest("InOrder", "")
        .replace("protocol: Embedded", &format!("port: {port}"));
    manifest.write_all(text.as_bytes()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock-runtime"))
        .arg("--config")
        .arg(manifest.path())
        .args([
            "--metrics-address",
            "127.0.0.1:0",
            "--health-address",
            "127.0.0.1:0",
        ])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .spawn()
        .unwrap();
    wait_until("three messages are handled", || {
        handled.load(Ordering::SeqCst) == 3
    })
    .await;
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    wait_until("the runtime ends", || child.try_wait().unwrap().is_some()).await;
    for expected in [
        "/v1/traces",
        "test",
        "kafka_consumer.group.pump",
        "kafka.consume",
        "kafka.work_queue_put",
        "kafka_consumer.group.handler",
        "kafka.commit",
        "kafka.topic",
        "kafka.partition",
        "kafka.offset",
        "kafka.timestamp",
        "kafka.key",
    ] {
        let received = received.lock();
        let found = received
            .windows(expected.len())
            .any(|window| window == expected.as_bytes());
        assert!(found, "{expected} was not exported");
    }
}

/// A handler that agrees to all and counts.
async fn handler(handled: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let router = axum::Router::new().fallback(move || {
        handled.fetch_add(1, Ordering::SeqCst);
        async { axum::http::StatusCode::NO_CONTENT }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}
