//! Records to produce, as an HTTP handler writes them: like the data of CloudEvents.

use std::fmt::Display;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::content::{Content, List, from_object, read_answer};
use super::verdict;
use crate::handler::HandlerError;
use crate::handler::produce::{Done, ProducerRecord};

/// A record. The key and the data may be absent; a record without data is a tombstone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord<'a> {
    topic: String,
    #[serde(default)]
    partition: Option<i32>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    /// JSON, produced as it is written here.
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    /// Names and values.
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
    /// Milliseconds since the epoch.
    #[serde(default)]
    timestamp: Option<i64>,
}

impl TryFrom<JsonRecord<'_>> for ProducerRecord {
    type Error = String;

    fn try_from(record: JsonRecord<'_>) -> Result<Self, String> {
        let data = record.data.map(RawValue::get).map(str::to_owned);
        let headers = record.headers.into_iter();
        Ok(Self {
            topic: record.topic,
            partition: record.partition,
            key: bytes("key", record.key, record.key_base64)?,
            payload: bytes("data", data, record.data_base64)?,
            headers: headers
                .map(|(name, value)| (name, value.map(String::into_bytes)))
                .collect(),
            timestamp: record.timestamp,
            ..Self::default()
        })
    }
}

fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64 exclude each other")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => match BASE64_STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("{name}_base64 is not base64: {error}")),
        },
        (None, None) => Ok(None),
    }
}

/// Returns the records of a list.
pub(super) fn parse(records: &[&RawValue]) -> Result<Done, HandlerError> {
    let record = |text: &&RawValue| {
        let record: JsonRecord<'_> = from_object(text.get().as_bytes()).map_err(unreadable)?;
        ProducerRecord::try_from(record).map_err(unreadable)
    };
    let records: Result<Vec<_>, HandlerError> = records.iter().map(record).collect();
    Ok(records?.into())
}

/// Returns the error of an answer that may be meant as records. The error is permanent: to continue
/// could lose the records.
fn unreadable(error: impl Display) -> HandlerError {
    HandlerError::permanent(format_args!(
        "the handler's records to produce can't be read: {error}"
    ))
}

/// The parts that count in the body of an answer on one message.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    produce: Vec<&'a RawValue>,
}

/// Reads the list of records, each as its text.
pub(super) fn read(body: &[u8]) -> Result<Vec<&RawValue>, String> {
    let body: Body<'_> = from_object(body).map_err(|error| error.to_string())?;
    Ok(body.produce)
}

/// Returns the records to produce from the answer on one message.
pub(super) fn of(answer: &Answer) -> Result<Done, HandlerError> {
    match read_answer(answer, List::Records, read)? {
        Content::List(records) => parse(&records),
        Content::Status => Ok(Done::default()),
    }
}

/// Returns the verdict of an answer on one message if no records are expected. The body is ignored,
/// unless it is a list of records all the same. Then the records are returned, and the caller
/// refuses them.
pub(super) fn unexpected(answer: &Answer) -> Result<Done, HandlerError> {
    verdict::of(answer)?;
    let body = answer.body.trim_ascii();
    if !body.starts_with(b"{") || memmem::find(body, b"\"produce\"").is_none() {
        return Ok(Done::default());
    }
    let records = read(body).ok().and_then(|records| parse(&records).ok());
    Ok(records.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<ProducerRecord>, String> {
        let answer = Answer {
            is_json: true,
            ..Answer::of(200, text)
        };
        match of(&answer) {
            Ok(done) => Ok(done.produce),
            Err(error) => Err(error.reason().to_owned()),
        }
    }

    #[test]
    fn records_are_taken_as_they_stand() {
        let text = r#"{"produce": [
            {"topic": "totals", "key": "a", "data": {"sum": 1.10, "big": 12345678901234567890123},
             "headers": [["trace", "x"], ["trace", null]], "timestamp": 7, "partition": 2},
            {"topic": "raw", "key_base64": "AAE=", "data_base64": "/w=="},
            {"topic": "gone", "key": "a"}
        ], "other": 1}"#;
        let expected = [
            ProducerRecord {
                topic: "totals".into(),
                partition: Some(2),
                key: Some(b"a".to_vec()),
                payload: Some(br#"{"sum": 1.10, "big": 12345678901234567890123}"#.to_vec()),
                headers: vec![
                    ("trace".into(), Some(b"x".to_vec())),
                    ("trace".into(), None),
                ],
                timestamp: Some(7),
                ..ProducerRecord::default()
            },
            ProducerRecord::new("raw", [255]).key([0, 1]),
            ProducerRecord {
                topic: "gone".into(),
                key: Some(b"a".to_vec()),
                ..ProducerRecord::default()
            },
        ];
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn an_answer_without_records_gives_none() {
        for text in ["", "ok", "produce", r#"{"produce": []}"#] {
            assert_eq!(of(&Answer::of(200, text)), Ok(Done::default()), "{text}");
        }
    }

    #[test]
    fn records_count_whatever_their_content_type_is() {
        let plain = Answer::of(200, r#"{"produce": [{"topic": "a"}]}"#);
        assert_eq!(
            of(&plain),
            Ok(ProducerRecord {
                payload: None,
                ..ProducerRecord::new("a", "")
            }
            .into())
        );
    }

    #[test]
    fn records_that_nobody_expects_are_given_on_to_be_refused() {
        let records = unexpected(&Answer::of(200, r#" {"produce": [{"topic": "a"}]}"#));
        assert_eq!(records.unwrap().produce.len(), 1);
        for text in [
            "",
            "null",
            r#"{"status": "ok"}"#,
            r#"{"produce": "apples"}"#,
            r#"{"produce": ["apples", {"topic": "a"}]}"#,
            r#"[{"produce": [{"topic": "a"}]}]"#,
            r#"{"produce": [{"topic": "a"}"#,
        ] {
            assert_eq!(
                unexpected(&Answer::of(200, text)),
                Ok(Done::default()),
                "{text}"
            );
        }
        let failed = unexpected(&Answer::of(503, r#"{"produce": [{"topic": "a"}]}"#));
        assert!(failed.is_err());
    }

    #[test]
    fn records_that_can_not_be_read_are_no_success() {
        for text in [
            r#"{"produce": ["a"]}"#,
            r#"{"produce": [["a"]]}"#,
            r#"{"produce": [{"key": "a"}]}"#,
            r#"{"produce": [{"topic": "a", "value": "b"}]}"#,
            r#"{"produce": [{"topic": "a", "data_base64": "!"}]}"#,
            r#"{"produce": [{"topic": "a", "data": 1, "data_base64": ""}]}"#,
        ] {
            let reason = read(text).unwrap_err();
            assert!(reason.contains("can't be read"), "{text}: {reason}");
        }
    }
}
