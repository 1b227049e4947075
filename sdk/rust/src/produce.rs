//! The records that a handler returns for a message. They are produced in the transaction that
//! commits the message's offset.

/// A record to produce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic, which must exist.
    pub topic: String,
    /// The partition. Without one, the key decides, as with any producer.
    pub partition: Option<i32>,
    /// The key, if any.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers in their order. A name may come twice, and a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The time in milliseconds since the epoch. Without it, the time of producing.
    pub timestamp: Option<i64>,
    /// Set by the runtime for dead letters, in whose place it may write a stub.
    #[doc(hidden)]
    pub is_letter: bool,
}

impl ProducerRecord {
    /// Creates a record with a value.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: Some(payload.into()),
            ..Self::default()
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// The result of a message that was handled.
///
/// Records need `commit: Transactional`. In other modes they are a permanent failure, so that
/// no record is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The records to produce, in this order, in one transaction with the offset of the
    /// message.
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
