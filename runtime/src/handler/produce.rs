//! The records that handlers return, as the runtime keeps and produces them.

pub use penstock_handler::{Done, ProducerRecord};

use rdkafka::message::{Header, OwnedHeaders};

/// The maximum size of a record for librdkafka, in bytes, so that only the limits of the
/// brokers count. It is a little less than the default of `socket.request.max.bytes` (100 MiB):
/// a broker answers a larger request by closing the connection, without a reason.
pub(crate) const MAX_RECORD_BYTES: usize = 100 * 1024 * 1024 - 64 * 1024;

/// A record on its way to the brokers.
pub(crate) trait Outgoing {
    /// Returns its headers as librdkafka takes them; None without any.
    fn native_headers(&self) -> Option<OwnedHeaders>;

    /// Returns the bytes that it holds in memory, without those that the allocator adds.
    fn weight(&self) -> usize;
}

impl Outgoing for ProducerRecord {
    fn native_headers(&self) -> Option<OwnedHeaders> {
        let mut headers = OwnedHeaders::new_with_capacity(self.headers.len());
        for (key, value) in &self.headers {
            let value = value.as_deref();
            headers = headers.insert(Header { key, value });
        }
        (!self.headers.is_empty()).then_some(headers)
    }

    fn weight(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + length(value))
            .sum();
        size_of::<Self>() + self.topic.len() + length(&self.key) + length(&self.payload) + headers
    }
}
