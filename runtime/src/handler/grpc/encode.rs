//! Encodes a batch directly from librdkafka's memory: key, value and headers are copied once,
//! into the buffer that goes to the socket.
//!
//! prost would need the generated types in memory first.

use bytes::{BufMut, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::handler::record::{Message, Record};

/// The length of the head of a message in a gRPC stream: a flag for compression, and the
/// message's length.
pub(super) const HEAD: usize = 5;

// Field numbers and wire types, as the proto file has them.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;
const FROM_RUNTIME_BATCH: u64 = 2 << 3 | LENGTH;
const BATCH_FIRST_ID: u64 = 1 << 3 | VARINT;
const BATCH_BEGIN_BY: u64 = 2 << 3 | VARINT;
const BATCH_RUN: u64 = 3 << 3 | LENGTH;
const RUN_TOPIC: u64 = 1 << 3 | LENGTH;
const RUN_PARTITION: u64 = 2 << 3 | VARINT;
const RUN_EPOCH: u64 = 3 << 3 | VARINT;
const RUN_DELIVERY: u64 = 4 << 3 | LENGTH;
const DELIVERY_OFFSET: u64 = 1 << 3 | VARINT;
const DELIVERY_TIMESTAMP: u64 = 2 << 3 | VARINT;
const DELIVERY_KEY: u64 = 3 << 3 | LENGTH;
const DELIVERY_VALUE: u64 = 4 << 3 | LENGTH;
const DELIVERY_HEADER: u64 = 5 << 3 | LENGTH;
const DELIVERY_ATTEMPT: u64 = 6 << 3 | VARINT;
const HEADER_NAME: u64 = 1 << 3 | LENGTH;
const HEADER_VALUE: u64 = 2 << 3 | LENGTH;

/// The maximum size of a batch's fields before its runs.
pub(super) const MAX_HEAD_SIZE: usize = 40;

/// The messages of one batch, and the length of each part: protobuf writes a length before its
/// content.
pub(super) struct Plan<'m> {
    deliveries: Vec<Planned<'m>>,
    runs: Vec<Run>,
    /// Length of all runs, with their tags and lengths.
    size: usize,
}

struct Planned<'m> {
    record: &'m Record,
    attempt: u32,
    size: usize,
}

/// Deliveries of one partition that follow each other.
struct Run {
    count: usize,
    size: usize,
}

impl<'m> Plan<'m> {
    /// Takes messages from the front until they have `most_bytes`; at least one, if there is
    /// one.
    pub(super) fn of<T: 'm>(
        messages: impl ExactSizeIterator<Item = &'m Message<'m, T>>,
        most_bytes: usize,
    ) -> Self {
        let mut plan = Self {
            deliveries: Vec::with_capacity(messages.len()),
            runs: Vec::new(),
            size: 0,
        };
        for message in messages {
            if !plan.add(message.record, message.attempt, most_bytes) {
                break;
            }
        }
        plan
    }

    /// Adds a message, unless there are others and the batch became too long.
    fn add(&mut self, record: &'m Record, attempt: u32, most_bytes: usize) -> bool {
        let size = delivery_size(record, attempt);
        let before = self.deliveries.last().map(|before| before.record);
        let run = match before.is_some_and(|before| before.is_assigned_with(record)) {
            true => self.runs.pop(),
            false => None,
        };
        let had = run.as_ref().map_or(0, |run| length_field(run.size));
        let mut run = run.unwrap_or_else(|| Run {
            count: 0,
            size: run_head_size(record),
        });
        let longer = length_field(run.size + length_field(size)) - had;
        let fits = self.deliveries.is_empty() || self.size + longer <= most_bytes;
        if fits {
            run.count += 1;
            run.size += length_field(size);
            self.size += longer;
            self.deliveries.push(Planned {
                record,
                attempt,
                size,
            });
        }
        if run.count > 0 {
            self.runs.push(run);
        }
        fits
    }

    /// Returns the maximum size of the batch as a message of the stream.
    pub(super) fn max_size(&self) -> usize {
        self.size + MAX_HEAD_SIZE
    }

    /// Returns the number of messages in the batch.
    pub(super) fn count(&self) -> usize {
        self.deliveries.len()
    }

    /// Writes the batch as a message of the stream.
    pub(super) fn write(&self, first_id: u64, begin_by_ms: i64, out: &mut BytesMut) {
        let batch = varint_field(first_id) + varint_field(begin_by_ms as u64) + self.size;
        let size = length_field(batch);
        out.reserve(HEAD + size);
        out.put_u8(0);
        // Kafka's messages have fewer than 2^31 bytes, and a batch is one long one or
        // several short ones.
        out.put_u32(size as u32);
        put_length(FROM_RUNTIME_BATCH, batch, out);
        put_varint(BATCH_FIRST_ID, first_id, out);
        put_varint(BATCH_BEGIN_BY, begin_by_ms as u64, out);
        let mut deliveries = self.deliveries.iter();
        for run in &self.runs {
            put_length(BATCH_RUN, run.size, out);
            for (index, planned) in deliveries.by_ref().take(run.count).enumerate() {
                if index == 0 {
                    put_run_head(planned.record, out);
                }
                put_length(RUN_DELIVERY, planned.size, out);
                put_delivery(planned.record, planned.attempt, out);
            }
        }
    }
}

fn run_head_size(record: &Record) -> usize {
    length_field(record.topic().len())
        + varint_field(partition(record))
        + varint_field(record.epoch())
}

fn put_run_head(record: &Record, out: &mut BytesMut) {
    put_bytes(RUN_TOPIC, record.topic().as_bytes(), out);
    put_varint(RUN_PARTITION, partition(record), out);
    put_varint(RUN_EPOCH, record.epoch(), out);
}

/// An int32 is sent with its sign extended; Kafka's partitions have none.
fn partition(record: &Record) -> u64 {
    i64::from(record.partition()) as u64
}

fn delivery_size(record: &Record, attempt: u32) -> usize {
    let bytes = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| length_field(bytes.len()));
    let headers = record.headers();
    varint_field(record.offset() as u64)
        + record
            .timestamp()
            .map_or(0, |time| varint_field(time as u64))
        + bytes(record.key())
        + bytes(record.payload())
        + headers
            .map(|(name, value)| length_field(header_size(name, value)))
            .sum::<usize>()
        + varint_field(attempt.into())
}

fn put_delivery(record: &Record, attempt: u32, out: &mut BytesMut) {
    put_varint(DELIVERY_OFFSET, record.offset() as u64, out);
    if let Some(time) = record.timestamp() {
        put_varint(DELIVERY_TIMESTAMP, time as u64, out);
    }
    if let Some(key) = record.key() {
        put_bytes(DELIVERY_KEY, key, out);
    }
    if let Some(value) = record.payload() {
        put_bytes(DELIVERY_VALUE, value, out);
    }
    for (name, value) in record.headers() {
        put_length(DELIVERY_HEADER, header_size(name, value), out);
        put_bytes(HEADER_NAME, name.as_bytes(), out);
        if let Some(value) = value {
            put_bytes(HEADER_VALUE, value, out);
        }
    }
    put_varint(DELIVERY_ATTEMPT, attempt.into(), out);
}

fn header_size(name: &str, value: Option<&[u8]>) -> usize {
    length_field(name.len()) + value.map_or(0, |value| length_field(value.len()))
}

/// Returns the length of a field with a number. All tags of the contract take one byte.
fn varint_field(number: u64) -> usize {
    1 + encoded_len_varint(number)
}

/// Returns the length of a field with this many bytes.
fn length_field(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

fn put_varint(tag: u64, number: u64, out: &mut BytesMut) {
    out.put_u8(tag as u8);
    encode_varint(number, out);
}

fn put_length(tag: u64, length: usize, out: &mut BytesMut) {
    put_varint(tag, length as u64, out);
}

fn put_bytes(tag: u64, bytes: &[u8], out: &mut BytesMut) {
    put_length(tag, bytes.len(), out);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::group::partition::Partition;
    use crate::handler::record::OwnedRecord;
    use crate::observe::metrics::Metrics;
    use penstock_handler::v1;

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300))
    }

    prop_compose! {
        fn owned()(
            offset in 0..i64::MAX,
            key in bytes(),
            payload in bytes(),
            timestamp in prop::option::of(any::<i64>()),
            headers in prop::collection::vec((".{0,8}", bytes()), 0..4),
        ) -> OwnedRecord {
            OwnedRecord { offset, key, payload, timestamp, headers, ..OwnedRecord::default() }
        }
    }

    fn header((name, value): &(String, Option<Vec<u8>>)) -> v1::Header {
        v1::Header {
            name: name.clone(),
            value: value.clone().map(Into::into),
        }
    }

    fn delivery(owned: &OwnedRecord, attempt: u32) -> v1::Delivery {
        v1::Delivery {
            offset: owned.offset,
            timestamp_ms: owned.timestamp,
            key: owned.key.clone().map(Into::into),
            value: owned.payload.clone().map(Into::into),
            headers: owned.headers.iter().map(header).collect(),
            attempt,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_what_the_proto_file_says(
            owned in prop::collection::vec((owned(), 0usize..2, 1u32..9), 1..20),
            first_id in any::<u64>(),
            begin_by_ms in any::<i64>(),
        ) {
            let metrics = Metrics::new("", "").unwrap();
            let partitions = [0, 1].map(|number| {
                let topic = format!("topic-{number}");
                let partition =
                    Partition::new(&topic, number, 7, &metrics, Arc::default(), None);
                Arc::new(partition)
            });
            let records: Vec<_> = owned
                .iter()
                .map(|(owned, place, _)| {
                    Record::owned(owned.clone(), Arc::clone(&partitions[*place]))
                })
                .collect();
            let messages: Vec<_> = records
                .iter()
                .zip(&owned)
                .map(|(record, (_, _, attempt))| Message::new(record, &(), *attempt))
                .collect();

            let mut out = BytesMut::new();
            Plan::of(messages.iter(), usize::MAX).write(first_id, begin_by_ms, &mut out);

            let length = u32::from_be_bytes(out[1..HEAD].try_into().unwrap());
            prop_assert_eq!((out[0], length as usize), (0, out.len() - HEAD));
            let read = v1::FromRuntime::decode(&out[HEAD..]).unwrap();
            let Some(v1::from_runtime::Message::Batch(batch)) = read.message else {
                panic!("{read:?}");
            };
            prop_assert_eq!((batch.first_id, batch.begin_by_ms), (first_id, begin_by_ms));
            let mut expected: Vec<v1::Run> = Vec::new();
            for (owned, place, attempt) in &owned {
                let partition = *place as i32;
                if expected.last().is_none_or(|run| run.partition != partition) {
                    expected.push(v1::Run {
                        topic: format!("topic-{partition}"),
                        partition,
                        epoch: 7,
                        deliveries: Vec::new(),
                    });
                }
                let run = expected.last_mut().unwrap();
                run.deliveries.push(delivery(owned, *attempt));
            }
            prop_assert_eq!(batch.runs, expected);
        }
    }

    #[test]
    fn a_plan_ends_before_it_is_too_long_but_takes_one_long_message() {
        let records = [10_000, 400, 400, 400].map(|size| {
            Record::from(OwnedRecord {
                payload: Some(vec![0; size]),
                ..OwnedRecord::default()
            })
        });
        let messages = records
            .each_ref()
            .map(|record| Message::new(record, &(), 1));
        assert_eq!(Plan::of(messages.iter(), 1000).count(), 1);
        assert_eq!(Plan::of(messages[1..].iter(), 1000).count(), 2);
        assert_eq!(Plan::of(messages[..0].iter(), 1000).count(), 0);
    }
}
