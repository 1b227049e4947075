//! A message as a CloudEvent, by the HTTP binding's binary mode.
//!
//! A message that is a CloudEvent already (Kafka binding, binary mode: headers
//! `ce_…`) keeps its attributes; any other is given some. Where it lies in
//! Kafka is told by extension attributes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use crate::record::{Message, Record};

/// `type` of a message that is no CloudEvent of its own.
const TYPE: HeaderValue = HeaderValue::from_static("dev.penstock.kafka.message");

const CE_ID: HeaderName = HeaderName::from_static("ce-id");
const CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
const CE_TIME: HeaderName = HeaderName::from_static("ce-time");
const CE_PARTITION_KEY: HeaderName = HeaderName::from_static("ce-partitionkey");
const CE_KEY_BASE64: HeaderName = HeaderName::from_static("ce-kafkakeybase64");
const CE_TOPIC: HeaderName = HeaderName::from_static("ce-kafkatopic");
const CE_PARTITION: HeaderName = HeaderName::from_static("ce-kafkapartition");
const CE_OFFSET: HeaderName = HeaderName::from_static("ce-kafkaoffset");
const CE_EPOCH: HeaderName = HeaderName::from_static("ce-kafkaepoch");
const CE_ATTEMPT: HeaderName = HeaderName::from_static("ce-attempt");
const CE_TOMBSTONE: HeaderName = HeaderName::from_static("ce-kafkatombstone");

/// Prefix of a Kafka header that carries an attribute of a CloudEvent.
const KAFKA_ATTRIBUTE: &str = "ce_";

/// Prefix under which the other Kafka headers are passed on.
const KAFKA_HEADER: &str = "kafka-header-";

/// Makes requests of messages.
pub(super) struct EventWriter {
    uri: Uri,
    content_type: HeaderValue,
}

impl EventWriter {
    /// Requests to a path. `json` says that the values are JSON.
    pub(super) fn new(uri: Uri, json: bool) -> Self {
        let content_type = match json {
            true => HeaderValue::from_static("application/json"),
            false => HeaderValue::from_static("application/octet-stream"),
        };
        Self { uri, content_type }
    }

    /// The request for one attempt at a message.
    pub(super) fn request<T>(&self, message: &Message<'_, T>) -> Request<Full<Bytes>> {
        let payload = message.payload().unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(payload)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(16);
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        write_event(headers, message);
        write_position(headers, message);
        headers.insert(CE_ATTEMPT, message.attempt().into());
        write_kafka_headers(headers, message);
        request
    }
}

/// The attributes that every event has. Those of a message that is an event
/// already are put over them later.
fn write_event(headers: &mut HeaderMap, record: &Record) {
    headers.insert(CE_SPECVERSION, HeaderValue::from_static("1.0"));
    headers.insert(CE_TYPE, TYPE);
    let mut text = String::with_capacity(64);
    let _ = write!(text, "/kafka/topics/{}", record.topic());
    insert_text(headers, CE_SOURCE, &text);
    text.clear();
    let _ = write!(
        text,
        "{}-{}-{}",
        record.topic(),
        record.partition(),
        record.offset()
    );
    insert_text(headers, CE_ID, &text);
    let time = record.timestamp().map(jiff::Timestamp::from_millisecond);
    if let Some(Ok(time)) = time {
        text.clear();
        let _ = write!(text, "{time}");
        insert_text(headers, CE_TIME, &text);
    }
}

fn write_position(headers: &mut HeaderMap, record: &Record) {
    insert_text(headers, CE_TOPIC, record.topic());
    headers.insert(CE_PARTITION, record.partition().into());
    headers.insert(CE_OFFSET, record.offset().into());
    headers.insert(CE_EPOCH, record.epoch().into());
    if record.payload().is_none() {
        headers.insert(CE_TOMBSTONE, HeaderValue::from_static("true"));
    }
    match record.key().map(|key| (key, std::str::from_utf8(key))) {
        Some((_, Ok(key))) => insert_text(headers, CE_PARTITION_KEY, &percent_encoded(key)),
        Some((key, Err(_))) => insert_text(headers, CE_KEY_BASE64, &STANDARD.encode(key)),
        None => {}
    }
}

fn write_kafka_headers(headers: &mut HeaderMap, record: &Record) {
    for (name, value) in record.headers() {
        let value = String::from_utf8_lossy(value.unwrap_or_default());
        let value = percent_encoded(&value);
        if let Some(attribute) = name.strip_prefix(KAFKA_ATTRIBUTE) {
            insert_named(headers, &format!("ce-{attribute}"), &value);
        } else if name.eq_ignore_ascii_case("content-type") {
            insert_text(headers, CONTENT_TYPE, &value);
        } else {
            append_named(
                headers,
                &format!("{KAFKA_HEADER}{}", name_encoded(name)),
                &value,
            );
        }
    }
}

/// A value that can't stand in a header is left out: all callers encode first,
/// so only what is not text at all is concerned.
fn insert_text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn insert_named(headers: &mut HeaderMap, name: &str, value: &str) {
    if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
        insert_text(headers, name, value);
    }
}

fn append_named(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        headers.append(name, value);
    }
}

/// The HTTP binding's encoding of values (section 3.1.3.2): all but printable
/// ASCII is percent-encoded, and so are space, `"` and `%`.
fn percent_encoded(text: &str) -> String {
    encoded(text, |byte| {
        (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%'
    })
}

/// Characters that a header's name can't have (RFC 9110, section 5.6.2) are
/// percent-encoded.
fn name_encoded(name: &str) -> String {
    encoded(name, |byte| {
        byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)
    })
}

fn encoded(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::OwnedRecord;

    fn request(record: OwnedRecord, json: bool) -> Request<Full<Bytes>> {
        let record = Record::from(record);
        let writer = EventWriter::new(Uri::from_static("/orders"), json);
        writer.request(&Message::new(&record, &(), 2))
    }

    fn header<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Option<&'a str> {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    fn order() -> OwnedRecord {
        OwnedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 42,
            key: Some(b"k 1".to_vec()),
            payload: Some(b"{}".to_vec()),
            timestamp: Some(1_700_000_000_123),
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_message_becomes_an_event_with_its_position() {
        let request = request(order(), true);
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/orders");
        for (name, value) in [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-type", "dev.penstock.kafka.message"),
            ("ce-source", "/kafka/topics/orders"),
            ("ce-id", "orders-3-42"),
            ("ce-time", "2023-11-14T22:13:20.123Z"),
            ("ce-partitionkey", "k%201"),
            ("ce-kafkatopic", "orders"),
            ("ce-kafkapartition", "3"),
            ("ce-kafkaoffset", "42"),
            ("ce-kafkaepoch", "0"),
            ("ce-attempt", "2"),
        ] {
            assert_eq!(header(&request, name), Some(value), "{name}");
        }
        assert_eq!(header(&request, "ce-kafkatombstone"), None);
    }

    #[test]
    fn a_tombstone_says_so() {
        let mut tombstone = order();
        tombstone.payload = None;
        let request = request(tombstone, false);
        assert_eq!(header(&request, "ce-kafkatombstone"), Some("true"));
        assert_eq!(
            header(&request, "content-type"),
            Some("application/octet-stream")
        );
    }

    #[test]
    fn a_key_that_is_not_text_comes_as_base64() {
        let mut record = order();
        record.key = Some(vec![0xff, 0x00]);
        let request = request(record, true);
        assert_eq!(header(&request, "ce-kafkakeybase64"), Some("/wA="));
        assert_eq!(header(&request, "ce-partitionkey"), None);
    }

    #[test]
    fn an_event_keeps_its_attributes_and_other_headers_are_passed_on() {
        let mut record = order();
        record.headers = vec![
            ("ce_id".into(), Some(b"A234".to_vec())),
            ("ce_type".into(), Some(b"com.example.order".to_vec())),
            ("content-type".into(), Some(b"text/xml".to_vec())),
            ("trace id".into(), Some("grün".as_bytes().to_vec())),
            ("empty".into(), None),
            ("two".into(), Some(b"1".to_vec())),
            ("two".into(), Some(b"2".to_vec())),
        ];
        let request = request(record, true);
        assert_eq!(header(&request, "ce-id"), Some("A234"));
        assert_eq!(header(&request, "ce-type"), Some("com.example.order"));
        assert_eq!(header(&request, "content-type"), Some("text/xml"));
        assert_eq!(
            header(&request, "kafka-header-trace%20id"),
            Some("gr%C3%BCn")
        );
        assert_eq!(header(&request, "kafka-header-empty"), Some(""));
        let two: Vec<_> = request
            .headers()
            .get_all("kafka-header-two")
            .iter()
            .collect();
        assert_eq!(two, ["1", "2"]);
    }

    #[test]
    fn no_key_or_header_can_break_the_request() {
        let mut record = order();
        record.key = Some(b"a\r\nx: y".to_vec());
        record.headers = vec![("a\r\nb".into(), Some(b"c\r\nd: e".to_vec()))];
        let request = request(record, true);
        assert_eq!(header(&request, "ce-partitionkey"), Some("a%0D%0Ax:%20y"));
        assert_eq!(
            header(&request, "kafka-header-a%0D%0Ab"),
            Some("c%0D%0Ad:%20e")
        );
    }
}
