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

/// The default number of messages that are handled concurrently.
const CONCURRENCY: usize = 16;

/// The default number of messages that the handler holds.
const WINDOW: u32 = 2000;

/// Longest message that is read. Kafka's own limit lies far below.
pub(crate) const MAX_BYTES: usize = 1 << 30;

/// The default path of the socket, without `PENSTOCK_HANDLER_SOCKET` and `PORT`.
const SOCKET: &str = "/run/penstock/handler.sock";

/// The error of a handler that cannot serve.
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

/// A function that handles a message. Any `async |message: Delivered| …` implements this trait.
/// A call is dropped at an `await` once the message is void: its time is over, or its partition
/// was revoked.
pub trait Handle: Send + Sync + 'static {
    /// Handles one message, and returns the records to produce for it. `spec.delivery` sets
    /// what follows an error.
    fn handle(&self, message: Delivered)
    -> impl Future<Output = Result<Done, HandlerError>> + Send;
}

/// A function that resolves to `()`, or to records to produce.
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

/// A server that is not running yet.
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

/// The limits of concurrency.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) window: u32,
}

impl Server {
    /// Listens at the address in the environment, in a pod and with `penstock dev`: the Unix
    /// socket in `PENSTOCK_HANDLER_SOCKET`, or the port in `PORT`.
    ///
    /// # Errors
    /// Returns an error if `PORT` is not a port.
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

    /// Sets the number of messages that are handled concurrently, 16 by default. Messages with
    /// one key are handled one after the other, and in InOrder mode all messages are.
    #[must_use]
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.settings.concurrency = messages.max(1);
        self
    }

    /// Sets the maximum number of messages that the handler holds, handled or waiting, 2,000 by
    /// default. It takes fewer if it could not finish them within a few seconds.
    #[must_use]
    pub fn window(mut self, messages: u32) -> Self {
        self.settings.window = messages.max(1);
        self
    }

    /// Serves until `stop` is cancelled. Then the handler begins no message, releases waiting
    /// messages, and finishes the messages that it is handling.
    ///
    /// # Errors
    /// Returns an error if the handler cannot listen at the address.
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
                let listener = listen::unix(path).await?;
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
