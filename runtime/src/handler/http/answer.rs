//! A handler's answer, read from the bytes that come (RFC 9112).

use std::io;

use bytes::{Buf as _, BytesMut};
use http::StatusCode;
use http::header::HeaderValue;
use httparse::{EMPTY_HEADER, Header, Response, Status};
use thiserror::Error;

/// Most bytes of a head or of the trailers, and most headers in them.
const LONGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;

/// What a handler answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Seconds or a date, as written.
    pub(super) retry_after: Option<HeaderValue>,
    /// The beginning of the body, as text.
    pub(super) text: String,
    /// Whether it says that it is JSON.
    pub(super) is_json: bool,
    /// Whether the text is all of the body.
    pub(super) whole: bool,
    /// Whether the connection can take another request.
    pub(super) reusable: bool,
}

#[cfg(test)]
impl Answer {
    /// One over a connection that stays.
    pub(super) fn of(status: u16, text: &str) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            text: text.into(),
            is_json: false,
            whole: true,
            reusable: true,
        }
    }
}

/// Why there was no answer.
#[derive(Debug, Error)]
pub(super) enum SendError {
    /// Not a byte of it came.
    #[error("the handler gave no answer: {}", end(.0.as_ref()))]
    Closed(Option<io::Error>),
    #[error("the handler gave no answer: what came is not HTTP ({0})")]
    NotHttp(String),
    #[error("the handler's answer broke off: {}", end(.0.as_ref()))]
    BrokenOff(Option<io::Error>),
}

fn end(error: Option<&io::Error>) -> String {
    match error {
        Some(error) => error.to_string(),
        None => "the connection was closed".into(),
    }
}

/// Reads one answer, however its bytes come.
pub(super) struct Reader {
    /// Most bytes of a body that are read. A longer one costs the connection.
    longest_body: usize,
    /// Something came.
    begun: bool,
    head: Option<Head>,
    /// What follows the head.
    next: Next,
    body: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// So many bytes of the body, and then nothing.
    Bytes(u64),
    ChunkSize,
    /// So many bytes of a chunk, and then its end.
    Chunk(u64),
    Trailers,
    /// The body, up to the end of the connection.
    Rest,
}

impl Default for Next {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

struct Head {
    status: StatusCode,
    retry_after: Option<HeaderValue>,
    keep_alive: bool,
    is_json: bool,
    body: Next,
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

    /// Takes what has come; the answer, once it is whole.
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
                    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
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

    /// Takes the head if it has come; whether it has. What is said in the interim
    /// is left behind.
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

    /// Takes the end of the connection, by an error or not.
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

    /// Takes at most `most` bytes of the body; how many.
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
            text: String::from_utf8_lossy(&body).into_owned(),
            is_json: head.is_json,
            whole,
            reusable: reusable && head.keep_alive,
        }))
    }
}

fn take_head(input: &mut BytesMut) -> Result<Option<Head>, SendError> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut response = Response::new(&mut headers);
    let parsed = response
        .parse(input)
        .map_err(|error| SendError::NotHttp(error.to_string()))?;
    let Status::Complete(length) = parsed else {
        return match input.len() > LONGEST_HEAD {
            true => Err(SendError::NotHttp("its head has no end".into())),
            false => Ok(None),
        };
    };
    let (code, version) = (response.code.unwrap_or(0), response.version.unwrap_or(0));
    let status = StatusCode::from_u16(code)
        .map_err(|_| SendError::NotHttp(format!("{code} is no status")))?;
    let head = interpret(status, version, response.headers)?;
    input.advance(length);
    Ok(Some(head))
}

/// What a head says of the body and the connection (RFC 9112, sections 6.3 and 9.3).
fn interpret(status: StatusCode, version: u8, headers: &[Header<'_>]) -> Result<Head, SendError> {
    let (mut length, mut encoding, mut retry_after) = (None, None, None);
    let (mut close, mut stay, mut is_json) = (false, false, false);
    for Header { name, value } in headers {
        if name.eq_ignore_ascii_case("content-length") {
            let told = parse_length(value)?;
            if length.is_some_and(|length| length != told) {
                return Err(SendError::NotHttp("it has two lengths".into()));
            }
            length = Some(told);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            encoding = Some(last_token(value));
        } else if name.eq_ignore_ascii_case("connection") {
            close |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"close"));
            stay |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
        } else if name.eq_ignore_ascii_case("content-type") {
            is_json = says_json(value);
        } else if name.eq_ignore_ascii_case("retry-after") {
            retry_after = HeaderValue::from_bytes(value).ok();
        }
    }
    let empty = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match (empty, encoding, length) {
        (true, _, _) => Next::Bytes(0),
        (_, Some(last), _) if last.eq_ignore_ascii_case(b"chunked") => Next::ChunkSize,
        (_, Some(_), _) | (_, None, None) => Next::Rest,
        (_, None, Some(length)) => Next::Bytes(length),
    };
    // Who gives two ends to a body may mean either.
    let two_ends = encoding.is_some() && length.is_some();
    let stays = !close && (version == 1 || stay);
    Ok(Head {
        status,
        retry_after,
        is_json,
        keep_alive: stays && !two_ends && status != StatusCode::SWITCHING_PROTOCOLS,
        body,
    })
}

/// Whether a media type is JSON's, or one with its suffix (RFC 6839).
fn says_json(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || kind.ends_with(b"+json")
}

fn parse_length(value: &[u8]) -> Result<u64, SendError> {
    // Digits and nothing else: a number may have a sign elsewhere.
    let digits = value.trim_ascii();
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits);
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| SendError::NotHttp("its length is no number".into()))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn last_token(value: &[u8]) -> &[u8] {
    tokens(value).last().unwrap_or_default()
}

/// Waits for more, unless there is more than there can be.
fn partial(input: &BytesMut) -> Result<Option<Answer>, SendError> {
    match input.len() > LONGEST_HEAD {
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
                assert_eq!(answer.text, body, "{text}");
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
            assert!(answer.text.len() <= LONGEST_BODY + 4096, "{head}");
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
