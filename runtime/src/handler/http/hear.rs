//! Reads an answer of a BatchHttp handler without a connection, for fuzzing.

use bytes::BytesMut;

use super::answer::Reader;
use super::batch::LONGEST_ANSWER;
use super::verdicts;
use crate::handler::HandlerError;
use crate::handler::produce::Done;

/// Takes the bytes of an answer to a batch of `count` messages, in pieces, and then the end of the
/// connection. Returns the verdicts on the messages, fewer if the handler returned fewer.
pub fn hear(
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
    count: usize,
) -> Vec<Result<Done, HandlerError>> {
    let mut reader = Reader::new(LONGEST_ANSWER);
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece.as_ref());
        match reader.read(&mut input) {
            Ok(None) => {}
            Ok(Some(answer)) => return verdicts::of(&answer, count),
            Err(error) => return vec![Err(error.into()); count],
        }
    }
    match reader.end(None) {
        Ok(answer) => verdicts::of(&answer, count),
        Err(error) => vec![Err(error.into()); count],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::handler::damage::damaged;

    /// One verdict as a handler may write it, and some that it may not.
    fn entry() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => Just(r#""done""#.to_owned()),
            1 => Just(r#"{"verdict": "done"}"#.to_owned()),
            1 => Just(r#""retry""#.to_owned()),
            1 => Just(r#"{"verdict": "retry", "reason": "busy", "retryAfter": 1e3}"#.to_owned()),
            1 => Just(r#"{"verdict": "deadLetter", "reason": "\u0000"}"#.to_owned()),
            1 => Just(r#""skip", "fail""#.to_owned()),
            1 => Just(r#""fine""#.to_owned()),
            1 => Just("null".to_owned()),
        ]
    }

    fn body() -> impl Strategy<Value = String> {
        let list = prop::collection::vec(entry(), 0..6);
        let list = list.prop_map(|all| format!(r#"{{"verdicts": [{}]}}"#, all.join(", ")));
        prop_oneof![
            6 => list,
            1 => Just(r#"{"status": "ok"}"#.to_owned()),
            1 => Just(String::new()),
            1 => ".{0,20}",
        ]
    }

    /// An answer as it is sent, whole or in chunks.
    fn answer() -> impl Strategy<Value = Vec<u8>> {
        let status = prop_oneof![3 => Just(200u16), 1 => 100u16..600];
        (status, body(), any::<bool>()).prop_map(|(status, body, chunked)| {
            let (length, body) = match chunked {
                false => (format!("content-length: {}", body.len()), body),
                true => (
                    "transfer-encoding: chunked".to_owned(),
                    match body.len() {
                        0 => "0\r\n\r\n".to_owned(),
                        length => format!("{length:x}\r\n{body}\r\n0\r\n\r\n"),
                    },
                ),
            };
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{length}\r\n");
            format!("{head}\r\n{body}").into_bytes()
        })
    }

    /// The same, damaged on its way, or noise.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![3 => answer(), 5 => damaged(answer()), 1 => prop::collection::vec(any::<u8>(), 0..60)]
    }

    /// Whether the body of an undamaged answer that says it is JSON lets the message at
    /// `place` pass.
    fn lets_pass(body: &str, place: usize) -> bool {
        let body = body.strip_prefix('\u{feff}').unwrap_or(body).trim_ascii();
        let is_done = |entry: &Value| entry == "done" || entry["verdict"] == "done";
        match serde_json::from_str(body) {
            Ok(Value::Object(body)) => {
                let list = body.get("verdicts").and_then(Value::as_array);
                list.and_then(|list| list.get(place)).is_some_and(is_done)
            }
            Ok(Value::Array(_) | Value::Null) => false,
            Ok(_) => true,
            Err(_) => body.is_empty(),
        }
    }

    proptest! {
        /// PROPTEST_CASES sets how many.
        #[test]
        fn any_bytes_are_an_answer_however_they_come(
            bytes in bytes(),
            size in 1usize..50,
            count in 0usize..6,
        ) {
            let whole = hear([&bytes], count);
            prop_assert!(whole.len() <= count);
            prop_assert_eq!(&hear(bytes.chunks(size), count), &whole);
            // Nothing passes without a status that says so.
            let text = String::from_utf8_lossy(&bytes);
            let says_so = ["HTTP/1.0 2", "HTTP/1.1 2"].iter().any(|said| text.contains(said));
            prop_assert!(says_so || whole.iter().all(Result::is_err), "{}", text);
        }

        #[test]
        fn only_what_is_said_to_be_done_is(body in body(), count in 0usize..6) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            for (place, verdict) in hear([answer], count).iter().enumerate() {
                prop_assert!(verdict.is_err() || lets_pass(&body, place), "{} of {}", place, body);
            }
        }
    }
}
