//! The HTTP server that both sides send to: it reads each request and answers 204.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// Listens on a port of the system's choice and on a Unix socket, prints the port,
/// and serves until the process is ended.
pub async fn serve(socket: &Path) -> io::Result<()> {
    let tcp = TcpListener::bind(("127.0.0.1", 0)).await?;
    let unix = UnixListener::bind(socket)?;
    println!("port={}", tcp.local_addr()?.port());
    loop {
        tokio::select! {
            accepted = tcp.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(answer(stream));
            }
            accepted = unix.accept() => {
                tokio::spawn(answer(accepted?.0));
            }
        }
    }
}

/// Answers one connection's requests until the client closes it.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    // A client that goes in the middle of a request is at its end.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(no_content))
        .await;
}

async fn no_content(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let complete = request.into_body().collect().await.is_ok();
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match complete {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}
