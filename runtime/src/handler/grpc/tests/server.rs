//! A handler whose every word the test says.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{poll_fn, unfold};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use penstock_handler::v1::handler_server::{Handler, HandlerServer};
use penstock_handler::v1::{
    self, Batch, Cancel, Feature, FromHandler, FromRuntime, Hello, Order, Range, Verdict, Welcome,
};
use v1::from_runtime::Message;
use v1::verdict::Outcome;

/// What the tests wait for comes within this time, or never.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

type Words = mpsc::UnboundedSender<Result<FromHandler, Status>>;

/// A server on a Unix socket. It goes, with all connections, when it is dropped.
pub(super) struct Scripted {
    calls: mpsc::UnboundedReceiver<Call>,
    server: JoinHandle<()>,
    socket: PathBuf,
}

impl Scripted {
    pub(super) fn start(socket: &Path) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        Self::start_with(
            socket,
            Server::builder().add_service(service(sender)),
            calls,
        )
    }

    pub(super) fn start_with(
        socket: &Path,
        router: tonic::transport::server::Router,
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let incoming = unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let serve = router.serve_with_incoming(incoming);
        let server = tokio::spawn(async {
            serve.await.unwrap();
        });
        Self {
            calls,
            server,
            socket: socket.to_owned(),
        }
    }

    /// The next stream that is opened, past its hello.
    pub(super) async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(LIMIT, self.calls.recv()).await;
        let mut call = call.expect("a stream").expect("a stream");
        match call.next().await {
            Message::Hello(hello) => call.hello = hello,
            other => panic!("{other:?}"),
        }
        call
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

pub(super) fn service(calls: mpsc::UnboundedSender<Call>) -> HandlerServer<Service> {
    HandlerServer::new(Service { calls })
}

/// One stream, seen from the handler.
pub(super) struct Call {
    pub(super) hello: Hello,
    incoming: Streaming<FromRuntime>,
    words: Words,
}

impl Call {
    /// What the runtime says next.
    pub(super) async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(LIMIT, self.incoming.message()).await;
        let next = next.expect("the runtime says something").unwrap();
        next.expect("the stream goes on").message.unwrap()
    }

    /// What the runtime says next; `None` once the stream has ended.
    pub(super) async fn next_if_open(&mut self) -> Option<Message> {
        self.incoming.message().await.ok().flatten()?.message
    }

    pub(super) async fn batch(&mut self) -> Batch {
        match self.next().await {
            Message::Batch(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    /// The next batch, past whatever else the runtime says; `None` once the stream has ended.
    pub(super) async fn batch_if_open(&mut self) -> Option<Batch> {
        loop {
            if let Message::Batch(batch) = self.next_if_open().await? {
                return Some(batch);
            }
        }
    }

    pub(super) async fn cancel(&mut self) -> Cancel {
        match self.next().await {
            Message::Cancel(cancel) => cancel,
            other => panic!("{other:?}"),
        }
    }

    /// Says that the handler keeps all orders and reports what begins.
    pub(super) fn welcome(&self, credits: u32) {
        let orders = [Order::Unspecified, Order::Batch, Order::Key];
        self.say(FromHandler {
            credits,
            welcome: Some(Welcome {
                version: 2,
                sdk_name: "scripted".into(),
                sdk_version: "1.2".into(),
                orders: orders.map(i32::from).into(),
                features: vec![Feature::Begun.into()],
                ..Welcome::default()
            }),
            ..FromHandler::default()
        });
    }

    pub(super) fn grant(&self, credits: u32) {
        self.say(FromHandler {
            credits,
            ..FromHandler::default()
        });
    }

    pub(super) fn begin(&self, first_id: u64, count: u64) {
        self.say(FromHandler {
            begun: vec![Range { first_id, count }],
            ..FromHandler::default()
        });
    }

    pub(super) fn settle(&self, first_id: u64, count: u64, outcome: Outcome) {
        self.say(FromHandler {
            verdicts: vec![Verdict {
                first_id,
                count,
                outcome: Some(outcome),
            }],
            ..FromHandler::default()
        });
    }

    pub(super) fn say(&self, words: FromHandler) {
        self.words.send(Ok(words)).expect("the stream is open");
    }

    /// Ends the stream with an error.
    pub(super) fn break_off(self, status: Status) {
        self.words.send(Err(status)).expect("the stream is open");
    }
}

/// Offsets of a batch's messages.
pub(super) fn offsets(batch: &Batch) -> Vec<i64> {
    let deliveries = batch.runs.iter().flat_map(|run| &run.deliveries);
    deliveries.map(|delivery| delivery.offset).collect()
}

pub(super) fn done() -> Outcome {
    Outcome::Done(v1::Done::default())
}

#[derive(Debug)]
pub(super) struct Service {
    calls: mpsc::UnboundedSender<Call>,
}

#[tonic::async_trait]
impl Handler for Service {
    type HandleStream = Pin<Box<dyn Stream<Item = Result<FromHandler, Status>> + Send>>;

    async fn handle(
        &self,
        request: Request<Streaming<FromRuntime>>,
    ) -> Result<Response<Self::HandleStream>, Status> {
        let (words, mut said) = mpsc::unbounded_channel();
        let call = Call {
            hello: Hello::default(),
            incoming: request.into_inner(),
            words,
        };
        self.calls
            .send(call)
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(poll_fn(move |cx| {
            said.poll_recv(cx)
        }))))
    }
}
