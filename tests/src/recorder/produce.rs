//! Records that a reply gives to produce, as HTTP handlers write them.

use penstock_runtime::ProducerRecord;
use serde_json::{Value, json};

/// One record with a key and JSON, as the body of an answer.
pub(super) fn body(topic: &str, key: &str, data: &Value) -> String {
    json!({ "produce": [{ "topic": topic, "key": key, "data": data }] }).to_string()
}

/// The list in a body; `None` where there is none.
pub(super) fn list(body: &[u8]) -> Option<Value> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("produce").cloned()
}

/// The records in a body.
pub(super) fn read(body: &str) -> Vec<ProducerRecord> {
    let list = list(body.as_bytes());
    let records = list
        .as_ref()
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    records
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            ProducerRecord::new(text("topic"), record["data"].to_string()).key(text("key"))
        })
        .collect()
}
