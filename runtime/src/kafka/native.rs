//! The one place that calls librdkafka's C interface directly.
//!
//! The safe bindings return one message at a time, borrowed from the consumer and each wrapped
//! in an event. The pump needs two more things. One separate queue has all partitions'
//! messages, so that a full work queue never blocks rebalances. And one call reads many
//! messages, each of which may then go to a handler without a copy.

#![allow(unsafe_code)]

pub mod resolve;

use std::ffi::{CStr, CString, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, OnceLock};

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys::bindings as sys;
use rdkafka_sys::types::RDKafkaErrorCode;

use super::Consumer;
use super::errors::end_code;
use super::seam::{
    ConsumeError, Fetched, Fetcher, OutOfRange, PartitionHandle, StartOffset, TopicId,
};
use crate::group::partition::Partition;
use crate::handler::record::Record;

/// A message as librdkafka holds it. Freed when dropped.
///
/// Keeps the client alive: librdkafka's messages point into it.
pub(crate) struct NativeMessage<K> {
    message: NonNull<sys::rd_kafka_message_t>,
    /// Its headers, if it has any, once they were asked for.
    headers: OnceLock<Option<NonNull<sys::rd_kafka_headers_t>>>,
    /// The owner of the client; dropped after the message.
    keeper: K,
}

// SAFETY: a message belongs to one owner, and librdkafka does not tie it to a thread.
unsafe impl<K: Send> Send for NativeMessage<K> {}
// SAFETY: all access through a shared reference is reading, but for the first look at
// the headers, which comes once.
unsafe impl<K: Sync> Sync for NativeMessage<K> {}

impl<K> NativeMessage<K> {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer is valid until `drop`.
        unsafe { self.message.as_ref() }
    }

    pub(crate) fn keeper(&self) -> &K {
        &self.keeper
    }

    pub(crate) fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub(crate) fn payload(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka keeps `len` bytes at `payload` as long as the message.
        unsafe { bytes(raw.payload, raw.len) }
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: as for the payload.
        unsafe { bytes(raw.key, raw.key_len) }
    }

    /// Returns the leader epoch with which the message was written, if the broker reports it.
    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the pointer is valid until `drop`.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.message.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// Milliseconds since the epoch; absent where the broker keeps none.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: both pointers are valid for the call.
        let timestamp =
            unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp >= 0)
            .then_some(timestamp)
    }

    /// The header at a place, counted from 0: its name and, unless null, value.
    pub(crate) fn header(&self, index: usize) -> Option<(&str, Option<&[u8]>)> {
        let headers = *self.headers.get_or_init(|| self.read_headers());
        let headers = headers?.as_ptr();
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the message owns its headers, names are zero-terminated, and
        // `size` bytes are at `value`, all as long as the message lives.
        unsafe {
            let found =
                sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size);
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            let name = CStr::from_ptr(name).to_str().unwrap_or("");
            Some((name, bytes(value.cast_mut(), size)))
        }
    }

    /// Lets librdkafka parse the headers from the response, which it keeps in the message if
    /// there are any. Only one thread at a time may call it.
    fn read_headers(&self) -> Option<NonNull<sys::rd_kafka_headers_t>> {
        let mut headers = ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        let found = unsafe { sys::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        match found {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => NonNull::new(headers),
            _ => None,
        }
    }
}

impl<K> Drop for NativeMessage<K> {
    fn drop(&mut self) {
        // SAFETY: the message is ours, and its client lives on in the keeper.
        unsafe { sys::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

/// SAFETY: where `data` is not null, `len` bytes must stay readable at it for `'a`.
unsafe fn bytes<'a>(data: *mut c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the contract above.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast(), len) })
}

/// The queue that all assigned partitions' messages arrive on.
pub(crate) struct MessageQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    buffer: Vec<*mut sys::rd_kafka_message_t>,
    /// Called by librdkafka's threads; boxed twice to have a thin address.
    on_nonempty: Box<Box<dyn Fn() + Send + Sync>>,
    consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used from any thread, and the buffer is
// empty but during a read.
unsafe impl Send for MessageQueue {}

impl MessageQueue {
    /// A queue that calls `on_nonempty` whenever it stops being empty.
    pub(crate) fn new(
        consumer: Arc<Consumer>,
        on_nonempty: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        unsafe extern "C" fn call(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
            // SAFETY: `opaque` is the `on_nonempty` of a queue that still exists.
            let on_nonempty = unsafe { &*opaque.cast::<Box<dyn Fn() + Send + Sync>>() };
            on_nonempty();
        }
        let on_nonempty: Box<Box<dyn Fn() + Send + Sync>> = Box::new(Box::new(on_nonempty));
        // SAFETY: the client is alive, and librdkafka aborts rather than return
        // null; the callback is taken back in `drop`, before its box goes.
        let queue = unsafe {
            let queue = sys::rd_kafka_queue_new(consumer.client().native_ptr());
            sys::rd_kafka_queue_cb_event_enable(
                queue,
                Some(call),
                (&raw const *on_nonempty).cast_mut().cast(),
            );
            NonNull::new_unchecked(queue)
        };
        Self {
            queue,
            buffer: Vec::new(),
            on_nonempty,
            consumer,
        }
    }
}

impl Fetcher for MessageQueue {
    fn attach(&mut self, partition: &Partition) {
        // SAFETY: both queues are alive; the reference to the partition's is
        // given back at once.
        unsafe {
            let source = sys::rd_kafka_queue_get_partition(
                self.consumer.client().native_ptr(),
                partition.topic_c.as_ptr(),
                partition.number,
            );
            if !source.is_null() {
                sys::rd_kafka_queue_forward(source, self.queue.as_ptr());
                sys::rd_kafka_queue_destroy(source);
            }
        }
    }

    fn read(
        &mut self,
        most: usize,
        mut owner: impl FnMut(PartitionHandle, &dyn Fn() -> String) -> Option<Arc<Partition>>,
        mut sink: impl FnMut(Fetched),
    ) -> usize {
        self.buffer.resize(most, ptr::null_mut());
        // SAFETY: the buffer has room for `most` pointers.
        let read = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                0,
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        };
        let read = usize::try_from(read).unwrap_or(0);
        for raw in self.buffer.drain(..).take(read) {
            // SAFETY: librdkafka filled the first `read` places with messages
            // that are now ours.
            let (message, topic) = unsafe { (NonNull::new_unchecked(raw), (*raw).rkt) };
            // SAFETY: the message refers to its topic while it lives.
            let topic_name = || unsafe {
                if topic.is_null() {
                    return String::new();
                }
                CStr::from_ptr(sys::rd_kafka_topic_name(topic))
                    .to_string_lossy()
                    .into_owned()
            };
            // SAFETY: as above.
            let (error, partition) = unsafe { ((*raw).err, (*raw).partition) };
            let handle = PartitionHandle {
                topic: topic as usize,
                partition,
            };
            match error {
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    match owner(handle, &topic_name) {
                        Some(keeper) => sink(Fetched::Record(Record::native(NativeMessage {
                            message,
                            headers: OnceLock::new(),
                            keeper,
                        }))),
                        // SAFETY: the message is ours and goes no further.
                        None => unsafe { sys::rd_kafka_message_destroy(raw) },
                    }
                }
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                    // SAFETY: as above; the offset is read before the message is freed.
                    let end = unsafe {
                        let end = (*raw).offset;
                        sys::rd_kafka_message_destroy(raw);
                        end
                    };
                    if let Some(partition) = owner(handle, &topic_name) {
                        sink(Fetched::End(partition, end));
                    }
                }
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET => {
                    // SAFETY: as above; all is copied before the message is freed.
                    let found = unsafe {
                        let text = CStr::from_ptr(sys::rd_kafka_message_errstr(raw));
                        let text = text.to_string_lossy();
                        tracing::debug!(partition, offset = (*raw).offset, %text, "out of range");
                        let found = OutOfRange {
                            position: Some((*raw).offset).filter(|offset| *offset >= 0),
                            departs_at: departure(&text),
                        };
                        sys::rd_kafka_message_destroy(raw);
                        found
                    };
                    if let Some(partition) = owner(handle, &topic_name) {
                        sink(Fetched::OutOfRange(partition, found));
                    }
                }
                // SAFETY: as above; the text is copied before the message is freed.
                error => unsafe {
                    let text = CStr::from_ptr(sys::rd_kafka_message_errstr(raw));
                    let code = error.into();
                    let error = ConsumeError {
                        code,
                        end: end_code(code),
                        text: text.to_string_lossy().into_owned(),
                        topic: topic_name(),
                        partition: (partition >= 0).then_some(partition),
                    };
                    sys::rd_kafka_message_destroy(raw);
                    sink(Fetched::Error(error));
                },
            }
        }
        read
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours. librdkafka holds its lock while it calls
        // back, so once this returns the callback can't run any more.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
        let _ = &self.on_nonempty;
    }
}

/// Sends a commit of the list's offsets and metadata without waiting. Its outcome is an event
/// on the consumer's queue. The asynchronous commit of the safe bindings has no outcome,
/// because librdkafka reports it only to a queue that the caller names.
pub(crate) fn commit(
    consumer: &Consumer,
    offsets: &TopicPartitionList,
) -> Result<(), RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    // SAFETY: the list and the reference to the queue live through the call,
    // which takes copies; the reference is given back after it.
    let error = unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(client);
        let error = sys::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, ptr::null_mut());
        sys::rd_kafka_queue_destroy(queue);
        error
    };
    match error {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(error.into()),
    }
}

/// The id by which the group knows this client; `None` while it is no member.
pub(crate) fn member_id(consumer: &Consumer) -> Option<CString> {
    let client = consumer.client().native_ptr();
    // SAFETY: the text, if there is one, is ours until it is given back.
    unsafe {
        let text = NonNull::new(sys::rd_kafka_memberid(client))?;
        let id = CStr::from_ptr(text.as_ptr()).to_owned();
        sys::rd_kafka_mem_free(client, text.as_ptr().cast());
        (!id.is_empty()).then_some(id)
    }
}

/// The metadata of the list's entry at a place, counted from 0; empty if it has
/// none. Anybody may have written it: the safe bindings take only UTF-8.
pub(crate) fn metadata(list: &TopicPartitionList, place: usize) -> &[u8] {
    if place >= list.count() {
        return &[];
    }
    // SAFETY: the list has that many entries, and each keeps `metadata_size` bytes
    // at `metadata` as long as the list lives and is not changed.
    unsafe {
        let entry = &*(*list.ptr()).elems.add(place);
        bytes(entry.metadata, entry.metadata_size).unwrap_or_default()
    }
}

/// The leader epoch of the list's entry at an index, if it has one.
pub(crate) fn leader_epoch(list: &TopicPartitionList, index: usize) -> Option<i32> {
    if index >= list.count() {
        return None;
    }
    // SAFETY: the list has that many entries.
    let epoch =
        unsafe { sys::rd_kafka_topic_partition_get_leader_epoch((*list.ptr()).elems.add(index)) };
    (epoch >= 0).then_some(epoch)
}

/// Sets the leader epoch of the list's entry at an index.
pub(crate) fn set_leader_epoch(list: &mut TopicPartitionList, index: usize, epoch: Option<i32>) {
    if let Some(epoch) = epoch
        && index < list.count()
    {
        // SAFETY: the list has that many entries and is borrowed for this alone.
        unsafe {
            let entry = (*list.ptr()).elems.add(index);
            sys::rd_kafka_topic_partition_set_leader_epoch(entry, epoch);
        }
    }
}

/// Lets a partition continue from another offset. librdkafka discards the partition's fetched
/// messages later, so this does not wait.
pub(crate) fn seek(consumer: &Consumer, to: &StartOffset) -> Result<(), RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    let topic = c_name(&to.partition.topic);
    // SAFETY: the list and the client live through the call, which takes copies.
    unsafe {
        let list = sys::rd_kafka_topic_partition_list_new(1);
        let entry =
            sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), to.partition.partition);
        (*entry).offset = to.offset.unwrap_or(-1001);
        if let Some(epoch) = to.leader_epoch {
            sys::rd_kafka_topic_partition_set_leader_epoch(entry, epoch);
        }
        let error = sys::rd_kafka_seek_partitions(client, list, 0);
        sys::rd_kafka_topic_partition_list_destroy(list);
        if error.is_null() {
            return Ok(());
        }
        let code = sys::rd_kafka_error_code(error);
        sys::rd_kafka_error_destroy(error);
        Err(code.into())
    }
}

/// Returns where a log departs from the messages that were read, from librdkafka's text
/// about a truncation: it has no other place for it.
fn departure(text: &str) -> Option<i64> {
    let (_, after) = text.split_once("log truncation detected at ")?;
    let (_, after) = after.split_once("broker end offset is ")?;
    let end = after.split(|it: char| !it.is_ascii_digit()).next()?;
    end.parse().ok()
}

/// Returns the group's generation in which this client takes part; `None` while it is no
/// member.
pub(crate) fn generation(consumer: &Consumer) -> Option<i32> {
    // SAFETY: the metadata, if there is any, is ours until it is given back.
    unsafe {
        let group = NonNull::new(sys::rd_kafka_consumer_group_metadata(
            consumer.client().native_ptr(),
        ))?;
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(group.as_ptr());
        sys::rd_kafka_consumer_group_metadata_destroy(group.as_ptr());
        (generation >= 0).then_some(generation)
    }
}

/// Asks the brokers for the ids of topics, and blocks for at most `limit_ms`. Topics
/// without a known id are left out.
pub(crate) fn topic_ids(
    consumer: &Consumer,
    topics: &[String],
    limit_ms: i32,
) -> Result<Vec<(String, TopicId)>, RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    let names: Vec<_> = topics.iter().map(|topic| c_name(topic)).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names live through the call that copies them; what is created here is
    // destroyed here, the event after the last look at its contents.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client);
        let options = sys::rd_kafka_AdminOptions_new(
            client,
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        sys::rd_kafka_AdminOptions_set_request_timeout(options, limit_ms, ptr::null_mut(), 0);
        let wanted =
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(client, wanted, options, queue);
        sys::rd_kafka_TopicCollection_destroy(wanted);
        sys::rd_kafka_AdminOptions_destroy(options);
        let event = sys::rd_kafka_queue_poll(queue, limit_ms);
        let found = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            described(event)
        };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        found
    }
}

/// SAFETY: `event` must be valid for the call.
unsafe fn described(
    event: *mut sys::rd_kafka_event_t,
) -> Result<Vec<(String, TopicId)>, RDKafkaErrorCode> {
    // SAFETY: the descriptions, their names and ids belong to the event.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(error.into());
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut found = Vec::with_capacity(count);
        for index in 0..count {
            let topic = *topics.add(index);
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let failed = !error.is_null()
                && sys::rd_kafka_error_code(error)
                    != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if failed || id.is_null() {
                continue;
            }
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
            let most = sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
            let least = sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
            let id = (u128::from(most) << 64) | u128::from(least);
            // Brokers before 2.8 have no ids.
            if id != 0 {
                found.push((name.to_string_lossy().into_owned(), TopicId(id)));
            }
        }
        Ok(found)
    }
}

/// Returns the partition's log start and high watermark as of the last fetch: the first
/// offset that is retained, and the offset that the next message produced will get. Asks
/// no broker; absent before a fetch.
pub(crate) fn watermarks(
    consumer: &Consumer,
    topic: &CStr,
    partition: i32,
) -> (Option<i64>, Option<i64>) {
    let (mut low, mut high) = (-1, -1);
    // SAFETY: all pointers are valid for the call.
    let error = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return (None, None);
    }
    let known = |offset: i64| (offset >= 0).then_some(offset);
    (known(low), known(high))
}

/// A topic's name for the C interface. Kafka allows no zero byte in it.
pub(crate) fn c_name(topic: &str) -> CString {
    CString::new(topic).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::departure;

    #[test]
    fn librdkafkas_text_names_where_a_truncated_log_departs() {
        let truncated = "Partition log truncation detected at offset 120 (leader epoch 3): broker end offset is 100 (offset leader epoch 2). Reset to INVALID.: Local: Partition log truncation detected";
        assert_eq!(departure(truncated), Some(100));
        let unknown = "No epoch found less or equal to offset 120 (leader epoch 3): broker end offset is -1 (offset leader epoch -1). Reset using configured policy.";
        assert_eq!(departure(unknown), None);
        let retention = "fetch failed due to requested offset not available on the broker: Broker: Offset out of range (broker 1)";
        assert_eq!(departure(retention), None);
    }
}
