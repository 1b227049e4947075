//! The server that all sides send to: it reads each request and answers.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::side;

/// What becomes of a request: its path and body, to a status and a body.
pub trait Answer: Fn(&str, Bytes) -> (StatusCode, Bytes) + Clone + Send + Sync + 'static {}

impl<F: Fn(&str, Bytes) -> (StatusCode, Bytes) + Clone + Send + Sync + 'static> Answer for F {}

/// Listens on a port of the system's choice and on a Unix socket, prints the port,
/// and answers 204 until the process is ended; over gRPC, on a socket beside it, too.
pub async fn serve(socket: &Path) -> io::Result<()> {
    let tcp = TcpListener::bind(("127.0.0.1", 0)).await?;
    let unix = UnixListener::bind(socket)?;
    let grpc = side::grpc::serve(socket);
    let mut grpc = std::pin::pin!(grpc);
    println!("port={}", tcp.local_addr()?.port());
    loop {
        tokio::select! {
            accepted = accept(&tcp, no_content) => accepted?,
            ended = &mut grpc => return ended.map_err(io::Error::other),
            accepted = unix.accept() => {
                tokio::spawn(answer(accepted?.0, no_content));
            }
        }
    }
}

/// Accepts a connection over TCP and answers it in the background.
pub async fn accept(listener: &TcpListener, how: impl Answer) -> io::Result<()> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    tokio::spawn(answer(stream, how));
    Ok(())
}

/// Status 204, whatever was asked.
pub fn no_content(_: &str, _: Bytes) -> (StatusCode, Bytes) {
    (StatusCode::NO_CONTENT, Bytes::new())
}

/// Answers one connection's requests until the client closes it.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, how: impl Answer) {
    let service = service_fn(|request| read(request, &how));
    // A client that goes in the middle of a request is at its end.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn read(
    request: Request<Incoming>,
    how: &impl Answer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let (status, body) = match body.collect().await {
        Ok(body) => how(head.uri.path(), body.to_bytes()),
        Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}
