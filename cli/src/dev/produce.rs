//! Producing the lines of a file or of standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use penstock_crds::librdkafka::{consumer_config, oauth_token_path};
use penstock_crds::validate::ValidatedConsumer;
use penstock_runtime::client::ClientCallbacks;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::DevError;
use crate::input;

/// librdkafka's mock cluster drops the oldest messages of a partition that
/// holds more than 5 MiB, read or not. This much, in bytes, may be unhandled.
const MOCK_CAPACITY: u64 = 4 * 1024 * 1024;

/// What a message takes in a batch beside its key and value, at most, in bytes.
const OVERHEAD: u64 = 128;

/// Messages whose acknowledgement is awaited.
const UNACKNOWLEDGED: usize = 50_000;

/// How long the brokers may take to acknowledge a message, in milliseconds.
const ACKNOWLEDGE_TIMEOUT_MS: &str = "30000";

/// Pause before another look at whether there is room for a message.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

type Producer = FutureProducer<ClientCallbacks>;

/// How much may be produced ahead of the consumer.
#[derive(Default)]
pub struct Window {
    settled: AtomicU64,
}

impl Window {
    /// Tells how many messages need no more work.
    pub fn settled(&self, messages: u64) {
        self.settled.store(messages, Ordering::Relaxed);
    }

    /// Whether another message of at most `largest` bytes fits. One always does.
    fn has_room(&self, sent: u64, largest: u64) -> bool {
        let waiting = sent.saturating_sub(self.settled.load(Ordering::Relaxed));
        waiting == 0 || (waiting + 1).saturating_mul(largest + OVERHEAD) <= MOCK_CAPACITY
    }
}

/// What is to be produced.
pub struct Job {
    pub file: PathBuf,
    pub topic: String,
    /// Between key and value; without one lines have no key.
    pub separator: Option<String>,
    /// Present where the broker keeps only so much.
    pub window: Option<Arc<Window>>,
}

/// Opens the file: a wrong path is told before anything starts.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>, DevError> {
    if input::is_stdin(path) {
        return Ok(Box::new(io::stdin()));
    }
    if path.is_dir() {
        let error = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(unreadable(path, &error));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(file))
}

fn unreadable(path: &Path, error: &io::Error) -> DevError {
    DevError::ProduceInput(input::Unreadable::new(path, error))
}

/// A producer with the consumer's connection.
pub fn producer(consumer: &ValidatedConsumer, secrets: &Path) -> Result<Producer, DevError> {
    let mut config = ClientConfig::new();
    config.extend(
        consumer_config(consumer)
            .resolve_client(secrets)
            .map_err(DevError::Secret)?,
    );
    // In order, none twice, and keys on the partitions that Java's clients give them.
    config.set("enable.idempotence", "true");
    config.set("partitioner", "murmur2_random");
    // Messages without a key go to all partitions, however few they are.
    config.set("sticky.partitioning.linger.ms", "0");
    config.set("message.timeout.ms", ACKNOWLEDGE_TIMEOUT_MS);
    config.set("queue.buffering.max.kbytes", "32768");
    let callbacks = ClientCallbacks {
        oauth_token: oauth_token_path(&consumer.kafka, secrets),
    };
    Producer::from_config_and_context(&config, callbacks).map_err(DevError::Producer)
}

/// Produces every line and returns how many the brokers have. A stop ends it.
pub async fn run(
    job: Job,
    lines: Box<dyn Read + Send>,
    producer: Producer,
    stop: CancellationToken,
) -> Result<u64, DevError> {
    let (sent, mut acknowledgements) = mpsc::channel(UNACKNOWLEDGED);
    let topic = job.topic.clone();
    // A producer that goes takes along what is not acknowledged.
    let _keep = producer.clone();
    // Reading may block for ever, so it has a thread that nobody waits for.
    thread::spawn(move || {
        let mut sender = Sender {
            job,
            producer,
            sent: sent.clone(),
            count: 0,
            largest: 0,
            stop,
        };
        if let Err(error) = sender.send_all(lines) {
            // Fails when nobody wants to know any more.
            let _ = sent.blocking_send(Sent::Failed(error));
        }
    });
    let mut produced = 0;
    while let Some(sent) = acknowledgements.recv().await {
        let delivery = match sent {
            Sent::Message(delivery) => delivery,
            Sent::Failed(error) => return Err(error),
        };
        let outcome = match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error),
            Err(_) => Err(KafkaError::Canceled),
        };
        outcome.map_err(|source| DevError::Produce {
            topic: topic.clone(),
            number: produced + 1,
            source,
        })?;
        produced += 1;
    }
    Ok(produced)
}

enum Sent {
    Message(DeliveryFuture),
    Failed(DevError),
}

/// The reading side.
struct Sender {
    job: Job,
    producer: Producer,
    sent: mpsc::Sender<Sent>,
    count: u64,
    /// Bytes of the largest message so far.
    largest: u64,
    stop: CancellationToken,
}

impl Sender {
    fn send_all(&mut self, lines: impl Read) -> Result<(), DevError> {
        let mut lines = BufReader::new(lines);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            let read = lines
                .read_until(b'\n', &mut line)
                .map_err(|error| unreadable(&self.job.file, &error))?;
            if read == 0 {
                return Ok(());
            }
            number += 1;
            let text = without_end(&line);
            if !text.is_empty() && !self.send(text, number)? {
                return Ok(());
            }
        }
    }

    /// Sends one message, as soon as there is room. `false`: nobody wants more.
    fn send(&mut self, line: &[u8], number: u64) -> Result<bool, DevError> {
        let (key, value) = self.split(line, number)?;
        self.largest = self.largest.max(line.len() as u64);
        while !self.has_room() {
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            thread::sleep(ROOM_PAUSE);
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.job.topic).payload(value);
        record.key = key;
        let delivery = loop {
            match self.producer.send_result(record) {
                Ok(delivery) => break delivery,
                Err((error, refused)) if is_full(&error) && !self.stop.is_cancelled() => {
                    record = refused;
                    thread::sleep(ROOM_PAUSE);
                }
                Err((error, _)) if is_full(&error) => return Ok(false),
                Err((source, _)) => {
                    return Err(DevError::Produce {
                        topic: self.job.topic.clone(),
                        number: self.count + 1,
                        source,
                    });
                }
            }
        };
        self.count += 1;
        let wanted = self.sent.blocking_send(Sent::Message(delivery)).is_ok();
        Ok(wanted && !self.stop.is_cancelled())
    }

    fn has_room(&self) -> bool {
        let window = self.job.window.as_ref();
        window.is_none_or(|window| window.has_room(self.count, self.largest))
    }

    fn split<'a>(
        &self,
        line: &'a [u8],
        number: u64,
    ) -> Result<(Option<&'a [u8]>, &'a [u8]), DevError> {
        let Some(separator) = &self.job.separator else {
            return Ok((None, line));
        };
        let width = separator.len();
        line.windows(width)
            .position(|part| part == separator.as_bytes())
            .map(|at| (Some(&line[..at]), &line[at + width..]))
            .ok_or_else(|| DevError::NoKey {
                file: input::name(&self.job.file),
                line: number,
                separator: separator.clone(),
            })
    }
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

/// A line without its line break, of Unix or Windows.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_of_both_kinds_are_taken_off() {
        assert_eq!(without_end(b"a\n"), b"a");
        assert_eq!(without_end(b"a\r\n"), b"a");
        assert_eq!(without_end(b"a"), b"a");
        assert_eq!(without_end(b"\n"), b"");
    }

    #[test]
    fn the_window_keeps_what_is_unhandled_below_what_the_broker_keeps() {
        let window = Window::default();
        assert!(window.has_room(0, 10 * MOCK_CAPACITY), "one always fits");
        assert!(!window.has_room(1, MOCK_CAPACITY));
        let fit = MOCK_CAPACITY / (872 + OVERHEAD);
        assert!(window.has_room(fit - 1, 872));
        assert!(!window.has_room(fit, 872));
        window.settled(1);
        assert!(window.has_room(fit, 872));
    }
}
