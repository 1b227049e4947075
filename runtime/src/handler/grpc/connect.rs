//! Opening a stream: connection, health, hello.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::{Request, Version, header};
use hyper_util::rt::TokioIo;
use penstock_crds::validate::Address;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::Codec as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tower::{Service as _, ServiceExt as _, service_fn};

use super::outgoing::{Outgoing, OutgoingBody};
use super::session::{Session, describe};
use super::v1::{FromHandler, FromRuntime, Hello, from_runtime};
use crate::handler::stream::Stream;

/// Waits between tries to connect.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Most bytes of what a handler says at once: verdicts, with reasons.
const MOST_BYTES: usize = 16 << 20;

/// Where the name of a host is needed; the connection is made without it.
const HOST: &str = "http://localhost";

/// Opens streams to one handler.
pub(super) struct Connector {
    address: Address,
    hello: Hello,
}

impl Connector {
    pub(super) fn new(address: &Address, hello: Hello) -> Self {
        Self {
            address: address.clone(),
            hello,
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// A stream, tried for again until `deadline`; then the last error.
    pub(super) async fn connect(&self, deadline: Instant) -> Result<Arc<Session>, String> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .without_max_times()
            .build();
        loop {
            let error = match tokio::time::timeout_at(deadline, self.open()).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => return Err("no answer".to_owned()),
            };
            let wait = waits.next().unwrap_or(LONGEST_WAIT);
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn open(&self) -> Result<Arc<Session>, String> {
        // Made without the channel's own words for it, which hide the cause.
        let stream = Stream::connect(&self.address).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let channel = channel(stream).await?;
        is_healthy(channel.clone()).await?;
        let outgoing = Arc::new(Outgoing::default());
        outgoing.send(&FromRuntime {
            message: Some(from_runtime::Message::Hello(self.hello.clone())),
        });
        let incoming = call(channel, OutgoingBody(Arc::clone(&outgoing)));
        let mut incoming = incoming.await.map_err(|status| describe(&status))?;
        match incoming.message().await {
            Ok(Some(first)) => Ok(Session::start(outgoing, incoming, first)),
            Ok(None) => Err("it ended the stream without a word".to_owned()),
            Err(status) => Err(describe(&status)),
        }
    }
}

/// A channel over one connection. It can't connect again by itself.
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
    let request = Request::post(format!("{HOST}/penstock.handler.v1.Handler/Handle"))
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
        Some(MOST_BYTES),
    ))
}
