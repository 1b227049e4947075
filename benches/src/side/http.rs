//! The reference for Http: a bare client of the same server, without Kafka.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::{Failed, Work};
use crate::meter::Meter;
use crate::workload;

/// As many connections as requests in flight, each kept alive, each with one
/// request after the other. A request has the bytes of one of ours on the wire, and
/// is made once: the client does nothing but send it and read the answer.
pub async fn pair(work: &Work, meter: &Arc<Meter>) -> Result<(), Failed> {
    let request = request(&work.topic, work.value_size)?;
    let mut clients = JoinSet::new();
    for _ in 0..work.handlers {
        let sender = connect(work).await?;
        clients.spawn(send(sender, request.clone(), Arc::clone(meter)));
    }
    while let Some(client) = clients.join_next().await {
        client.map_err(Failed::other)??;
    }
    Ok(())
}

/// The request that our side makes of a message: the same headers with values as long.
fn request(topic: &str, value_size: usize) -> Result<Request<Full<Bytes>>, Failed> {
    Request::post("/")
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-type", "dev.penstock.kafka.message")
        .header("ce-source", format!("/kafka/topics/{topic}"))
        .header("ce-id", format!("{topic}-3-123456"))
        .header("ce-time", "2026-01-01T12:00:00.123Z")
        .header("ce-kafkatopic", topic)
        .header("ce-kafkapartition", "3")
        .header("ce-kafkaoffset", "123456")
        .header("ce-kafkaepoch", "1")
        .header("ce-partitionkey", workload::key(0))
        .header("ce-attempt", "1")
        .header("ce-attemptdeadline", "2026-01-01T12:00:30.123Z")
        .body(Full::new(workload::value(0, value_size).into()))
        .map_err(Failed::other)
}

async fn connect(work: &Work) -> Result<SendRequest<Full<Bytes>>, Failed> {
    match (&work.socket, work.port) {
        (Some(socket), _) => open(UnixStream::connect(socket).await?).await,
        (None, Some(port)) => {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            open(stream).await
        }
        (None, None) => Err(Failed::other("neither --port nor --socket is given")),
    }
}

async fn open<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Failed>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What breaks the connection is reported by the request that meets it.
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    meter: Arc<Meter>,
) -> Result<(), Failed> {
    loop {
        sender.ready().await?;
        let answer = sender.send_request(request.clone()).await?;
        if !answer.status().is_success() {
            return Err(Failed::other(format_args!("status {}", answer.status())));
        }
        answer.into_body().collect().await?;
        if !meter.count() {
            return Ok(());
        }
    }
}
