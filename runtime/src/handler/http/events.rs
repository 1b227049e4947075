//! Writes messages as CloudEvents in JSON format, several in one array.
//!
//! The attributes are those of the binary mode (see `cloudevents`). Offset and epoch are text,
//! because a CloudEvent's integers have 32 bits. The names of Kafka's headers are not allowed as
//! names of attributes. So the attribute `kafkaheaders` contains all headers in their order,
//! encoded like a form: `name=value&name=value`.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cloudevents::{KAFKA_ATTRIBUTE, TYPE, is_content_type, percent_encode_form};
use super::deadline::Deadline;
use crate::handler::record::{Message, Record};

/// Writes the array, for an attempt that ends at `deadline`. With `json` the values are JSON.
pub(super) fn write_events<T>(
    messages: &[Message<'_, T>],
    deadline: Deadline,
    json: bool,
    out: &mut Vec<u8>,
) {
    let deadline = deadline.to_string();
    out.push(b'[');
    for (place, message) in messages.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_event(message, &deadline, json, out);
    }
    out.push(b']');
}

fn write_event<T>(message: &Message<'_, T>, deadline: &str, json: bool, out: &mut Vec<u8>) {
    let record: &Record = message;
    let content_type = match json {
        true => "application/json",
        false => "application/octet-stream",
    };
    let mut event = Object::begin(out, given(record));
    event.text("specversion", "1.0");
    event.text("type", TYPE);
    event.text("source", &format!("/kafka/topics/{}", record.topic()));
    event.text(
        "id",
        &format!(
            "{}-{}-{}",
            record.topic(),
            record.partition(),
            record.offset()
        ),
    );
    let time = record.timestamp().map(jiff::Timestamp::from_millisecond);
    if let Some(Ok(time)) = time {
        event.text("time", &time.to_string());
    }
    event.text("datacontenttype", content_type);
    event.text("kafkatopic", record.topic());
    event.number("kafkapartition", record.partition());
    event.text("kafkaoffset", itoa::Buffer::new().format(record.offset()));
    event.text("kafkaepoch", itoa::Buffer::new().format(record.epoch()));
    event.number("attempt", message.attempt());
    event.text("attemptdeadline", deadline);
    match record.key().map(|key| (key, std::str::from_utf8(key))) {
        Some((_, Ok(key))) => event.text("partitionkey", key),
        Some((key, Err(_))) => event.text("kafkakeybase64", &STANDARD.encode(key)),
        None => {}
    }
    event.text("kafkaheaders", &form(record));
    match record.payload() {
        // The value was decoded, so it is JSON and can be copied.
        Some(value) if json => event.raw("data", value),
        Some(value) => event.text("data_base64", &STANDARD.encode(value)),
        None => event.raw("kafkatombstone", b"true"),
    }
    event.end();
}

/// A JSON object while it is written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// The message's own attributes, which replace Penstock's.
    given: Vec<(String, String)>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>, given: Vec<(String, String)>) -> Self {
        out.push(b'{');
        Self {
            out,
            given,
            empty: true,
        }
    }

    /// Writes a member, unless the message has its own or the text is empty.
    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() && !self.is_given(name) {
            self.quoted(name, value);
        }
    }

    fn number(&mut self, name: &str, value: impl itoa::Integer) {
        self.raw(name, itoa::Buffer::new().format(value).as_bytes());
    }

    fn raw(&mut self, name: &str, value: &[u8]) {
        if !self.is_given(name) {
            self.name(name);
            self.out.extend_from_slice(value);
        }
    }

    /// Writes the message's own attributes, and the end.
    fn end(mut self) {
        for (name, value) in std::mem::take(&mut self.given) {
            self.quoted(&name, &value);
        }
        self.out.push(b'}');
    }

    fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    fn quoted(&mut self, name: &str, value: &str) {
        self.name(name);
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *self.out, value);
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        // Names are letters and digits, and `data_base64`.
        let _ = write!(self.out, "\"{name}\":");
    }
}

/// The attributes of a message: those of a CloudEvent by Kafka's binding, and the content type. The
/// last header of a name counts.
fn given(record: &Record) -> Vec<(String, String)> {
    let mut given: Vec<(String, String)> = Vec::new();
    for (name, value) in record.headers() {
        let name = match name.strip_prefix(KAFKA_ATTRIBUTE) {
            Some(attribute) => attribute.to_ascii_lowercase(),
            None if is_content_type(name) => "datacontenttype".to_owned(),
            None => continue,
        };
        // Penstock writes the value, and the name of an attribute has only these characters
        // (CloudEvents, "Attribute Naming Convention").
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_name && name != "data" {
            given.retain(|(earlier, _)| *earlier != name);
            given.push((
                name,
                String::from_utf8_lossy(value.unwrap_or_default()).into_owned(),
            ));
        }
    }
    given
}

/// Returns the other headers, encoded like a form.
fn form(record: &Record) -> String {
    let mut form = Vec::new();
    for (name, value) in record.headers() {
        if name.starts_with(KAFKA_ATTRIBUTE) || is_content_type(name) {
            continue;
        }
        if !form.is_empty() {
            form.push(b'&');
        }
        percent_encode_form(name.as_bytes(), &mut form);
        form.push(b'=');
        percent_encode_form(value.unwrap_or_default(), &mut form);
    }
    // It is ASCII.
    String::from_utf8(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::handler::record::OwnedRecord;

    fn order() -> OwnedRecord {
        OwnedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 42,
            key: Some(b"k\"1".to_vec()),
            payload: Some(b"{\"id\": 7}".to_vec()),
            timestamp: Some(1_700_000_000_123),
            headers: Vec::new(),
        }
    }

    fn events(records: Vec<OwnedRecord>, json: bool) -> Value {
        let records: Vec<_> = records.into_iter().map(Record::from).collect();
        let messages: Vec<_> = records
            .iter()
            .map(|record| Message::new(record, &(), 2))
            .collect();
        let mut out = Vec::new();
        let deadline = Deadline::at_millisecond(1_700_000_010_000);
        write_events(&messages, deadline, json, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn messages_become_events_with_their_positions() {
        let expected = json!({
            "specversion": "1.0",
            "type": "dev.penstock.kafka.message",
            "source": "/kafka/topics/orders",
            "id": "orders-3-42",
            "time": "2023-11-14T22:13:20.123Z",
            "datacontenttype": "application/json",
            "kafkatopic": "orders",
            "kafkapartition": 3,
            "kafkaoffset": "42",
            "kafkaepoch": "0",
            "attempt": 2,
            "attemptdeadline": "2023-11-14T22:13:30.000Z",
            "partitionkey": "k\"1",
            "data": {"id": 7},
        });
        assert_eq!(
            events(vec![order(), order()], true),
            json!([expected, expected])
        );
    }

    #[test]
    fn bytes_come_as_base64_and_a_tombstone_says_so() {
        let mut bytes = order();
        (bytes.key, bytes.payload) = (Some(vec![0xff, 0]), Some(vec![0, 1]));
        let mut tombstone = order();
        (tombstone.key, tombstone.payload) = (None, None);
        let events = events(vec![bytes, tombstone], false);
        assert_eq!(events[0]["data_base64"], "AAE=");
        assert_eq!(events[0]["kafkakeybase64"], "/wA=");
        assert_eq!(events[0]["datacontenttype"], "application/octet-stream");
        assert_eq!(events[1]["kafkatombstone"], true);
        assert_eq!(events[1].get("data_base64"), None);
        assert_eq!(events[1].get("partitionkey"), None);
    }

    #[test]
    fn an_event_keeps_its_attributes_and_other_headers_are_a_form() {
        let mut record = order();
        record.headers = vec![
            ("ce_id".into(), Some(b"A234".to_vec())),
            ("ce_Type".into(), Some(b"com.example.order".to_vec())),
            ("ce_data".into(), Some(b"x".to_vec())),
            ("ce_not a name\"".into(), Some(b"x".to_vec())),
            ("content-type".into(), Some(b"text/xml".to_vec())),
            ("trace id".into(), Some("gr\u{fc}n".as_bytes().to_vec())),
            ("a=b&c".into(), Some(vec![0xff])),
            ("empty".into(), None),
        ];
        let events = events(vec![record], true);
        assert_eq!(events[0]["id"], "A234");
        assert_eq!(events[0]["type"], "com.example.order");
        assert_eq!(events[0]["data"], json!({"id": 7}));
        assert_eq!(events[0]["datacontenttype"], "text/xml");
        assert_eq!(
            events[0]["kafkaheaders"],
            "trace%20id=gr%C3%BCn&a%3Db%26c=%FF&empty="
        );
    }
}
