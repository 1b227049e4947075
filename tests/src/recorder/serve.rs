//! Connections of a recorder.

use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
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
use super::{Delivery, Log, Verdict, batch};
use crate::Position;
use crate::sync::lock;

pub(super) type Behaviour = Arc<dyn Fn(&Delivery) -> Reply + Send + Sync>;

/// What connections have in common.
pub(super) struct Shared {
    pub(super) log: Mutex<Log>,
    pub(super) behaviour: Mutex<Behaviour>,
    /// Whether the messages of a batch are handled one after the other.
    pub(super) one_by_one: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            behaviour: Mutex::new(Arc::new(|_| Reply::ok())),
            one_by_one: AtomicBool::new(false),
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

/// What a request brings.
enum Received {
    One(Delivery),
    Batch(Vec<Delivery>),
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
            let goes_on = match request.and_then(|request| self.received(request)) {
                Ok(received) => self.handle(received).await,
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

    fn received(&self, request: Request) -> Result<Received, End> {
        let start = Instant::now();
        if !batch::is_batch(&request) {
            return Ok(Received::One(self.delivery(request, start)?));
        }
        let requests = batch::split(&request)?.into_iter();
        let deliveries: Result<_, _> = requests
            .map(|request| self.delivery(request, start))
            .collect();
        Ok(Received::Batch(deliveries?))
    }

    fn delivery(&self, request: Request, start: Instant) -> Result<Delivery, End> {
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
            start,
            end: None,
            verdict: Verdict::Open,
        })
    }

    /// Records what came in one request and answers it. An error ends the connection.
    async fn handle(&mut self, received: Received) -> io::Result<()> {
        let behaviour = Arc::clone(&lock(&self.shared.behaviour));
        let one_by_one = self.shared.one_by_one.load(Ordering::Relaxed);
        let received = match received {
            Received::Batch(deliveries) if one_by_one => {
                return self.handle_in_order(deliveries, &behaviour).await;
            }
            received => received,
        };
        let (replies, (action, verdicts), deliveries) = match received {
            Received::One(delivery) => {
                let reply = behaviour(&delivery);
                let outcome = (reply.action.clone(), vec![reply.action.verdict()]);
                (vec![reply], outcome, vec![delivery])
            }
            Received::Batch(deliveries) => {
                let replies: Vec<_> = deliveries.iter().map(|one| behaviour(one)).collect();
                let outcome = batch::outcome(&replies);
                (replies, outcome, deliveries)
            }
        };
        let mut open = OpenDelivery::all(&self.shared, deliveries);

        let answers = self.wait_for_turn(&replies).await;
        if answers && matches!(action, Action::Hang) {
            self.client_left().await;
        }
        if !answers || matches!(action, Action::Hang) {
            open.iter_mut().for_each(|one| one.end(Verdict::Abandoned));
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        for (one, verdict) in open.iter_mut().zip(verdicts) {
            one.end(verdict);
        }
        let closes = replies.iter().any(|reply| reply.closes);
        self.answer(action, closes).await
    }

    /// Handles a batch as InOrder has it: what follows a message that failed is not
    /// begun, and has no verdict.
    async fn handle_in_order(
        &mut self,
        deliveries: Vec<Delivery>,
        behaviour: &Behaviour,
    ) -> io::Result<()> {
        let mut replies = Vec::new();
        for mut delivery in deliveries {
            delivery.start = Instant::now();
            let reply = behaviour(&delivery);
            let number = lock(&self.shared.log).begin(delivery);
            let mut open = OpenDelivery::new(Arc::clone(&self.shared), number);
            if !self.wait_for_turn(std::slice::from_ref(&reply)).await {
                open.end(Verdict::Abandoned);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let verdict = reply.action.verdict();
            open.end(verdict);
            replies.push(reply);
            if !verdict.is_success() {
                break;
            }
        }
        let closes = replies.iter().any(|reply| reply.closes);
        self.answer(batch::outcome(&replies).0, closes).await
    }

    async fn answer(&mut self, action: Action, closes: bool) -> io::Result<()> {
        let goes_on = match action {
            Action::Answer {
                status,
                headers,
                body,
            } => {
                self.write(&http::answer(status, &headers, &body)).await?;
                !closes
            }
            Action::GarbledVerdicts(body) => {
                self.write(&http::answer(200, &[], body.as_bytes())).await?;
                !closes
            }
            Action::Garbage => {
                self.write(b"\x00\x01 not HTTP at all\r\n\r\n").await?;
                false
            }
            Action::Truncated => {
                self.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all")
                    .await?;
                false
            }
            Action::Close | Action::Hang => false,
        };
        match goes_on {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Waits for the longest delay and all gates; false when the client leaves first.
    async fn wait_for_turn(&mut self, replies: &[Reply]) -> bool {
        let delay = replies.iter().map(|reply| reply.delay).max();
        let delay = delay.unwrap_or_default();
        if delay.is_zero() && replies.iter().all(|reply| reply.gate.is_none()) {
            return true;
        }
        let turn = async {
            sleep(delay).await;
            for gate in replies.iter().filter_map(|reply| reply.gate.as_ref()) {
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

    /// Begins deliveries, with none of another request between them.
    fn all(shared: &Arc<Shared>, deliveries: Vec<Delivery>) -> Vec<Self> {
        let mut log = lock(&shared.log);
        let numbers = deliveries.into_iter().map(|one| log.begin(one));
        numbers
            .map(|number| Self::new(Arc::clone(shared), number))
            .collect()
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
