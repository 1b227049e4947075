//! A kept-alive HTTP/1.1 connection to a handler.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Longest answer that is read; only its beginning is ever shown. A longer one
/// costs the connection.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Where a handler listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP port on the loopback address.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Why no connection could be had.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl Target {
    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        match self {
            Self::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                // A request is written at once and waits for its answer.
                stream.set_nodelay(true)?;
                Connection::open(TokioIo::new(stream)).await
            }
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await?;
                Connection::open(TokioIo::new(stream)).await
            }
        }
    }
}

/// What a handler answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Seconds or a date, as written.
    pub(super) retry_after: Option<HeaderValue>,
    /// The beginning of the body, as text.
    pub(super) text: String,
    /// Whether the connection can take another request.
    pub(super) reusable: bool,
}

/// Why there was no answer.
#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error("the handler gave no answer: {0}")]
    NoAnswer(hyper::Error),
    #[error("the handler's answer broke off: {0}")]
    BrokenAnswer(Box<dyn std::error::Error + Send + Sync>),
}

impl SendError {
    /// Whether the connection was closed without a byte of an answer.
    pub(super) fn closed_before_answer(&self) -> bool {
        match self {
            Self::NoAnswer(error) => {
                error.is_canceled()
                    || error.is_closed()
                    || error.is_incomplete_message()
                    || is_reset(error)
            }
            Self::BrokenAnswer(_) => false,
        }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    io.is_some_and(|io| {
        matches!(
            io.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    })
}

/// One connection. Dropping it closes it, an unanswered request included.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Connection {
    async fn open<S>(stream: S) -> Result<Self, ConnectError>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(stream).await?;
        let driver = tokio::spawn(async move {
            // The request that meets the error reports it.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, SendError> {
        self.sender.ready().await.map_err(SendError::NoAnswer)?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(SendError::NoAnswer)?;
        read(response).await
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, SendError> {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let body = Limited::new(response.into_body(), LONGEST_ANSWER)
        .collect()
        .await;
    let (text, reusable) = match body {
        Ok(body) => (String::from_utf8_lossy(&body.to_bytes()).into_owned(), true),
        Err(error) if error.is::<LengthLimitError>() => (String::new(), false),
        Err(error) => return Err(SendError::BrokenAnswer(error)),
    };
    Ok(Answer {
        status,
        retry_after,
        text,
        reusable,
    })
}

fn retry_after(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(RETRY_AFTER).cloned()
}
