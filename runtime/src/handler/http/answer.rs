//! Reads a handler's answer from its bytes (RFC 9112).

use std::borrow::Cow;
use std::io;

use bytes::{Buf as _, BytesMut};
use http::StatusCode;
use http::header::HeaderValue;
use httparse::{EMPTY_HEADER, Status};
use thiserror::Error;

use super::head::{Head, MAX_HEAD, MAX_HEADERS, Next, take_head};

/// An answer of a handler.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The value of `Retry-After`: seconds or a date.
    pub(super) retry_after: Option<HeaderValue>,
    /// The body, or its beginning.
    pub(super) body: Vec<u8>,
    /// Is `true` if the content type is JSON.
    pub(super) is_json: bool,
    /// Is `true` if the body is compressed, or encoded otherwise.
    pub(super) is_encoded: bool,
    /// Is `true` if `body` is the whole body.
    pub(super) whole: bool,
    /// Is `true` if the connection can take another request.
    pub(super) reusable: bool,
    /// Is `true` if the handler sent more than the answer, or announced a body that an answer with
    /// this status can't have.
    pub(super) surplus: bool,
}

/// The maximum number of a handler's bytes in an error.
const SHOWN: usize = 100;

/// Returns the beginning of a handler's bytes, on one line.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    let text = text.chars().map(|char| match char.is_control() {
        true => ' ',
        false => char,
    });
    text.collect()
}

impl Answer {
    /// Returns the body as text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

#[cfg(test)]
impl Answer {
    /// Creates an answer over a connection that stays open.
    pub(super) fn of(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.as_ref().to_vec(),
            is_json: false,
            is_encoded: false,
            whole: true,
            reusable: true,
            surplus: false,
        }
    }
}

/// The reason why a request has no whole answer.
#[derive(Debug, Error)]
pub(super) enum SendError {
    /// The connection ended before the first byte.
    #[error("the handler gave no answer: {}", end(.0.as_ref()))]
    Closed(Option<io::Error>),
    #[error("the handler gave no answer: what came is not HTTP ({0})")]
    NotHttp(String),
    #[error("the handler's answer broke off: {}", end(.0.as_ref()))]
    BrokenOff(Option<io::Error>),
}

impl SendError {
    /// Returns `true` if the connection came to its end, with or without a part of the answer.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Closed(_) | Self::BrokenOff(None) => true,
            Self::BrokenOff(Some(error)) => error.kind() != io::ErrorKind::InvalidData,
            Self::NotHttp(_) => false,
        }
    }
}

fn end(error: Option<&io::Error>) -> String {
    match error {
        Some(error) => error.to_string(),
        None => "the connection was closed".into(),
    }
}

/// Reads one answer, in whichever pieces its bytes arrive.
pub(super) struct Reader {
    /// The maximum number of bytes of a body to read. A longer body costs the connection.
    longest_body: usize,
    /// Is `true` once a byte has arrived.
    begun: bool,
    head: Option<Head>,
    /// The part that follows.
    next: Next,
    body: Vec<u8>,
}

impl Reader {
    pub(super) fn new(longest_body: usize) -> Self {
        Self {
            longest_body,
            begun: false,
            head: None,
            next: Next::default(),
            body: Vec::new(),
        }
    }

    /// Takes the received bytes. Returns the answer once it is complete.
    pub(super) fn read(&mut self, input: &mut BytesMut) -> Result<Option<Answer>, SendError> {
        if !self.read_head(input)? {
            return Ok(None);
        }
        loop {
            match self.next {
                Next::Bytes(0) => return self.finish(true, true),
                Next::Bytes(left) => match self.take_body(input, left) {
                    0 => return Ok(None),
                    taken => self.next = Next::Bytes(left - taken),
                },
                Next::ChunkSize => match httparse::parse_chunk_size(input) {
                    Ok(Status::Complete((length, size))) => {
                        input.advance(length);
                        self.next = match size {
                            0 => Next::Trailers,
                            size => Next::Chunk(size),
                        };
                    }
                    Ok(Status::Partial) => return partial(input),
                    Err(_) => return Err(broken("a chunk has no size")),
                },
                Next::Chunk(0) => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.next = Next::ChunkSize;
                    }
                    Some(_) => return Err(broken("a chunk is longer than it says")),
                    None => return Ok(None),
                },
                Next::Chunk(left) => match self.take_body(input, left) {
                    0 => return Ok(None),
                    taken => self.next = Next::Chunk(left - taken),
                },
                Next::Trailers => {
                    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
                    match httparse::parse_headers(input, &mut headers) {
                        Ok(Status::Complete((length, _))) => {
                            input.advance(length);
                            return self.finish(true, true);
                        }
                        Ok(Status::Partial) => return partial(input),
                        Err(error) => return Err(broken(&error.to_string())),
                    }
                }
                Next::Rest => {
                    if self.take_body(input, u64::MAX) == 0 {
                        return Ok(None);
                    }
                }
            }
            if self.body.len() > self.longest_body {
                return self.finish(false, false);
            }
        }
    }

    /// Takes the head if it is complete, and returns `true`. Interim answers are dropped.
    pub(super) fn read_head(&mut self, input: &mut BytesMut) -> Result<bool, SendError> {
        self.begun |= !input.is_empty();
        while self.head.is_none() {
            let Some(head) = take_head(input)? else {
                return Ok(false);
            };
            let interim =
                head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
            if !interim {
                self.next = head.body;
                self.head = Some(head);
            }
        }
        Ok(true)
    }

    /// Takes the end of the connection, with its error if there was one.
    pub(super) fn end(mut self, error: Option<io::Error>) -> Result<Answer, SendError> {
        if !self.begun {
            return Err(SendError::Closed(error));
        }
        let finished = match (self.next, &error) {
            (Next::Rest, None) => self.finish(true, false)?,
            _ => None,
        };
        finished.ok_or(SendError::BrokenOff(error))
    }

    /// Takes at most `most` bytes of the body, and returns their number.
    fn take_body(&mut self, input: &mut BytesMut, most: u64) -> u64 {
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
        self.body.extend_from_slice(&input[..length]);
        input.advance(length);
        length as u64
    }

    fn finish(&mut self, whole: bool, reusable: bool) -> Result<Option<Answer>, SendError> {
        let body = std::mem::take(&mut self.body);
        Ok(self.head.take().map(|head| Answer {
            status: head.status,
            retry_after: head.retry_after,
            body,
            is_json: head.is_json,
            is_encoded: head.is_encoded,
            whole,
            reusable: reusable && head.keep_alive,
            surplus: head.surplus,
        }))
    }
}

/// Waits for more bytes, unless the limit is exceeded.
fn partial(input: &BytesMut) -> Result<Option<Answer>, SendError> {
    match input.len() > MAX_HEAD {
        true => Err(broken("its end does not come")),
        false => Ok(None),
    }
}

fn broken(what: &str) -> SendError {
    SendError::BrokenOff(Some(io::Error::new(io::ErrorKind::InvalidData, what)))
}

#[cfg(test)]
mod tests {
    const LONGEST_BODY: usize = 64 * 1024;

    use super::*;

    /// Reads an answer that comes in pieces of a size, and then the end.
    fn read(text: &str, size: usize) -> Result<(Answer, usize), SendError> {
        let mut reader = Reader::new(LONGEST_BODY);
        let mut input = BytesMut::new();
        let mut taken = 0;
        for piece in text.as_bytes().chunks(size) {
            input.extend_from_slice(piece);
            taken += piece.len();
            if let Some(answer) = reader.read(&mut input)? {
                return Ok((answer, text.len() - taken + input.len()));
            }
        }
        reader.end(None).map(|answer| (answer, 0))
    }

    #[test]
    fn an_answer_is_read_however_it_comes() {
        for (text, status, body, reusable) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
            ("HTTP/1.1 304 \r\ncontent-length: 9\r\n\r\n", 304, "", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                200,
                "",
                true,
            ),
            (
                "HTTP/1.1 422 No\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nno",
                422,
                "no",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok",
                200,
                "ok",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
                200,
                "ok",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nok",
                200,
                "ok",
                true,
            ),
            // Before HTTP/1.1 there are no chunks, so its end is not certain.
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                200,
                "a",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nto the end",
                200,
                "to the end",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nbytes",
                200,
                "bytes",
                false,
            ),
            (
                "HTTP/1.1 500 Oh\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
                500,
                "abc0123456789",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
                200,
                "a",
                false,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 Done\r\n\r\n",
                204,
                "",
                true,
            ),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "", false),
        ] {
            for size in [1, 2, 7, text.len()] {
                let (answer, left) = read(text, size).unwrap();
                assert_eq!(answer.status, status, "{text}");
                assert_eq!(answer.text(), body, "{text}");
                assert_eq!(answer.reusable, reusable, "{text}");
                assert_eq!(left, 0, "{text}");
            }
        }
    }

    #[test]
    fn what_follows_an_answer_is_left() {
        let (answer, left) = read("HTTP/1.1 204 No Content\r\n\r\nHTTP", 100).unwrap();
        assert!(answer.reusable);
        assert_eq!(left, 4);
    }

    #[test]
    fn a_body_that_can_not_be_is_surplus() {
        for (head, surplus) in [
            ("204 No Content", false),
            ("204 No Content\r\ncontent-length: 0", false),
            ("204 No Content\r\ncontent-length: 5", true),
            ("204 No Content\r\ntransfer-encoding: chunked", true),
            // What the body of a 200 would be.
            ("304 Not Modified\r\ncontent-length: 5", false),
            ("200 OK\r\ncontent-length: 0", false),
        ] {
            let (answer, _) = read(&format!("HTTP/1.1 {head}\r\n\r\n"), 100).unwrap();
            assert_eq!(answer.surplus, surplus, "{head}");
        }
    }

    #[test]
    fn what_is_said_of_the_body_is_read() {
        for (headers, is_json, is_encoded) in [
            ("content-type: application/json", true, false),
            (
                "Content-Type: Application/Problem+JSON; charset=utf-8",
                true,
                false,
            ),
            ("content-type: text/html", false, false),
            ("content-encoding: identity", false, false),
            ("Content-Encoding: gzip", false, true),
            ("transfer-encoding: gzip, chunked", false, true),
            ("transfer-encoding: chunked", false, false),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n0\r\n\r\n");
            let (answer, _) = read(&text, 100).unwrap();
            let said = (answer.is_json, answer.is_encoded);
            assert_eq!(said, (is_json, is_encoded), "{headers}");
        }
    }

    #[test]
    fn retry_after_is_read() {
        let (answer, _) = read(
            "HTTP/1.1 503 No\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            9,
        )
        .unwrap();
        assert_eq!(answer.retry_after.unwrap(), "7");
    }

    #[test]
    fn of_a_long_body_only_the_beginning_is_read() {
        for head in ["content-length: 1000000", "connection: close", "x: y"] {
            let text = format!("HTTP/1.1 500 Oh\r\n{head}\r\n\r\n{}", "x".repeat(1_000_000));
            let (answer, left) = read(&text, 4096).unwrap();
            assert!(!answer.reusable, "{head}");
            assert!(answer.body.len() <= LONGEST_BODY + 4096, "{head}");
            assert!(left > 900_000, "{head}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_says_why() {
        for (text, reason) in [
            ("", "the handler gave no answer: the connection was closed"),
            (
                "\u{0}\u{1}\u{2}",
                "the handler gave no answer: what came is not HTTP (invalid",
            ),
            (
                "HTTP/1.1 99 No\r\n\r\n",
                "the handler gave no answer: what came is not HTTP (",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\nx",
                "the handler gave no answer: what came is not HTTP (its length",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
                "the handler gave no answer: what came is not HTTP (it has two",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-le",
                "the handler's answer broke off: the connection was closed",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
                "the handler's answer broke off: the connection was closed",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n",
                "the handler's answer broke off: a chunk has no size",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
                "the handler's answer broke off: a chunk is longer",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
                "the handler's answer broke off: the connection was closed",
            ),
        ] {
            for size in [1, 100] {
                let error = read(text, size).expect_err(text).to_string();
                assert!(error.starts_with(reason), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_head_without_an_end_is_not_read_for_ever() {
        let text = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000));
        let error = read(&text, 4096).expect_err("too long").to_string();
        assert!(error.ends_with("(its head has no end)"), "{error}");
    }
}
