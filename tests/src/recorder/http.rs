//! HTTP/1.1 requests as the runtime sends them: a head, and a body of known length.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most headers of a request.
const MAX_HEADERS: usize = 100;

/// Bytes asked for in one read.
const READ_SIZE: usize = 16 * 1024;

/// A request, read to its end.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// Why there is no further request.
pub(super) enum End {
    /// The client closed the connection, or it broke.
    Closed,
    /// The client sent what this server does not read.
    Malformed(String),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Reads the next request. `buffer` keeps what was read beyond it.
pub(super) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Request, End> {
    let (mut request, head_length) = loop {
        if let Some(head) = parse_head(buffer)? {
            break head;
        }
        read_more(stream, buffer).await?;
    };
    buffer.advance(head_length);

    if request.headers.contains_key("transfer-encoding") {
        return Err(End::Malformed("a body of unknown length".into()));
    }
    let length = match request.headers.get("content-length") {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| End::Malformed(format!("content-length {text:?}")))?,
    };
    while buffer.len() < length {
        read_more(stream, buffer).await?;
    }
    request.body = buffer.split_to(length).to_vec();
    Ok(request)
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), End> {
    buffer.reserve(READ_SIZE);
    match stream.read_buf(buffer).await? {
        0 if buffer.is_empty() => Err(End::Closed),
        0 => Err(End::Malformed("it ends in the middle".into())),
        _ => Ok(()),
    }
}

/// The head at the start of `buffer` and its length, once it is whole.
fn parse_head(buffer: &[u8]) -> Result<Option<(Request, usize)>, End> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed
        .parse(buffer)
        .map_err(|error| End::Malformed(format!("no HTTP: {error}")))?;
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    let request = Request {
        method: parsed.method.unwrap_or_default().into(),
        path: parsed.path.unwrap_or_default().into(),
        headers: parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_lowercase(), value)
            })
            .collect(),
        body: Vec::new(),
    };
    Ok(Some((request, length)))
}

/// An answer in one piece. 1xx and 204 have no body and no length (RFC 9110, 8.6).
pub(super) fn answer(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Recorded\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if status != 204 {
        text += &format!("content-length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Undoes percent-encoding, as the HTTP binding of CloudEvents uses it in headers.
pub(super) fn percent_decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(percent_decode("a%20%C3%A9%25"), "a é%");
        assert_eq!(percent_decode("100%, %zz %4"), "100%, %zz %4");
    }

    #[tokio::test]
    async fn two_requests_on_one_connection_are_two() {
        let mut stream: &[u8] =
            b"POST /a HTTP/1.1\r\nCE-Id: 1\r\ncontent-length: 2\r\n\r\nhiPOST /b HTTP/1.1\r\n\r\n";
        let mut buffer = BytesMut::new();
        let first = read_request(&mut stream, &mut buffer).await.ok().unwrap();
        assert_eq!(first.body, b"hi");
        assert_eq!(first.headers["ce-id"], "1");
        let second = read_request(&mut stream, &mut buffer).await.ok().unwrap();
        assert_eq!(second.path, "/b");
        let end = read_request(&mut stream, &mut buffer).await;
        assert!(matches!(end, Err(End::Closed)));
    }
}
