//! Redpanda Connect: its Kafka input and its HTTP output, which sends to this program.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use hyper::StatusCode;
use penstock_tests::process::Program;
use penstock_tests::topics;

use crate::side::Work;

/// What Go is asked for.
const MODULE: &str = include_str!("../../peers/connect/go.mod");

/// Version of Redpanda Connect.
pub fn version() -> Option<&'static str> {
    super::required(MODULE, "github.com/redpanda-data/connect/v4")
}

/// The program with its configuration in `dir`, sending to `port`. A batch of 1 is a
/// request for each message; a larger one is sent as lines.
pub fn program(
    executable: &Path,
    dir: &Path,
    port: u16,
    work: &Work,
    batch: u32,
) -> io::Result<Program> {
    let file = dir.join("connect.yaml");
    fs::write(&file, config(port, work, batch))?;
    Ok(Program::new(executable).args(["run"]).arg(file))
}

fn config(port: u16, work: &Work, batch: u32) -> String {
    let batching = match batch {
        0 | 1 => String::new(),
        batch => format!(
            "    batching:
      count: {batch}
      period: 100ms
      processors: [{{archive: {{format: lines}}}}]
"
        ),
    };
    format!(
        "http: {{enabled: false}}
logger: {{level: WARN}}
metrics: {{none: {{}}}}
input:
  kafka_franz:
    seed_brokers: [\"{bootstrap}\"]
    topics: [{topic}]
    consumer_group: {group}
    start_from_oldest: true
{batching}output:
  http_client:
    url: http://127.0.0.1:{port}/
    verb: POST
    max_in_flight: {in_flight}
    headers: {{Content-Type: application/octet-stream}}
",
        bootstrap = work.bootstrap,
        topic = work.topic,
        group = topics::unique("bench.orders"),
        in_flight = work.handlers,
    )
}

/// Answers a request: how many messages it held. A value has no line break.
pub fn answer(body: &Bytes, batch: u32) -> (u64, StatusCode, Bytes) {
    let messages = match batch {
        0 | 1 => 1,
        _ => 1 + body.iter().filter(|byte| **byte == b'\n').count() as u64,
    };
    (messages, StatusCode::NO_CONTENT, Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages() {
        let counted = |batch| answer(&Bytes::from("{}\n{}\n{}"), batch).0;
        assert_eq!(counted(100), 3);
        assert_eq!(counted(1), 1);
    }
}
