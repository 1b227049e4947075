//! Reads the head of a handler's answer (RFC 9112, sections 2 to 6).

use bytes::{Buf as _, BytesMut};
use http::StatusCode;
use http::header::HeaderValue;
use httparse::{EMPTY_HEADER, Header, Response, Status};

use super::answer::SendError;

/// The maximum number of bytes of a head or of the trailers, and of headers in them.
pub(super) const MAX_HEAD: usize = 64 * 1024;
pub(super) const MAX_HEADERS: usize = 100;

/// The part of an answer that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This number of bytes of the body, and then the end.
    Bytes(u64),
    ChunkSize,
    /// This number of bytes of a chunk, and then its end.
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

/// The head of an answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<HeaderValue>,
    pub(super) keep_alive: bool,
    pub(super) is_json: bool,
    pub(super) is_encoded: bool,
    pub(super) surplus: bool,
    pub(super) body: Next,
}

/// Takes a head once it is complete.
pub(super) fn take_head(input: &mut BytesMut) -> Result<Option<Head>, SendError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let parsed = response
        .parse(input)
        .map_err(|error| SendError::NotHttp(error.to_string()))?;
    let Status::Complete(length) = parsed else {
        return match input.len() > MAX_HEAD {
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

/// Interprets a head: the body and the connection (RFC 9112, sections 6.3 and 9.3).
fn interpret(status: StatusCode, version: u8, headers: &[Header<'_>]) -> Result<Head, SendError> {
    let (mut length, mut encoding, mut retry_after) = (None, None, None);
    let (mut close, mut stay) = (false, false);
    let (mut is_json, mut is_encoded) = (false, false);
    for Header { name, value } in headers {
        if name.eq_ignore_ascii_case("content-length") {
            let told = parse_length(value)?;
            if length.is_some_and(|length| length != told) {
                return Err(SendError::NotHttp("it has two lengths".into()));
            }
            length = Some(told);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            encoding = Some(last_token(value));
            is_encoded |= tokens(value).any(|token| !token.eq_ignore_ascii_case(b"chunked"));
        } else if name.eq_ignore_ascii_case("content-encoding") {
            is_encoded |= tokens(value).any(|token| !token.eq_ignore_ascii_case(b"identity"));
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
    // The end of such a body is ambiguous; HTTP/1.0 has no chunks.
    let ambiguous = encoding.is_some() && (length.is_some() || version == 0);
    let has_length = length.is_some_and(|length| length > 0);
    let stays = !close && (version == 1 || stay);
    Ok(Head {
        status,
        retry_after,
        is_json,
        is_encoded,
        surplus: status == StatusCode::NO_CONTENT && (has_length || encoding.is_some()),
        keep_alive: stays && !ambiguous && status != StatusCode::SWITCHING_PROTOCOLS,
        body,
    })
}

/// Returns `true` if a media type is JSON's, or has its suffix (RFC 6839).
fn says_json(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || kind.ends_with(b"+json")
}

fn parse_length(value: &[u8]) -> Result<u64, SendError> {
    // Only digits: Rust's numbers may have a sign.
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
