//! The service, whose answers are bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut as _;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use penstock_handler::v1::{FromRuntime, from_runtime};
use prost::Message as _;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use crate::behaviours::Talk;
use crate::words::Opening;
use crate::{State, WHILE, lock};

/// Answers on their way; none is the end of the stream.
pub type Answers = UnboundedSender<Option<Result<Vec<u8>, Status>>>;

type AnswerStream = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

/// Longest message that is read.
const MAX_BYTES: usize = 64 << 20;

#[derive(Clone)]
pub struct Service {
    state: Arc<State>,
}

impl Service {
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

impl NamedService for Service {
    const NAME: &'static str = "penstock.handler.v1.Handler";
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc =
                Grpc::new(Bytes).apply_max_message_size_config(Some(MAX_BYTES), Some(usize::MAX));
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<FromRuntime> for Service {
    type Response = Vec<u8>;
    type ResponseStream = AnswerStream;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<FromRuntime>>) -> Self::Future {
        Box::pin(open(Arc::clone(&self.state), request.into_inner()))
    }
}

async fn open(
    state: Arc<State>,
    incoming: Streaming<FromRuntime>,
) -> Result<Response<AnswerStream>, Status> {
    let opening = lock(&state.openings).pop_front().unwrap_or_default();
    if opening == Opening::Refused {
        return Err(Status::failed_precondition("not on Fridays"));
    }
    let (answers, receiver) = unbounded_channel();
    let stream = unfold(receiver, |mut receiver| async {
        let answer = receiver.recv().await??;
        Some((answer, receiver))
    });
    let mut response = Response::new(Box::pin(stream) as AnswerStream);
    if opening == Opening::HugeHeaders {
        let huge = "x".repeat(1 << 20);
        let huge =
            MetadataValue::try_from(huge).map_err(|error| Status::internal(error.to_string()))?;
        response.metadata_mut().insert("x-huge", huge);
    }
    tokio::spawn(talk(state, opening, incoming, answers));
    Ok(response)
}

/// Speaks on a stream to its end.
async fn talk(
    state: Arc<State>,
    opening: Opening,
    mut incoming: Streaming<FromRuntime>,
    answers: Answers,
) {
    if opening == Opening::Silent {
        tokio::time::sleep(WHILE).await;
    }
    let Some(Ok(FromRuntime {
        message: Some(from_runtime::Message::Hello(hello)),
    })) = incoming.next().await
    else {
        eprintln!("the stream did not begin with hello");
        return;
    };
    let mut talk = Talk::new(state, answers, hello.order());
    talk.say(opening.first());
    if let Some(later) = opening.later() {
        talk.say_later(later);
    }
    while let Some(Ok(message)) = incoming.next().await {
        if let Some(from_runtime::Message::Batch(batch)) = message.message
            && talk.take(batch).await.is_break()
        {
            return;
        }
    }
}

/// Reads messages, and sends bytes.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = FromRuntime;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = FromRuntime;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<FromRuntime>, Status> {
        let message = FromRuntime::decode(from);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
