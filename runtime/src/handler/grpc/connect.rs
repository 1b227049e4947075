//! Opening a stream: connection, health, hello.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::{Request, Version, header};
use hyper_util::rt::TokioIo;
use penstock_crds::validate::Address;
use thiserror::Error;
use tonic::body::Body;
use tonic::codec::Codec as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tower::{Service as _, ServiceExt as _, service_fn};

use super::open::Limits;
use super::outgoing::{Outgoing, OutgoingBody};
use super::session::{Session, describe};
use super::welcome::{Peer, Refusal, SERVICE};
use crate::handler::stream::Stream;
use penstock_handler::v1::{FromHandler, FromRuntime, Hello, from_runtime};

/// Waits between tries to connect.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// The maximum time for a handler to open its end of a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// The maximum size of a message from the handler. It is far more than a verdict may have, so
/// that the runtime can read a verdict that is too long, and fail only its delivery.
const MAX_BYTES: usize = 64 << 20;

/// A host name for requests; the connection is made without it.
const HOST: &str = "http://localhost";

/// Opens streams to one handler.
pub(super) struct Connector {
    address: Address,
    hello: Hello,
    limits: Limits,
    /// Is `true` once the warning about a handler without a welcome was logged.
    warned: AtomicBool,
}

/// The error of opening a stream.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Nothing listens at the address: no process of the handler is left.
    #[error("{0}")]
    Gone(io::Error),
    /// An error that may pass.
    #[error("{0}")]
    Failed(String),
    /// The handler cannot work with this runtime.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A new stream.
pub(super) struct Connected {
    pub(super) session: Arc<Session>,
    /// Is `true` if nothing listened at the address at some time: no call of an earlier stream
    /// is still running.
    pub(super) was_gone: bool,
}

impl Connector {
    pub(super) fn new(address: &Address, hello: Hello, limits: Limits) -> Self {
        Self {
            address: address.clone(),
            hello,
            limits,
            warned: AtomicBool::new(false),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Opens a stream. Repeats failures after growing pauses, and passes each to `failed`,
    /// until `failed` returns an error.
    pub(super) async fn connect<E>(
        &self,
        failed: impl Fn(ConnectError) -> Result<(), E>,
    ) -> Result<Connected, E> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .without_max_times()
            .build();
        let mut was_gone = false;
        loop {
            let opened = tokio::time::timeout(OPEN_LIMIT, self.open()).await;
            let no_answer = || Err(ConnectError::Failed("no answer".to_owned()));
            let error = match opened.unwrap_or_else(|_| no_answer()) {
                Ok(session) => return Ok(Connected { session, was_gone }),
                Err(error) => error,
            };
            was_gone |= matches!(error, ConnectError::Gone(_));
            failed(error)?;
            tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    async fn open(&self) -> Result<Arc<Session>, ConnectError> {
        // Connected outside the channel, whose errors hide the cause.
        let stream = Stream::connect(&self.address).await;
        let stream = stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Gone(error),
            _ => ConnectError::Failed(error.to_string()),
        })?;
        let channel = channel(stream).await.map_err(ConnectError::Failed)?;
        let healthy = is_healthy(channel.clone()).await;
        healthy.map_err(ConnectError::Failed)?;
        let outgoing = Arc::new(Outgoing::default());
        outgoing.send(&FromRuntime {
            message: Some(from_runtime::Message::Hello(self.hello.clone())),
        });
        let failed = |status: Status| match status.code() {
            Code::FailedPrecondition => Refusal::ByHandler(status.message().to_owned()).into(),
            Code::Unimplemented => Refusal::Service.into(),
            _ => ConnectError::Failed(describe(&status)),
        };
        let incoming = call(channel, OutgoingBody(Arc::clone(&outgoing)));
        let mut incoming = incoming.await.map_err(failed)?;
        let first = incoming.message().await.map_err(failed)?;
        let first = first.ok_or_else(|| {
            ConnectError::Failed("it ended the stream without a message".to_owned())
        })?;
        let peer = self.greet(&first)?;
        let session = Session::new(outgoing, peer, self.limits);
        Ok(session.start(incoming, first))
    }

    /// Checks and logs the handshake.
    fn greet(&self, first: &FromHandler) -> Result<Peer, Refusal> {
        let peer = Peer::new(first.welcome.as_ref(), self.hello.order())?;
        tracing::info!(
            handler = %self.address,
            sdk = peer.sdk,
            version = peer.version,
            "the handler opened its stream"
        );
        if first.welcome.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                handler = %self.address,
                "the handler sent no welcome, so the runtime can't tell which orders it keeps, \
                 and counts a message as begun when it is sent; update its SDK"
            );
        }
        Ok(peer)
    }
}

/// Creates a channel over one connection. It cannot reconnect.
async fn channel(stream: Stream) -> Result<Channel, String> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or("the connection is closed");
        async move { stream }
    });
    Endpoint::from_static(HOST)
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())
}

/// Asks the health service, if there is one.
async fn is_healthy(channel: Channel) -> Result<(), String> {
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(status) => Err(format!("its health is {}", status.as_str_name())),
        Err(status) if status.code() == Code::Unimplemented => Ok(()),
        Err(status) => Err(format!("its health is unknown ({})", describe(&status))),
    }
}

/// Calls `Handle`, and waits until the handler has begun to answer.
async fn call(mut channel: Channel, body: OutgoingBody) -> Result<Streaming<FromHandler>, Status> {
    let request = Request::post(format!("{HOST}/{SERVICE}/Handle"))
        .version(Version::HTTP_2)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Body::new(body))
        .map_err(|error| Status::internal(error.to_string()))?;
    let channel = channel
        .ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let answer = channel
        .call(request)
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    if let Some(status) = Status::from_header_map(answer.headers())
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let decoder = ProstCodec::<FromRuntime, FromHandler>::default().decoder();
    let status = answer.status();
    Ok(Streaming::new_response(
        decoder,
        answer.into_body(),
        status,
        None,
        Some(MAX_BYTES),
    ))
}
