//! The records that a handler returns for a message. They are produced in the transaction that
//! commits the message's offset.

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
    /// Set by the runtime for dead letters, in whose place it may write a stub.
    #[doc(hidden)]
    pub is_letter: bool,
}

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
