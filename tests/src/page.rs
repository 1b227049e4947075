//! Reading a page of a program on this machine or in a cluster.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for a page.
const LIMIT: Duration = Duration::from_secs(10);

/// A page can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// No connection, or it broke.
    #[error("http://{address}{path}: {error}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Which page.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The answer is no HTTP that this client reads.
    #[error("not an answer: {0:?}")]
    Malformed(String),
}

/// What was served.
#[derive(Clone, Debug)]
pub struct Page {
    /// Status.
    pub status: u16,
    /// Value of `content-type`.
    pub content_type: String,
    /// Text.
    pub body: String,
}

/// Asks the program that listens on `port` of 127.0.0.1 for a page.
///
/// # Errors
/// [`PageError`] when nobody answers within 10 s, or not in HTTP.
pub async fn get(port: u16, path: &str) -> Result<Page, PageError> {
    get_at((Ipv4Addr::LOCALHOST, port).into(), path).await
}

/// Asks the program that listens at `address` for a page.
///
/// # Errors
/// As [`get`].
pub async fn get_at(address: SocketAddr, path: &str) -> Result<Page, PageError> {
    let answer = match timeout(LIMIT, ask(address, path)).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(elapsed.into()),
    };
    let answer = answer.map_err(|error| PageError::Io {
        address,
        path: path.to_owned(),
        error,
    })?;
    read(&answer)
}

async fn ask(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the answer has no chunks and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<Page, PageError> {
    let malformed = || PageError::Malformed(String::from_utf8_lossy(answer).into_owned());
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        _ => return Err(malformed()),
    };
    let content_type = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-type"))
        .map_or(&b""[..], |header| header.value);
    Ok(Page {
        status: head.code.ok_or_else(malformed)?,
        content_type: String::from_utf8_lossy(content_type).into_owned(),
        body: String::from_utf8(answer[length..].to_vec()).map_err(|_| malformed())?,
    })
}
