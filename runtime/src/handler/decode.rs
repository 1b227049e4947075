//! Decoders: from the bytes of a message to the handler's data.

pub(crate) mod json;
mod thorough;

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use thiserror::Error;

pub use self::json::JsonError;
use crate::handler::record::Record;

/// The error of a value that cannot be decoded. The message is skipped and counted.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The message has no value (a tombstone), and the format needs one.
    #[error("the message has no value")]
    Tombstone,
    /// The value is not valid JSON.
    #[error("not valid JSON: {0}")]
    Json(#[from] JsonError),
    /// The value is JSON, but not of the expected type.
    #[error("not the expected JSON: {0}")]
    Shape(#[from] serde_json::Error),
    /// Another decoder refused the value.
    #[error("{0}")]
    Other(String),
}

/// A decoded value, and the time at which the message entered the system, if the value has it.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The value.
    pub data: T,
    /// Milliseconds since the epoch, from the field `endpoint_timestamp`.
    pub endpoint_timestamp: Option<f64>,
}

/// A decoder of messages. Implement it for other formats. An error skips the message and counts
/// it as invalid.
pub trait Decoder: Send + Sync + 'static {
    /// The data for the handler.
    type Data: Send + Sync;

    /// Decodes one message.
    fn decode(&self, record: &Record) -> Result<Decoded<Self::Data>, DecodeError>;
}

/// JSON (RFC 8259), decoded as any `T`. The value must be UTF-8 without a byte order mark,
/// including the fields that `T` ignores. A value that does not fit `T` is invalid.
pub struct Json<T = Value> {
    _data: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// Creates the decoder.
    pub const fn new() -> Self {
        Self { _data: PhantomData }
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Decoder for Json<T> {
    type Data = T;

    fn decode(&self, record: &Record) -> Result<Decoded<T>, DecodeError> {
        let payload = record.payload().ok_or(DecodeError::Tombstone)?;
        Ok(Decoded {
            data: thorough::read(payload)?,
            endpoint_timestamp: endpoint_timestamp(payload),
        })
    }
}

/// JSON that is checked and forwarded unchanged, for handlers outside the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonText;

impl Decoder for JsonText {
    type Data = ();

    fn decode(&self, record: &Record) -> Result<Decoded<()>, DecodeError> {
        let payload = record.payload().ok_or(DecodeError::Tombstone)?;
        json::check(payload)?;
        Ok(Decoded {
            data: (),
            endpoint_timestamp: endpoint_timestamp(payload),
        })
    }
}

/// Any bytes or none, which the handler reads from the record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Decoder for Raw {
    type Data = ();

    fn decode(&self, _: &Record) -> Result<Decoded<()>, DecodeError> {
        Ok(Decoded {
            data: (),
            endpoint_timestamp: None,
        })
    }
}

/// The name of the field with the time at which a message entered the system.
const ENDPOINT_TIMESTAMP: &str = "endpoint_timestamp";

/// Returns the field of a valid value. Parses the value only if the name occurs in it: to
/// search for the bytes is many times faster than to parse the whole value again.
fn endpoint_timestamp(payload: &[u8]) -> Option<f64> {
    static NAME: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(ENDPOINT_TIMESTAMP));
    NAME.find(payload)?;
    serde_json::from_slice::<Envelope>(payload).ok()?.0
}

/// Any JSON value. From an object, it takes the number in `endpoint_timestamp`. If a name comes
/// twice, the last one counts, as in baseplate.
struct Envelope(Option<f64>);

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let mut timestamp = None;
        while let Some(key) = map.next_key::<FieldName>()? {
            if key.0 {
                timestamp = map.next_value::<Number>()?.0;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Envelope(timestamp))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Envelope, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Envelope(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }

    fn visit_unit<E>(self) -> Result<Envelope, E> {
        Ok(Envelope(None))
    }
}

/// Is `true` if the name of a field is `endpoint_timestamp`; the name is not kept.
struct FieldName(bool);

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
                Ok(FieldName(name == ENDPOINT_TIMESTAMP))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// A number, or nothing if the value has another type.
#[derive(Deserialize)]
#[serde(from = "Value")]
struct Number(Option<f64>);

impl From<Value> for Number {
    fn from(value: Value) -> Self {
        Self(value.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::record::OwnedRecord;

    fn record(payload: Option<&[u8]>) -> Record {
        Record::from(OwnedRecord {
            payload: payload.map(<[u8]>::to_vec),
            ..OwnedRecord::default()
        })
    }

    /// All JSON decoders on one value: whether it is valid, and its timestamp.
    fn decode(payload: &[u8]) -> Option<Option<f64>> {
        fn with(decoder: impl Decoder, record: &Record) -> Option<Option<f64>> {
            let decoded = decoder.decode(record).ok()?;
            Some(decoded.endpoint_timestamp)
        }
        let record = record(Some(payload));
        let text = with(JsonText, &record);
        assert_eq!(with(Json::<Value>::new(), &record), text);
        // Fits anything, and keeps nothing of it.
        assert_eq!(with(Json::<IgnoredAny>::new(), &record), text);
        text
    }

    #[test]
    fn any_json_value_is_valid() {
        for valid in [
            "{}",
            "[]",
            "[1,{\"a\":[]}]",
            "1",
            "-1.5e3",
            "true",
            "null",
            "\"x\"",
            " {\"a\": null} ",
        ] {
            assert_eq!(decode(valid.as_bytes()), Some(None), "{valid}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let invalid: [&[u8]; 17] = [
            b"",
            b" ",
            b"{",
            b"{} {}",
            b"{'a': 1}",
            b"NaN",
            b"[Infinity]",
            b"\"\x01\"",
            b"\"\xff\"",
            b"\xef\xbb\xbf{}",
            b"{\"a\":1,}",
            b"{\"a\": {\"b\": \"\xff\"}}",
            b"{\"a\": 1e999}",
            b"[[\"\\ud800\"]]",
            b"{\"a\": \"\\udc00\\ud800\"}",
            b"{\"endpoint_timestamp\": 1, \"a\": [\"\xc3\"]}",
            deep.as_bytes(),
        ];
        for payload in invalid {
            assert_eq!(
                decode(payload),
                None,
                "{}",
                String::from_utf8_lossy(payload)
            );
        }
    }

    #[test]
    fn the_endpoint_timestamp_is_found_where_it_is_a_number() {
        let cases = [
            (r#"{"endpoint_timestamp": 1500}"#, Some(1500.0)),
            (
                r#"{"a": {}, "endpoint_timestamp": 1500.5, "b": 1}"#,
                Some(1500.5),
            ),
            (
                r#"{"endpoint_timestamp": 1, "endpoint_timestamp": 2}"#,
                Some(2.0),
            ),
            (r#"{"endpoint_timestamp": "1500"}"#, None),
            (r#"{"endpoint_timestamp": null}"#, None),
            (r#"{"endpoint_timestamp": true}"#, None),
            (r#"{"endpoint_timestamp": {"endpoint_timestamp": 1}}"#, None),
            (r#"{"nested": {"endpoint_timestamp": 1}}"#, None),
            (r#"["endpoint_timestamp", 1]"#, None),
            (r#""endpoint_timestamp""#, None),
            (r#"{"other": 1}"#, None),
        ];
        for (payload, expected) in cases {
            assert_eq!(decode(payload.as_bytes()), Some(expected), "{payload}");
        }
    }

    #[test]
    fn a_tombstone_is_invalid_json_and_valid_raw() {
        let tombstone = record(None);
        assert!(matches!(
            JsonText.decode(&tombstone),
            Err(DecodeError::Tombstone)
        ));
        assert!(matches!(
            Json::<Value>::new().decode(&tombstone),
            Err(DecodeError::Tombstone)
        ));
        assert!(Raw.decode(&tombstone).is_ok());
    }

    #[test]
    fn a_typed_value_must_fit_its_type() {
        #[derive(Deserialize)]
        struct Order {
            id: u64,
        }
        let decoder = Json::<Order>::new();
        let order = decoder.decode(&record(Some(br#"{"id": 7, "more": 1}"#)));
        assert_eq!(order.unwrap().data.id, 7);
        assert!(decoder.decode(&record(Some(br#"{"id": "x"}"#))).is_err());
    }
}
