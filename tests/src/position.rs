//! Where a message lies.

use std::fmt;

/// Topic, partition and offset of one message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: i32,
    /// Offset in the partition, from 0.
    pub offset: i64,
}

impl Position {
    /// The position of a message.
    pub fn new(topic: impl Into<String>, partition: i32, offset: i64) -> Self {
        Self {
            topic: topic.into(),
            partition,
            offset,
        }
    }

    /// A number that looks random and differs for each partition and offset, to vary what
    /// is done with messages.
    pub fn scatter(&self) -> u64 {
        let partition = u64::from(self.partition.unsigned_abs());
        let place = self.offset.unsigned_abs() * 64 + partition;
        place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) >> 40
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}
