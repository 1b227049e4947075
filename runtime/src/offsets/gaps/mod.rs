//! The state of a partition beyond its committed offset.
//!
//! For each group and partition, Kafka stores one offset, and a text with it, the commit
//! metadata. The offset says that all messages before it are settled. If messages settle out of
//! order, later messages are settled too. The text lists them, and the attempts at the others,
//! so that the partition's next owner delivers only the unsettled messages.

mod codec;
mod fit;
#[cfg(test)]
mod tests;
mod varint;

use std::ops::Range;

pub use codec::{GapsError, PREFIX, sealed};

/// The maximum length of a text with the brokers' default setting
/// (`offset.metadata.max.bytes`), in bytes.
pub const METADATA_LIMIT: usize = 4096;

/// The settled and unsettled offsets from a committed offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// The committed offset.
    base: i64,
    /// The offset from which on nothing is known.
    horizon: i64,
    /// Unsettled offsets between the two: rising, separate ranges.
    incomplete: Vec<Range<i64>>,
    /// Attempts at some of the unsettled messages, rising by offset.
    attempts: Vec<(i64, u32)>,
    /// The id of the topic to which the offset belongs, if known.
    topic_id: Option<u128>,
    /// The highest leader epoch of messages below the horizon; `None` if nothing is known of
    /// messages, or no epoch.
    leader_epoch: Option<i32>,
}

impl Gaps {
    /// Creates the gaps of a partition with the committed offset `base`. Everything below
    /// `horizon` is settled except `incomplete`. Ranges rise and may touch; parts outside are
    /// cut off. `attempts` rise by offset; attempts at settled messages are left out.
    ///
    /// The horizon is lowered to the last offset of which something is known: that its message
    /// is settled, or was attempted.
    pub fn new(
        base: i64,
        horizon: i64,
        incomplete: impl IntoIterator<Item = Range<i64>>,
        attempts: impl IntoIterator<Item = (i64, u32)>,
    ) -> Self {
        let mut gaps = Self {
            base,
            horizon: horizon.max(base),
            incomplete: Vec::new(),
            attempts: Vec::new(),
            topic_id: None,
            leader_epoch: None,
        };
        for range in incomplete {
            gaps.add(range);
        }
        for (offset, made) in attempts {
            let known = (base..horizon).contains(&offset) && !gaps.is_complete(offset);
            if known && made > 0 {
                gaps.attempts.push((offset, made));
            }
        }
        gaps.trim();
        gaps
    }

    fn add(&mut self, range: Range<i64>) {
        let from = self.incomplete.last().map_or(self.base, |last| last.end);
        let (start, end) = (range.start.max(from), range.end.min(self.horizon));
        if start >= end {
            return;
        }
        match self.incomplete.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.incomplete.push(start..end),
        }
    }

    fn trim(&mut self) {
        let tried = self.attempts.last().map_or(self.base, |(last, _)| last + 1);
        if let Some(last) = self.incomplete.last_mut()
            && last.end == self.horizon
        {
            self.horizon = last.start.max(tried);
            last.end = self.horizon;
            if last.is_empty() {
                self.incomplete.pop();
            }
        }
    }

    /// Returns the gaps without the offsets from `end` on.
    pub fn until(&self, end: i64) -> Self {
        let attempts = self.attempts.iter().copied();
        Self::new(
            self.base,
            self.horizon.min(end),
            self.incomplete.iter().cloned(),
            attempts.take_while(|(offset, _)| *offset < end),
        )
        .with_topic_id(self.topic_id)
        .with_leader_epoch(self.leader_epoch)
    }

    /// Sets the topic's id. A topic that is created again has another id.
    #[must_use]
    pub fn with_topic_id(self, topic_id: Option<u128>) -> Self {
        Self { topic_id, ..self }
    }

    /// Returns the id of the topic to which the offset belongs, if known.
    pub fn topic_id(&self) -> Option<u128> {
        self.topic_id
    }

    /// Sets the highest leader epoch of messages below the horizon. It is ignored if nothing is
    /// known of messages.
    #[must_use]
    pub fn with_leader_epoch(self, leader_epoch: Option<i32>) -> Self {
        let leader_epoch = leader_epoch.filter(|_| !self.is_empty());
        Self {
            leader_epoch,
            ..self
        }
    }

    /// Returns the highest leader epoch of messages below the horizon. A message with a higher
    /// epoch was written after the log had been truncated.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    /// Returns the number of known unsettled messages from `offset` on.
    pub fn incomplete_from(&self, offset: i64) -> u64 {
        let lengths = self.incomplete.iter().map(|range| {
            let start = range.start.max(offset);
            u64::try_from(range.end - start).unwrap_or(0)
        });
        lengths.sum()
    }

    /// Returns `true` if nothing is known beyond the committed offset.
    pub fn is_empty(&self) -> bool {
        self.horizon == self.base
    }

    /// Returns the committed offset.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// Returns the offset from which on nothing is known.
    pub fn horizon(&self) -> i64 {
        self.horizon
    }

    /// Returns the unsettled offsets between the two, rising.
    pub fn incomplete(&self) -> &[Range<i64>] {
        &self.incomplete
    }

    /// Returns the attempts at unsettled messages, rising by offset.
    pub fn attempts(&self) -> &[(i64, u32)] {
        &self.attempts
    }

    /// Returns `true` if the message at an offset is known to be settled.
    pub fn is_complete(&self, offset: i64) -> bool {
        let place = self.incomplete.partition_point(|range| range.end <= offset);
        let incomplete = self.incomplete.get(place);
        (self.base..self.horizon).contains(&offset)
            && incomplete.is_none_or(|range| offset < range.start)
    }
}
