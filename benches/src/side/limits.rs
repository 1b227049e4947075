//! The references that read Kafka: the shortest loops around `BaseConsumer`.

use std::hint::black_box;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::BorrowedMessage;

use super::{Failed, Work};
use crate::consumer::{EMBEDDED, IN_ORDER, Settings, fast};
use crate::meter::Meter;
use crate::workload::Order;

/// Longest wait in one call; there is always a message.
const POLL: Duration = Duration::from_secs(1);

/// Polls and decodes.
pub fn poll_json(work: &Work, meter: &Meter) -> Result<(), Failed> {
    poll(&consumer(work, &fast(1, "Read"))?, meter, decode)
}

/// Polls.
pub fn poll_raw(work: &Work, meter: &Meter) -> Result<(), Failed> {
    poll(&consumer(work, &fast(1, "Read"))?, meter, |message| {
        black_box(message.payload());
        Ok(())
    })
}

/// Polls, decodes, and commits each message before the next.
pub fn commit_each(work: &Work, meter: &Meter) -> Result<(), Failed> {
    let consumer = consumer(work, IN_ORDER)?;
    poll(&consumer, meter, |message| {
        decode(message)?;
        Ok(consumer.commit_message(message, CommitMode::Sync)?)
    })
}

fn consumer(work: &Work, mode: &str) -> Result<BaseConsumer, Failed> {
    let consumer: BaseConsumer = Settings {
        bootstrap: &work.bootstrap,
        topic: &work.topic,
        mode,
        handler: EMBEDDED,
        properties: &work.properties,
    }
    .client()?
    .create()?;
    consumer.subscribe(&[&work.topic])?;
    Ok(consumer)
}

fn poll(
    consumer: &BaseConsumer,
    meter: &Meter,
    mut handle: impl FnMut(&BorrowedMessage<'_>) -> Result<(), Failed>,
) -> Result<(), Failed> {
    loop {
        if let Some(message) = consumer.poll(POLL) {
            handle(&message?)?;
            if !meter.count() {
                return Ok(());
            }
        }
    }
}

fn decode(message: &BorrowedMessage<'_>) -> Result<(), Failed> {
    let payload = message.payload().unwrap_or_default();
    let order: Order = serde_json::from_slice(payload).map_err(Failed::other)?;
    black_box(order);
    Ok(())
}
