//! The meaning of an answer: by its status alone, or by a list in its body.
//!
//! A body that may be meant as a list is never a success by default: it is read, or the answer is a
//! failure. The content type does not decide that, because the usual ways to write JSON in Go,
//! Flask and Node send none.

use std::sync::Once;

use serde::Deserialize;
use serde::de::Error as _;

use super::answer::{Answer, shown};
use super::verdict;
use crate::handler::HandlerError;
use crate::handler::decode::json;

/// A list that an answer may contain.
#[derive(Clone, Copy, Debug)]
pub(super) enum List {
    /// `{"verdicts": […]}`, of BatchHttp.
    Verdicts,
    /// `{"produce": […]}`, of Http with `commit: Transactional`.
    Records,
}

/// The content of a success.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<L> {
    /// The body is empty or can't be meant as a list, so the status is the verdict.
    Status,
    List(L),
}

/// Reads an answer that may contain a list. `read` takes the list from valid JSON.
///
/// # Errors
/// Returns an error if the status is not a success, or if the body may be meant as a list and is
/// none.
pub(super) fn read_answer<'a, L>(
    answer: &'a Answer,
    list: List,
    read: impl FnOnce(&'a [u8]) -> Result<L, String>,
) -> Result<Content<L>, HandlerError> {
    verdict::of(answer)?;
    let body = trimmed(&answer.body);
    if body.is_empty() {
        return Ok(Content::Status);
    }
    if !may_be_meant_as(list, answer, body) {
        warn_of_text(body);
        return Ok(Content::Status);
    }
    let read = if answer.is_encoded {
        Err("it is encoded, and the request does not accept that".to_owned())
    } else if !answer.whole {
        Err(format!("it is longer than {} bytes", answer.body.len()))
    } else {
        json::check(body)
            .map_err(|error| format!("not valid JSON: {error}"))
            .and_then(|()| read(body))
    };
    read.map(Content::List)
        .map_err(|error| list.not_understood(&error, body))
}

/// Reads JSON that must be an object. (serde would also accept an array with the fields of a struct
/// in their order.)
pub(super) fn from_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    match text.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(text),
        _ => Err(serde_json::Error::custom("not an object")),
    }
}

impl List {
    fn not_understood(self, error: &str, body: &[u8]) -> HandlerError {
        let (expected, remedy) = match self {
            Self::Verdicts => (
                r#"{"verdicts": [VERDICT, …]}"#,
                "without a body, where all messages are handled",
            ),
            Self::Records => (
                r#"{"produce": [RECORD, …]}"#,
                "without a body, where nothing is to be produced",
            ),
        };
        HandlerError::retryable(format_args!(
            "the handler's answer is not understood ({error}): answer {expected}, or {remedy}; received {}",
            shown(body)
        ))
    }

    /// Returns the characters that such a list contains in any encoding.
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Verdicts => b"verdict",
            Self::Records => b"\"produce\"",
        }
    }
}

/// Returns `body` without white space around it and without a byte order mark.
fn trimmed(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(body)
        .trim_ascii()
}

/// Returns `true` unless `body` is certainly text for people.
fn may_be_meant_as(list: List, answer: &Answer, body: &[u8]) -> bool {
    let said_json = || answer.is_json && (!answer.whole || json::check(body).is_err());
    answer.is_encoded
        || begins_json(body)
        || is_word(body)
        || contains_ignoring_case(body, list.mark())
        || said_json()
}

/// Returns `true` if `body` begins like an array or an object, also within a string (encoded twice)
/// or in UTF-16.
fn begins_json(body: &[u8]) -> bool {
    let first = body
        .iter()
        .find(|byte| !matches!(byte, 0..=b' ' | b'"' | b'\'' | b'\\' | 0xFE | 0xFF));
    matches!(first, Some(b'{' | b'['))
}

/// Returns `true` for a single word that means a failure, or a missing result.
fn is_word(body: &[u8]) -> bool {
    const WORDS: [&[u8]; 10] = [
        b"null",
        b"none",
        b"undefined",
        b"false",
        b"retry",
        b"fail",
        b"skip",
        b"deadLetter",
        b"dead_letter",
        b"dead-letter",
    ];
    let quoted = |body: &[u8], mark| body.first() == Some(&mark) && body.last() == Some(&mark);
    let word = match body.len() > 2 && (quoted(body, b'"') || quoted(body, b'\'')) {
        true => &body[1..body.len() - 1],
        false => body,
    };
    WORDS.iter().any(|one| word.eq_ignore_ascii_case(one))
}

fn contains_ignoring_case(body: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else {
        return true;
    };
    // A body may have millions of bytes.
    let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
    memchr::memchr2_iter(lower, upper, body).any(|place| {
        let found = body.get(place + 1..place + text.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(rest))
    })
}

/// Logs, once in a process, that a body is ignored.
fn warn_of_text(body: &[u8]) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            received = shown(body),
            "the body of the handler's answer is no list, so its status is the verdict; \
             answer without a body"
        );
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::handler::FailureKind;
    use crate::handler::http::{records, verdicts};

    /// What comes of an answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Read {
        Success,
        Listed,
        Retryable,
        Permanent,
    }

    fn read(answer: &Answer, list: List) -> Read {
        let content = match list {
            List::Verdicts => read_answer(answer, list, |body| verdicts::read(body, 2).map(drop)),
            List::Records => read_answer(answer, list, |body| records::read(body).map(drop)),
        };
        match content {
            Ok(Content::Status) => Read::Success,
            Ok(Content::List(())) => Read::Listed,
            Err(error) if error.kind() == FailureKind::Retryable => Read::Retryable,
            Err(error) => {
                assert_eq!(error.kind(), FailureKind::Permanent);
                Read::Permanent
            }
        }
    }

    fn answer(status: u16, is_json: bool, body: impl AsRef<[u8]>) -> Answer {
        Answer {
            is_json,
            ..Answer::of(status, body)
        }
    }

    #[test]
    fn what_may_be_meant_as_a_list_is_read_as_one_or_fails() {
        use Read::{Listed, Retryable, Success};
        let utf_16 =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        // The body, and what it is to BatchHttp and to Http with records.
        let rows: Vec<(Vec<u8>, Read, Read)> = [
            // As documented.
            (r#"{"verdicts": []}"#, Listed, Retryable),
            (r#"{"verdicts": ["done"]}"#, Listed, Retryable),
            (r#"{"verdicts": ["done", "retry"]}"#, Listed, Retryable),
            ("\r\n {\"verdicts\": [\"done\"]}\n", Listed, Retryable),
            ("\u{feff}{\"verdicts\": [\"done\"]}", Listed, Retryable),
            (
                r#"{"verdicts": [{"verdict": "retry", "reason": "x", "retryAfter": 1}], "n": 1}"#,
                Listed,
                Retryable,
            ),
            (r#"{"produce": []}"#, Retryable, Listed),
            (
                r#"{"produce": [{"topic": "a"}], "n": {"m": 1}}"#,
                Retryable,
                Listed,
            ),
            // Nothing.
            ("", Success, Success),
            (" \r\n", Success, Success),
            ("\u{feff}", Success, Success),
            // Text for people.
            ("ok", Success, Success),
            ("OK\n", Success, Success),
            ("done", Success, Success),
            (
                "<!doctype html><html><body>{}</body></html>",
                Success,
                Success,
            ),
            ("thank you {", Success, Success),
            ("handled 2 messages, 1 of them twice", Success, Success),
            ("\u{fc}berall erledigt", Success, Success),
            // Another shape.
            (r#"{"Verdicts": ["done", "retry"]}"#, Retryable, Retryable),
            (r#"{"verdict": "retry"}"#, Retryable, Retryable),
            (r#"{"verdicts": null}"#, Retryable, Retryable),
            (r#"{"verdicts": "retry"}"#, Retryable, Retryable),
            (r#"{"verdicts": {"0": "retry"}}"#, Retryable, Retryable),
            (
                r#"{"verdicts": ["retry", "done", "done"]}"#,
                Retryable,
                Retryable,
            ),
            (r#"{"verdicts": ["Retry"]}"#, Retryable, Retryable),
            (r#"{"verdicts": [null]}"#, Retryable, Retryable),
            (
                r#"{"verdicts": ["done"], "verdicts": ["retry"]}"#,
                Retryable,
                Retryable,
            ),
            (
                r#"{"verdicts": [{"verdict": "retry", "after": 1}]}"#,
                Retryable,
                Retryable,
            ),
            (r#"{"data": {"verdicts": ["retry"]}}"#, Retryable, Retryable),
            (r#"{"verdicts": [["done"], "done"]}"#, Retryable, Retryable),
            (r#"["retry", "done"]"#, Retryable, Retryable),
            (r#"[["done", "done"]]"#, Retryable, Retryable),
            (r#"[{"verdict": "retry"}]"#, Retryable, Retryable),
            ("[]", Retryable, Retryable),
            ("{}", Retryable, Retryable),
            (r#"{"status": "ok"}"#, Retryable, Retryable),
            (
                r#"{"batchItemFailures": [{"itemIdentifier": "a"}]}"#,
                Retryable,
                Retryable,
            ),
            (r#"{"Produce": [{"topic": "a"}]}"#, Retryable, Retryable),
            (r#"{"produce": null}"#, Retryable, Retryable),
            (r#"{"produce": {"topic": "a"}}"#, Retryable, Retryable),
            (r#"[{"topic": "a"}]"#, Retryable, Retryable),
            ("null", Retryable, Retryable),
            ("None", Retryable, Retryable),
            ("false", Retryable, Retryable),
            ("undefined", Retryable, Retryable),
            ("retry", Retryable, Retryable),
            (r#""retry""#, Retryable, Retryable),
            ("'deadLetter'", Retryable, Retryable),
            // No JSON, or not quite.
            (r#"{"verdicts": ["retry""#, Retryable, Retryable),
            ("{'verdicts': ['retry']}", Retryable, Retryable),
            (
                r#"{"verdicts": ["done"]}{"verdicts": ["retry"]}"#,
                Retryable,
                Retryable,
            ),
            ("{\"verdicts\": [\"done\"]}\n{}", Retryable, Retryable),
            (
                r#"{"verdicts": ["done"], "n": 1e999}"#,
                Retryable,
                Retryable,
            ),
            (r#""{\"verdicts\": [\"retry\"]}""#, Retryable, Retryable),
            (r#""[\"retry\"]""#, Retryable, Retryable),
            ("verdicts:\n- retry\n- done\n", Retryable, Success),
            (
                "<Verdicts><verdict>retry</verdict></Verdicts>",
                Retryable,
                Success,
            ),
            (")]}',\n{\"verdicts\": [\"retry\"]}", Retryable, Success),
            (")]}',\n{\"produce\": []}", Success, Retryable),
        ]
        .map(|(body, verdicts, records)| (body.as_bytes().to_vec(), verdicts, records))
        .into_iter()
        .chain([
            (
                utf_16("\u{feff}{\"verdicts\": [\"retry\"]}"),
                Retryable,
                Retryable,
            ),
            (utf_16("[\"retry\"]"), Retryable, Retryable),
            (
                b"{\"verdicts\": [{\"verdict\": \"done\", \"reason\": \"\xff\"}]}".to_vec(),
                Retryable,
                Retryable,
            ),
            // The same in MessagePack.
            (
                b"\x81\xa8verdicts\x91\xa5retry".to_vec(),
                Retryable,
                Success,
            ),
        ])
        .collect();
        for (body, verdicts, records) in rows {
            let text = String::from_utf8_lossy(&body);
            for is_json in [false, true] {
                let answer = answer(200, is_json, &body);
                let expect = |read: Read| match read {
                    // Said to be JSON, and is none.
                    Success
                        if is_json
                            && !text.trim_matches(['\u{feff}', ' ', '\r', '\n']).is_empty() =>
                    {
                        Retryable
                    }
                    read => read,
                };
                assert_eq!(read(&answer, List::Verdicts), expect(verdicts), "{text}");
                assert_eq!(read(&answer, List::Records), expect(records), "{text}");
            }
        }
    }

    #[test]
    fn a_scalar_that_is_json_is_a_success() {
        for body in ["\"ok\"", "true", "1", "\"done\"", "-1.5e3"] {
            for is_json in [false, true] {
                let answer = answer(201, is_json, body);
                assert_eq!(read(&answer, List::Verdicts), Read::Success, "{body}");
                assert_eq!(read(&answer, List::Records), Read::Success, "{body}");
            }
        }
    }

    #[test]
    fn the_status_counts_first() {
        let body = r#"{"verdicts": ["done", "done"]}"#;
        for (status, expected) in [
            (200, Read::Listed),
            (202, Read::Listed),
            (299, Read::Listed),
            (301, Read::Permanent),
            (400, Read::Permanent),
            (429, Read::Retryable),
            (503, Read::Retryable),
        ] {
            let seen = read(&answer(status, true, body), List::Verdicts);
            assert_eq!(seen, expected, "{status}");
        }
    }

    #[test]
    fn a_body_that_is_cut_or_encoded_is_no_success() {
        for list in [List::Verdicts, List::Records] {
            let body = r#"{"verdicts": ["done", "done"], "produce": []}"#;
            let cut = Answer {
                whole: false,
                ..answer(200, false, body)
            };
            let encoded = Answer {
                is_encoded: true,
                ..answer(200, false, b"\x1f\x8b\x08")
            };
            let empty = Answer {
                is_encoded: true,
                ..answer(200, false, "")
            };
            let text = Answer {
                whole: false,
                ..answer(200, false, "very long")
            };
            assert_eq!(read(&answer(200, false, body), list), Read::Listed);
            assert_eq!(read(&cut, list), Read::Retryable);
            assert_eq!(read(&encoded, list), Read::Retryable);
            assert_eq!(read(&empty, list), Read::Success);
            assert_eq!(read(&text, list), Read::Success);
        }
    }

    #[test]
    fn the_reason_names_what_came_what_was_expected_and_the_remedy() {
        let body = format!(r#"{{"Verdicts": ["done", "{}"]}}"#, "x".repeat(1000));
        let answer = answer(200, true, &body);
        let error = read_answer(&answer, List::Verdicts, |body| verdicts::read(body, 2));
        assert_eq!(
            error.err().unwrap().reason(),
            format!(
                "the handler's answer is not understood (missing field `verdicts` at line 1 column {}): \
                 answer {{\"verdicts\": [VERDICT, …]}}, or without a body, where all messages are handled; \
                 received {}",
                body.len(),
                &body[..100]
            )
        );
    }

    fn has_shape(body: &[u8], list: List) -> bool {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return false;
        };
        match list {
            List::Verdicts => value["verdicts"].is_array(),
            List::Records => value["produce"].is_array(),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let word = prop::sample::select(vec!["done", "retry", "verdicts", "produce", "topic", "x"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.clone().prop_map(Value::from),
        ];
        let inner = leaf.prop_recursive(4, 20, 4, move |inner| {
            let member = (word.clone(), inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                prop::collection::vec(member, 0..4).prop_map(|members| {
                    let members = members
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value));
                    Value::Object(members.collect())
                }),
            ]
        });
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            inner.clone().prop_map(|value| json!({ "verdicts": value })),
            inner.prop_map(|value| json!({ "produce": value })),
        ]
    }

    proptest! {
        /// Whatever its content type says, a list or an object is never a success by default.
        #[test]
        fn json_of_another_shape_is_no_success(value in value(), is_json: bool, pretty: bool) {
            let body = match pretty {
                true => format!("{value:#}\n"),
                false => value.to_string(),
            };
            let answer = answer(200, is_json, &body);
            for list in [List::Verdicts, List::Records] {
                let seen = read(&answer, list);
                prop_assert_ne!(seen, Read::Success, "{}", body);
                prop_assert!(seen != Read::Listed || has_shape(body.as_bytes(), list), "{}", body);
            }
        }

        #[test]
        fn any_body_is_read(body in prop::collection::vec(any::<u8>(), 0..100), is_json: bool) {
            let answer = answer(200, is_json, &body);
            for list in [List::Verdicts, List::Records] {
                let is_list = matches!(serde_json::from_slice(&body), Ok(Value::Array(_) | Value::Object(_)));
                prop_assert!(!is_list || read(&answer, list) != Read::Success);
            }
        }
    }
}
