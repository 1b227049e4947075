//! Writes a message as a CloudEvent, in the binary mode of the HTTP binding.
//!
//! A message that is a CloudEvent already (Kafka binding, binary mode: headers `ce_…`) keeps its
//! attributes. Penstock gives attributes to other messages. Extension attributes contain the
//! message's place in Kafka.

use std::fmt::Display;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::header::HeaderName;

use super::deadline::Deadline;
use crate::handler::record::{Message, Record};

/// The `type` of a message that is not a CloudEvent.
pub(super) const TYPE: &str = "dev.penstock.kafka.message";

/// The prefix of a Kafka header with an attribute of a CloudEvent.
pub(super) const KAFKA_ATTRIBUTE: &str = "ce_";

/// The prefix of the other Kafka headers in the request.
const KAFKA_HEADER: &str = "kafka-header-";

/// Writes the requests of messages: the text before the body. The body is the message's value,
/// unchanged.
///
/// The text is written directly. Most values are short, so a map of headers for each message would
/// cost more than the rest of the work.
pub(super) struct EventWriter {
    /// The request line, and the headers that never change.
    beginning: String,
    content_type: &'static str,
}

impl EventWriter {
    /// Creates the writer of requests to a path. With `json` the values are JSON.
    pub(super) fn new(uri: &Uri, json: bool) -> Self {
        Self {
            beginning: format!("POST {uri} HTTP/1.1\r\nhost: localhost\r\n"),
            content_type: match json {
                true => "application/json",
                false => "application/octet-stream",
            },
        }
    }

    /// Writes the text before the body, for an attempt that ends at `deadline`.
    pub(super) fn write<T>(&self, message: &Message<'_, T>, deadline: Deadline, out: &mut Vec<u8>) {
        out.extend_from_slice(self.beginning.as_bytes());
        let mut head = Head {
            out,
            given: given(message),
        };
        head.text("content-type", self.content_type);
        write_event(&mut head, message);
        write_position(&mut head, message);
        head.number("ce-attempt", message.attempt());
        head.shown("ce-attemptdeadline", deadline);
        write_kafka_headers(&mut head, message);
        head.number("content-length", message.payload().map_or(0, <[u8]>::len));
        head.out.extend_from_slice(b"\r\n");
    }
}

/// The head of a request while it is written.
struct Head<'a> {
    out: &'a mut Vec<u8>,
    /// The message's own headers, which replace Penstock's.
    given: Vec<(HeaderName, String)>,
}

impl Head<'_> {
    /// Writes a header, unless the message has its own.
    fn field(&mut self, name: &str, write_value: impl FnOnce(&mut Vec<u8>)) {
        if self.given.iter().any(|(given, _)| given.as_str() == name) {
            return;
        }
        self.line(name, write_value);
    }

    fn line(&mut self, name: &str, write_value: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        write_value(self.out);
        self.out.extend_from_slice(b"\r\n");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.field(name, |out| out.extend_from_slice(value.as_bytes()));
    }

    fn shown(&mut self, name: &str, value: impl Display) {
        self.field(name, |out| {
            // Writing to memory does not fail.
            let _ = write!(out, "{value}");
        });
    }

    fn number(&mut self, name: &str, value: impl itoa::Integer) {
        self.field(name, |out| push_number(out, value));
    }
}

fn push_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The attributes of every event.
fn write_event(head: &mut Head<'_>, record: &Record) {
    head.text("ce-specversion", "1.0");
    head.text("ce-type", TYPE);
    head.field("ce-source", |out| {
        out.extend_from_slice(b"/kafka/topics/");
        out.extend_from_slice(record.topic().as_bytes());
    });
    head.field("ce-id", |out| {
        out.extend_from_slice(record.topic().as_bytes());
        out.push(b'-');
        push_number(out, record.partition());
        out.push(b'-');
        push_number(out, record.offset());
    });
    let time = record.timestamp().map(jiff::Timestamp::from_millisecond);
    if let Some(Ok(time)) = time {
        head.shown("ce-time", time);
    }
}

fn write_position(head: &mut Head<'_>, record: &Record) {
    head.text("ce-kafkatopic", record.topic());
    head.number("ce-kafkapartition", record.partition());
    head.number("ce-kafkaoffset", record.offset());
    head.number("ce-kafkaepoch", record.epoch());
    if record.payload().is_none() {
        head.text("ce-kafkatombstone", "true");
    }
    match record.key().map(|key| (key, std::str::from_utf8(key))) {
        Some((_, Ok(key))) => head.field("ce-partitionkey", |out| percent_encode(key, out)),
        Some((key, Err(_))) => head.text("ce-kafkakeybase64", &STANDARD.encode(key)),
        None => {}
    }
}

/// The headers of a message that replace Penstock's: attributes of a CloudEvent, and the content
/// type. The last header of a name counts.
fn given(record: &Record) -> Vec<(HeaderName, String)> {
    let mut given: Vec<(HeaderName, String)> = Vec::new();
    for (name, value) in record.headers() {
        let name = match name.strip_prefix(KAFKA_ATTRIBUTE) {
            Some(attribute) => format!("ce-{attribute}"),
            None if is_content_type(name) => name.to_owned(),
            None => continue,
        };
        // HTTP does not allow such a name unchanged.
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            given.retain(|(earlier, _)| *earlier != name);
            given.push((name, header_value(value)));
        }
    }
    given
}

pub(super) fn is_content_type(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-type")
}

fn write_kafka_headers(head: &mut Head<'_>, record: &Record) {
    for (name, value) in std::mem::take(&mut head.given) {
        head.line(name.as_str(), |out| out.extend_from_slice(value.as_bytes()));
    }
    for (name, value) in record.headers() {
        if !name.starts_with(KAFKA_ATTRIBUTE) && !is_content_type(name) {
            let name = format!("{KAFKA_HEADER}{}", name_encoded(name));
            head.line(&name, |out| {
                out.extend_from_slice(header_value(value).as_bytes());
            });
        }
    }
}

/// Encodes the value of a Kafka header; a null value is empty.
fn header_value(value: Option<&[u8]>) -> String {
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    let mut encoded = Vec::with_capacity(value.len());
    percent_encode(&value, &mut encoded);
    // It is ASCII.
    String::from_utf8(encoded).unwrap_or_default()
}

/// Encodes a value as the HTTP binding does (section 3.1.3.2): percent-encodes everything but
/// printable ASCII, and space, `"` and `%`.
fn percent_encode(text: &str, out: &mut Vec<u8>) {
    encode(text.as_bytes(), out, |byte| {
        (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%'
    });
}

/// Encodes a name or a value of a form: percent-encodes all characters but those that RFC 3986
/// leaves unreserved.
pub(super) fn percent_encode_form(bytes: &[u8], out: &mut Vec<u8>) {
    encode(bytes, out, |byte| {
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
    });
}

/// Encodes a header's name: percent-encodes the characters that RFC 9110 (section 5.6.2) does not
/// allow, and writes the others in lower case.
fn name_encoded(name: &str) -> String {
    let mut encoded = Vec::with_capacity(name.len());
    encode(name.as_bytes(), &mut encoded, |byte| {
        byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)
    });
    // It is ASCII.
    String::from_utf8(encoded)
        .unwrap_or_default()
        .to_ascii_lowercase()
}

fn encode(bytes: &[u8], out: &mut Vec<u8>, plain: impl Fn(u8) -> bool) {
    for &byte in bytes {
        if plain(byte) {
            out.push(byte);
        } else {
            // Writing to memory does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::handler::record::OwnedRecord;

    /// A request as an HTTP server reads it.
    struct Request {
        line: String,
        headers: HeaderMap,
    }

    fn request(record: OwnedRecord, json: bool) -> Request {
        let record = Record::from(record);
        let writer = EventWriter::new(&Uri::from_static("/orders"), json);
        let mut head = Vec::new();
        let deadline = Deadline::at_millisecond(1_700_000_010_000);
        writer.write(&Message::new(&record, &(), 2), deadline, &mut head);
        let mut space = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut space);
        let length = parsed.parse(&head).unwrap();
        assert_eq!(length, httparse::Status::Complete(head.len()));
        let (method, path) = (parsed.method.unwrap(), parsed.path.unwrap());
        let headers = parsed.headers.iter().map(|header| {
            // HTTP knows no case in names; what we write is in lower case.
            assert_eq!(header.name, header.name.to_ascii_lowercase());
            (
                header.name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(header.value).unwrap(),
            )
        });
        Request {
            line: format!("{method} {path} HTTP/1.{}", parsed.version.unwrap()),
            headers: headers.collect(),
        }
    }

    /// The value of a header that comes once.
    fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
        let mut values = request.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} comes twice");
        Some(value.to_str().unwrap())
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
        assert_eq!(request.line, "POST /orders HTTP/1.1");
        for (name, value) in [
            ("host", "localhost"),
            ("content-length", "2"),
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
            ("ce-attemptdeadline", "2023-11-14T22:13:30.000Z"),
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
        assert_eq!(header(&request, "content-length"), Some("0"));
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
            ("ce_type".into(), Some(b"of another time".to_vec())),
            ("ce_type".into(), Some(b"com.example.order".to_vec())),
            ("ce_Kind".into(), Some(b"new".to_vec())),
            ("ce_not a name".into(), Some(b"x".to_vec())),
            ("content-type".into(), Some(b"text/xml".to_vec())),
            ("trace id".into(), Some("grün".as_bytes().to_vec())),
            ("empty".into(), None),
            ("two".into(), Some(b"1".to_vec())),
            ("two".into(), Some(b"2".to_vec())),
        ];
        let request = request(record, true);
        assert_eq!(header(&request, "ce-id"), Some("A234"));
        assert_eq!(header(&request, "ce-type"), Some("com.example.order"));
        assert_eq!(header(&request, "ce-kind"), Some("new"));
        assert_eq!(header(&request, "content-type"), Some("text/xml"));
        assert_eq!(
            header(&request, "kafka-header-trace%20id"),
            Some("gr%C3%BCn")
        );
        assert_eq!(header(&request, "kafka-header-empty"), Some(""));
        let two: Vec<_> = request.headers.get_all("kafka-header-two").iter().collect();
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
