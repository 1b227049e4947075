//! The server that the runtime connects to.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::listen::{self, ListenError};
use crate::v1::handler_server::{Handler, HandlerServer};
use crate::v1::{FromHandler, FromRuntime};
use crate::{Delivered, Done, HandlerError, stream};

/// Messages that are handled at once unless said otherwise.
const CONCURRENCY: usize = 16;

/// Messages that are taken at once unless said otherwise.
const WINDOW: u32 = 2000;

/// Longest message that is read. Kafka's own limit lies far below.
pub(crate) const MAX_BYTES: usize = 1 << 30;

/// Where a socket is unless `PENSTOCK_HANDLER_SOCKET` or `PORT` says otherwise.
const SOCKET: &str = "/run/penstock/handler.sock";

/// Why a handler can't be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The variable `PORT` holds no port.
    #[error("PORT is '{0}'; it must be a number up to 65535")]
    Port(String),
    /// The address is in use, or may not be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server ended by itself.
    #[error("the server ended: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// What to do with a message. Any `async |message: Delivered| …` will do. A call is
/// dropped at an `await` once the message is void: its time is over, or its partition
/// went to another consumer.
pub trait Handle: Send + Sync + 'static {
    /// Handles one message, and gives what is to be produced for it. What an error
    /// leads to is set by `spec.delivery`.
    fn handle(&self, message: Delivered)
    -> impl Future<Output = Result<Done, HandlerError>> + Send;
}

/// A function that ends with nothing, or with what is to be produced.
impl<F, R, O> Handle for F
where
    F: Fn(Delivered) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, HandlerError>> + Send,
    O: Into<Done>,
{
    fn handle(
        &self,
        message: Delivered,
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send {
        let call = self(message);
        async move { call.await.map(Into::into) }
    }
}

/// A server that is about to run.
#[derive(Clone, Debug)]
pub struct Server {
    address: Address,
    settings: Settings,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How much at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) window: u32,
}

impl Server {
    /// Listens where the environment says, in a pod as with `penstock dev`: on the Unix
    /// socket in `PENSTOCK_HANDLER_SOCKET`, or on the port in `PORT`.
    ///
    /// # Errors
    /// When `PORT` holds no port.
    pub fn from_env() -> Result<Self, ServeError> {
        match (env::var_os("PENSTOCK_HANDLER_SOCKET"), env::var("PORT")) {
            (Some(path), _) => Ok(Self::unix(path)),
            (None, Ok(port)) => {
                let number = port.parse().map_err(|_| ServeError::Port(port))?;
                Ok(Self::tcp((Ipv4Addr::UNSPECIFIED, number).into()))
            }
            (None, Err(_)) => Ok(Self::unix(SOCKET)),
        }
    }

    /// Listens on a Unix socket. It removes a socket that nobody listens on any more, and
    /// touches neither one that is in use nor a file of another kind.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    /// Listens on a TCP port.
    pub fn tcp(address: SocketAddr) -> Self {
        Self::at(Address::Tcp(address))
    }

    fn at(address: Address) -> Self {
        Self {
            address,
            settings: Settings {
                concurrency: CONCURRENCY,
                window: WINDOW,
            },
        }
    }

    /// Messages that are handled at once, 16 unless said here. Those with one key are
    /// handled one after the other, and in mode InOrder all are.
    #[must_use]
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.settings.concurrency = messages.max(1);
        self
    }

    /// The maximum number of messages that are taken at once, handled or waiting: 2,000
    /// unless it is set here. Fewer are taken while the handler could not finish them within
    /// a few seconds.
    #[must_use]
    pub fn window(mut self, messages: u32) -> Self {
        self.settings.window = messages.max(1);
        self
    }

    /// Serves until `stop` is cancelled. Then no message is begun, messages that wait are
    /// released, and those that are being handled are finished.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn run(
        self,
        handler: impl Handle,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let service = Service {
            handler: Arc::new(handler),
            settings: self.settings,
            stop: stop.clone(),
        };
        let (_health, health) = tonic_health::server::health_reporter();
        let service = HandlerServer::new(service).max_decoding_message_size(MAX_BYTES);
        let router = tonic::transport::Server::builder()
            .add_service(health)
            .add_service(service);
        self.address.serve(router, stop).await
    }
}

impl Address {
    async fn serve(&self, router: Router, stop: CancellationToken) -> Result<(), ServeError> {
        match self {
            Self::Tcp(address) => {
                let listener = listen::tcp(*address).await?;
                let incoming = unfold(listener, |listener| async {
                    let stream = listener.accept().await.and_then(|(stream, _)| {
                        stream.set_nodelay(true)?;
                        Ok(stream)
                    });
                    Some((stream, listener))
                });
                let serve = router.serve_with_incoming_shutdown(incoming, stop.cancelled());
                Ok(serve.await?)
            }
            Self::Unix(path) => {
                let listener = listen::unix(path)?;
                let incoming = unfold(listener, |listener| async {
                    Some((listener.accept().await.map(|(stream, _)| stream), listener))
                });
                let serve = router.serve_with_incoming_shutdown(incoming, stop.cancelled());
                Ok(serve.await?)
            }
        }
    }
}

struct Service<H> {
    handler: Arc<H>,
    settings: Settings,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl<H: Handle> Handler for Service<H> {
    type HandleStream = Pin<Box<dyn Stream<Item = Result<FromHandler, Status>> + Send>>;

    async fn handle(
        &self,
        request: Request<Streaming<FromRuntime>>,
    ) -> Result<Response<Self::HandleStream>, Status> {
        let answers = stream::start(
            request.into_inner(),
            Arc::clone(&self.handler),
            self.settings,
            self.stop.clone(),
        );
        Ok(Response::new(Box::pin(answers.await?)))
    }
}
