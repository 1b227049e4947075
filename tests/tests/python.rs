//! Many messages through handlers of a few lines of Python.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_tests::groups;
use penstock_tests::kafka::Kafka;
use penstock_tests::process::Program;
use penstock_tests::produce::Produce;
use penstock_tests::{Consumer, Manifest, ports, topics};
use serde_json::json;
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(360);

const PARTITIONS: i32 = 8;

/// The whole handler: it writes down what it is given, and says that it has it.
const HANDLER: &str = "\
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = 'HTTP/1.1', True
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        OUT.write(b'%s %s %s\\n' % (self.headers['ce-kafkapartition'].encode(), self.headers['ce-kafkaoffset'].encode(), body))
        self.send_response_only(204); self.end_headers()

OUT = open(os.environ['OUT'], 'ab', 0)
ThreadingHTTPServer.request_queue_size = 64
ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// For each partition the offsets and numbers that the handler wrote down, in its order.
type Handled = BTreeMap<i32, Vec<(i64, u64)>>;

struct Scene {
    bootstrap: String,
    topic: String,
    group: String,
    dir: TempDir,
}

impl Scene {
    async fn new(messages: u64) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "python", PARTITIONS).await?;
        Produce::to(&topic).count(messages).send(&bootstrap).await?;
        let dir = TempDir::with_prefix("penstock-python-")?;
        let script = dir.path().join("handler.py");
        fs::write(&script, HANDLER)?;
        Ok(Self {
            group: topics::unique("test.python"),
            bootstrap,
            topic,
            dir,
        })
    }

    /// Runs it over all messages and returns what the handler wrote down.
    async fn run(&self, manifest: Manifest, messages: i64) -> Result<Handled, Box<dyn Error>> {
        let [port] = ports::free("127.0.0.1")?;
        let handler = Program::new("python3")
            .arg(self.dir.path().join("handler.py"))
            .env("PORT", port.to_string())
            .env("OUT", self.dir.path().join("out"))
            .start()?;
        let start = Instant::now();
        let consumer = Consumer::start(&manifest.set("/handler/port", port))?;
        groups::wait_for_committed(&self.bootstrap, &self.group, &self.topic, messages, LIMIT)
            .await
            .map_err(|error| {
                format!("{error}\n{}\nhandler:\n{}", consumer.tail(), handler.tail())
            })?;
        let took = start.elapsed();
        println!("{messages} messages in {took:.1?}");
        assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
        assert_eq!(handler.status(), None, "{}", handler.tail());
        read(&self.dir.path().join("out"))
    }
}

fn read(path: &Path) -> Result<Handled, Box<dyn Error>> {
    let mut partitions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in fs::read_to_string(path)?.lines() {
        let parts: Vec<_> = line.splitn(3, ' ').collect();
        let [partition, offset, body] = parts.as_slice() else {
            return Err(format!("{line:?}").into());
        };
        let body: serde_json::Value = serde_json::from_str(body)?;
        let seq = body["seq"].as_u64().ok_or("no seq")?;
        partitions
            .entry(partition.parse()?)
            .or_default()
            .push((offset.parse()?, seq));
    }
    Ok(partitions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_messages_and_none_is_lost() -> Outcome {
    let scene = Scene::new(100_000).await?;
    let manifest = Manifest::fast(&scene.bootstrap, &scene.group, &scene.topic, 8);
    let partitions = scene.run(manifest, 100_000).await?;
    let mut numbers: Vec<_> = partitions
        .into_values()
        .flatten()
        .map(|(_, seq)| seq)
        .collect();
    // No disruption, so nothing came twice either.
    assert_eq!(numbers.len(), 100_000);
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_in_order_by_the_local_mode() -> Outcome {
    let scene = Scene::new(100_000).await?;
    let manifest = scene.dir.path().join("consumer.yaml");
    // The local mode replaces the brokers.
    let text = Manifest::in_order("kafka:9092", &scene.group, &scene.topic).text();
    fs::write(&manifest, text)?;
    let start = Instant::now();
    let dev = Program::workspace("penstock")?
        .args(["dev", "--brokers", &scene.bootstrap, "--file"])
        .arg(&manifest)
        .args(["--handler-port", "0"])
        .args(["--metrics-address", "127.0.0.1:0"])
        .args(["--health-address", "127.0.0.1:0"])
        .args(["--", "python3"])
        .arg(scene.dir.path().join("handler.py"))
        .env("OUT", scene.dir.path().join("out"))
        .start()?;
    groups::wait_for_committed(&scene.bootstrap, &scene.group, &scene.topic, 100_000, LIMIT)
        .await
        .map_err(|error| format!("{error}\n{}", dev.tail()))?;
    println!("100000 messages in {:.1?}", start.elapsed());
    dev.terminate()?;
    let status = dev.wait(LIMIT).await?;
    assert!(status.success(), "{}", dev.tail());
    let partitions = read(&scene.dir.path().join("out"))?;
    assert_eq!(partitions.len(), PARTITIONS as usize);
    let mut numbers = Vec::new();
    for (partition, messages) in partitions {
        let offsets = messages.iter().map(|(offset, _)| *offset);
        let count = i64::try_from(messages.len())?;
        assert!(
            offsets.eq(0..count),
            "partition {partition} is out of order"
        );
        numbers.extend(messages.iter().map(|(_, seq)| *seq));
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_example_handles_every_message() -> Outcome {
    const MESSAGES: u64 = 20_000;
    let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
    let topic = topics::create(&bootstrap, "python-batch", PARTITIONS).await?;
    let dead = topics::create(&bootstrap, "python-batch-dead", 1).await?;
    let group = topics::unique("test.python");
    let orders = Produce::to(&topic).count(MESSAGES).value(|seq| {
        let amount = if seq % 10_000 == 7 { -1.0 } else { 9.5 };
        Some(json!({"id": seq, "amount": amount}).to_string().into())
    });
    orders.send(&bootstrap).await?;
    let [port] = ports::free("127.0.0.1")?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-batch");
    let handler = Program::new("python3")
        .arg(example.join("handler.py"))
        .env("PORT", port.to_string())
        .start()?;
    let manifest = Manifest::key_ordered(&bootstrap, &group, &topic, 4)
        .set("/consumeBatchSize", 500)
        .set("/handler/protocol", "BatchHttp")
        .set("/handler/port", port)
        .set("/delivery/onFailure", "DeadLetter")
        .set("/delivery/deadLetterTopic", dead.as_str());
    let consumer = Consumer::start(&manifest)?;
    let committed = i64::try_from(MESSAGES)?;
    groups::wait_for_committed(&bootstrap, &group, &topic, committed, LIMIT)
        .await
        .map_err(|error| format!("{error}\n{}\nhandler:\n{}", consumer.tail(), handler.tail()))?;
    let page = consumer.metrics().await?;
    let success = [("kafka_success", "true")];
    let handled = page.value("kafka_consumer_messages_processed_total", &success);
    assert_eq!(handled, Some(MESSAGES as f64 - 2.0));
    assert_eq!(topics::read_all(&bootstrap, &dead).await?.len(), 2);
    assert!(consumer.stop(LIMIT).await?.success(), "{}", consumer.tail());
    assert_eq!(handler.status(), None, "{}", handler.tail());
    Ok(())
}
