//! What a handler gives back of a message that it handled: records to be produced
//! together with the commit of its offset.

use rdkafka::message::{Header, OwnedHeaders};

/// A record to be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic, which must exist.
    pub topic: String,
    /// The partition; without one the key decides, as with any producer.
    pub partition: Option<i32>,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value; none is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers in their order; a name may come twice, and a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch; now, if absent.
    pub timestamp: Option<i64>,
    /// Set for dead letters, in whose place a stub may be written.
    pub(crate) is_letter: bool,
}

/// The maximum size of a record for librdkafka, in bytes, so that the brokers' own limits
/// decide. A little less than `socket.request.max.bytes` (100 MiB unless it is set): a
/// broker answers a larger request by closing the connection, which tells nothing.
pub(crate) const MAX_RECORD_BYTES: usize = 100 * 1024 * 1024 - 64 * 1024;

impl ProducerRecord {
    /// A record with a value.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: Some(payload.into()),
            ..Self::default()
        }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Its headers as librdkafka takes them; none without any.
    pub(crate) fn native_headers(&self) -> Option<OwnedHeaders> {
        let mut headers = OwnedHeaders::new_with_capacity(self.headers.len());
        for (key, value) in &self.headers {
            let value = value.as_deref();
            headers = headers.insert(Header { key, value });
        }
        (!self.headers.is_empty()).then_some(headers)
    }

    /// Bytes that it holds in memory, but for what the allocator adds.
    pub(crate) fn weight(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + length(value))
            .sum();
        size_of::<Self>() + self.topic.len() + length(&self.key) + length(&self.payload) + headers
    }
}

/// A message was handled.
///
/// What is to be produced for it needs `commit: Transactional`; otherwise it is a
/// failure that stays, rather than a record that is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Produced in this order, in one transaction with the offset of the message.
    pub produce: Vec<ProducerRecord>,
}

impl From<()> for Done {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<ProducerRecord> for Done {
    fn from(record: ProducerRecord) -> Self {
        Self {
            produce: vec![record],
        }
    }
}

impl From<Vec<ProducerRecord>> for Done {
    fn from(produce: Vec<ProducerRecord>) -> Self {
        Self { produce }
    }
}
