//! Dapr: its sidecar with the Kafka pub/sub component and an application that serves
//! HTTP, which is this program.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use hyper::StatusCode;
use penstock_tests::ports;
use penstock_tests::process::Program;
use penstock_tests::topics;
use serde::{Deserialize, Serialize};

use crate::side::Work;

/// What Go is asked for.
const MODULE: &str = include_str!("../../peers/dapr/go.mod");

/// Path that messages are sent to.
const PATH: &str = "/orders";

/// Version of Dapr.
pub fn version() -> Option<&'static str> {
    super::required(MODULE, "github.com/dapr/dapr")
}

/// The sidecar, with its resources in `dir`, for an application on `port`. A batch of
/// 1 is a subscription for messages one by one.
pub fn program(
    executable: &Path,
    dir: &Path,
    port: u16,
    work: &Work,
    batch: u32,
) -> io::Result<Program> {
    fs::write(dir.join("pubsub.yaml"), component(&work.bootstrap))?;
    fs::write(dir.join("orders.yaml"), subscription(&work.topic, batch))?;
    let [http, grpc, internal, profile] = ports::free::<4>("127.0.0.1")?;
    Ok(Program::new(executable)
        .args(["--app-id", "bench", "--app-protocol", "http"])
        .args(["--app-channel-address", "127.0.0.1"])
        .args(["--app-port", &port.to_string()])
        .arg("--resources-path")
        .arg(dir)
        .args(["--dapr-listen-addresses", "127.0.0.1"])
        .args(["--dapr-http-port", &http.to_string()])
        .args(["--dapr-grpc-port", &grpc.to_string()])
        .args(["--dapr-internal-grpc-port", &internal.to_string()])
        .args(["--dapr-internal-grpc-listen-address", "127.0.0.1"])
        .args(["--profile-port", &profile.to_string()])
        .args(["--enable-metrics=false", "--log-level", "warn"]))
}

/// The Kafka component. The version of the protocol is one that current brokers
/// still speak.
fn component(bootstrap: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: kafka}}
spec:
  type: pubsub.kafka
  version: v1
  metadata:
  - {{name: brokers, value: \"{bootstrap}\"}}
  - {{name: authType, value: none}}
  - {{name: consumerGroup, value: {group}}}
  - {{name: initialOffset, value: oldest}}
  - {{name: version, value: \"3.6.0\"}}
  - {{name: channelBufferSize, value: \"1000\"}}
",
        group = topics::unique("bench.orders")
    )
}

/// Raw: what is read is no CloudEvent, so that decoding it as one would be in vain.
fn subscription(topic: &str, batch: u32) -> String {
    let bulk = match batch {
        0 | 1 => String::new(),
        batch => format!(
            "  bulkSubscribe: {{enabled: true, maxMessagesCount: {batch}, maxAwaitDurationMs: 100}}\n"
        ),
    };
    format!(
        "apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: orders}}
spec:
  pubsubname: kafka
  topic: {topic}
  routes: {{default: {PATH}}}
  metadata: {{rawPayload: \"true\"}}
{bulk}"
    )
}

/// What Dapr sends of several messages.
#[derive(Deserialize)]
struct Bulk<'a> {
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
}

/// Its identifiers are numbers, which need no unescaping.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    entry_id: &'a str,
}

#[derive(Serialize)]
struct Statuses<'a> {
    statuses: Vec<Status<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    entry_id: &'a str,
    status: &'static str,
}

/// Answers a request of Dapr's: how many messages it held, and what is said of them.
pub fn answer(path: &str, body: &Bytes, batch: u32) -> (u64, StatusCode, Bytes) {
    let refused = |status| (0, status, Bytes::new());
    if path != PATH {
        // What Dapr asks an application for at its start.
        return refused(StatusCode::NOT_FOUND);
    }
    if batch <= 1 {
        return (1, StatusCode::NO_CONTENT, Bytes::new());
    }
    let Ok(Bulk { entries }) = serde_json::from_slice(body) else {
        return refused(StatusCode::BAD_REQUEST);
    };
    let statuses = entries.iter().map(|entry| Status {
        entry_id: entry.entry_id,
        status: "SUCCESS",
    });
    let statuses = Statuses {
        statuses: statuses.collect(),
    };
    match serde_json::to_vec(&statuses) {
        Ok(answer) => (entries.len() as u64, StatusCode::OK, answer.into()),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_of_several_is_answered() {
        let sent = r#"{"id":"a","entries":[
            {"entryId":"0","event":"eyJ9","metadata":{"__key":"k"},"contentType":"a/b"},
            {"entryId":"1","event":"eyJ9","metadata":{},"contentType":"a/b"}]}"#;
        let (messages, status, body) = answer(PATH, &Bytes::from(sent), 100);
        assert_eq!((messages, status), (2, StatusCode::OK));
        let expected = r#"{"statuses":[{"entryId":"0","status":"SUCCESS"},{"entryId":"1","status":"SUCCESS"}]}"#;
        assert_eq!(body, expected);
    }

    #[test]
    fn only_messages_are_counted() {
        let counted = |path, batch| answer(path, &Bytes::from("x"), batch).0;
        assert_eq!(counted("/dapr/config", 1), 0);
        assert_eq!(counted(PATH, 1), 1);
        assert_eq!(counted(PATH, 100), 0);
    }
}
