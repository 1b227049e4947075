//! Connections of a recorder.

use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{self, End, Request};
use super::reply::{Action, Reply};
use super::{Delivery, Log, Verdict};
use crate::Position;
use crate::sync::lock;

pub(super) type Behaviour = Arc<dyn Fn(&Delivery) -> Reply + Send + Sync>;

/// What connections have in common.
pub(super) struct Shared {
    pub(super) log: Mutex<Log>,
    pub(super) behaviour: Mutex<Behaviour>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            behaviour: Mutex::new(Arc::new(|_| Reply::ok())),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

pub(super) async fn accept_tcp(
    listener: TcpListener,
    shared: Arc<Shared>,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(Ok((stream, _))) = cancel.run_until_cancelled(listener.accept()).await {
        // Without this an answer may wait for the acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        spawn(stream, &shared, &cancel, &tasks);
    }
}

pub(super) async fn accept_unix(
    listener: UnixListener,
    shared: Arc<Shared>,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(Ok((stream, _))) = cancel.run_until_cancelled(listener.accept()).await {
        spawn(stream, &shared, &cancel, &tasks);
    }
}

fn spawn(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: &Arc<Shared>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    let number = {
        let mut log = lock(&shared.log);
        log.connections += 1;
        log.connections - 1
    };
    let (shared, cancel) = (Arc::clone(shared), cancel.clone());
    tasks.spawn(async move {
        let connection = Connection {
            stream,
            buffer: BytesMut::new(),
            number,
            shared,
        };
        cancel.run_until_cancelled(connection.serve()).await;
    });
}

struct Connection<S> {
    stream: S,
    buffer: BytesMut,
    number: usize,
    shared: Arc<Shared>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn serve(mut self) {
        loop {
            let request = http::read_request(&mut self.stream, &mut self.buffer).await;
            let delivery = request.and_then(|request| self.delivery(request));
            let goes_on = match delivery {
                Ok(delivery) => self.handle(delivery).await,
                Err(End::Closed) => return,
                Err(End::Malformed(why)) => {
                    lock(&self.shared.log).malformed.push(why);
                    // What follows on this connection can't be told apart.
                    let _ = self.write(&http::answer(400, &[], b"")).await;
                    return;
                }
            };
            if goes_on.is_err() {
                return;
            }
        }
    }

    fn delivery(&self, request: Request) -> Result<Delivery, End> {
        let topic: String = parse(&request, "ce-kafkatopic")?;
        let partition = parse(&request, "ce-kafkapartition")?;
        let offset = parse(&request, "ce-kafkaoffset")?;
        let key = request.headers.get("ce-partitionkey");
        Ok(Delivery {
            position: Position::new(topic, partition, offset),
            key: key.map(|key| http::percent_decode(key)),
            attempt: parse(&request, "ce-attempt")?,
            method: request.method,
            path: request.path,
            headers: request.headers,
            body: request.body,
            connection: self.number,
            start: Instant::now(),
            end: None,
            verdict: Verdict::Open,
        })
    }

    /// Records one delivery and answers it. An error ends the connection.
    async fn handle(&mut self, delivery: Delivery) -> io::Result<()> {
        let behaviour = Arc::clone(&lock(&self.shared.behaviour));
        let reply = behaviour(&delivery);
        let number = lock(&self.shared.log).begin(delivery);
        let mut open = OpenDelivery::new(Arc::clone(&self.shared), number);

        if !self.wait_for_turn(&reply).await {
            open.end(Verdict::Abandoned);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match reply.action {
            Action::Answer {
                status,
                headers,
                body,
            } => {
                open.end(Verdict::Answered(status));
                self.write(&http::answer(status, &headers, &body)).await?;
                match reply.closes {
                    true => Err(io::ErrorKind::ConnectionAborted.into()),
                    false => Ok(()),
                }
            }
            Action::Hang => {
                self.client_left().await;
                open.end(Verdict::Abandoned);
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Action::Close => {
                open.end(Verdict::Broken);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Action::Garbage => {
                open.end(Verdict::Broken);
                self.write(b"\x00\x01 not HTTP at all\r\n\r\n").await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Action::Truncated => {
                open.end(Verdict::Broken);
                self.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all")
                    .await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Waits for the reply's delay and gate; false when the client leaves first.
    async fn wait_for_turn(&mut self, reply: &Reply) -> bool {
        if reply.delay.is_zero() && reply.gate.is_none() {
            return true;
        }
        let turn = async {
            sleep(reply.delay).await;
            if let Some(gate) = &reply.gate {
                gate.passed().await;
            }
        };
        tokio::select! {
            () = turn => true,
            () = self.client_left() => false,
        }
    }

    /// Ends when the client closes the connection. What it sends before is kept.
    async fn client_left(&mut self) {
        while let Ok(1..) = self.stream.read_buf(&mut self.buffer).await {}
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

fn parse<T: FromStr>(request: &Request, name: &str) -> Result<T, End> {
    let text = request
        .headers
        .get(name)
        .ok_or_else(|| End::Malformed(format!("{} without {name}", request.method)))?;
    text.parse()
        .map_err(|_| End::Malformed(format!("{name} is {text:?}")))
}

/// A delivery that gets a verdict in any case, even when the recorder goes down
/// while it waits.
pub(super) struct OpenDelivery {
    shared: Arc<Shared>,
    number: Option<usize>,
}

impl OpenDelivery {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self {
            shared,
            number: Some(number),
        }
    }

    pub(super) fn end(&mut self, verdict: Verdict) {
        if let Some(number) = self.number.take() {
            lock(&self.shared.log).end(number, verdict);
        }
    }
}

impl Drop for OpenDelivery {
    fn drop(&mut self) {
        self.end(Verdict::Broken);
    }
}
