//! What is known of a partition beyond its committed offset.
//!
//! Kafka keeps one offset for a group and partition, and a text beside it, the
//! commit's metadata. The offset says that all before it is done with. Where
//! messages end out of order, more is done with behind it; the text says what,
//! and how often the others were tried. So whoever has the partition next hands
//! out just what is left.

mod codec;
mod fit;
#[cfg(test)]
mod tests;
mod varint;

use std::ops::Range;

pub use codec::{GapsError, PREFIX, sealed};

/// Longest text that brokers take unless they are told otherwise
/// (`offset.metadata.max.bytes`), in bytes.
pub const METADATA_LIMIT: usize = 4096;

/// Which offsets from a committed one on are done with, and which are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// The committed offset.
    base: i64,
    /// Nothing is known from here on.
    horizon: i64,
    /// Not done with: rising, apart from each other, between the two.
    incomplete: Vec<Range<i64>>,
    /// Attempts made at some of those, rising by offset.
    attempts: Vec<(i64, u32)>,
    /// The id of the topic that the offset belongs to, where it is known.
    topic_id: Option<u128>,
    /// No message below the horizon has a higher leader epoch; `None` where nothing is
    /// known of messages, or no epoch.
    leader_epoch: Option<i32>,
}

impl Gaps {
    /// Of a partition whose offset `base` is committed, where everything below
    /// `horizon` is done with but what lies in `incomplete`. Ranges rise and may
    /// touch; what lies outside is cut off. `attempts` rise by offset; those at
    /// messages that are done with are left out.
    ///
    /// The horizon is lowered to where something is known: that a message is
    /// done with, or was tried.
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

    /// Leaves out whatever lies at `end` or behind it.
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

    /// The same of a topic with this id. A topic that is created again has another.
    #[must_use]
    pub fn with_topic_id(self, topic_id: Option<u128>) -> Self {
        Self { topic_id, ..self }
    }

    /// Returns the id of the topic that the offset belongs to, where it is known.
    pub fn topic_id(&self) -> Option<u128> {
        self.topic_id
    }

    /// The same of a log in which no message below the horizon has a leader epoch above
    /// this one. Nothing is noted where nothing is known of messages.
    #[must_use]
    pub fn with_leader_epoch(self, leader_epoch: Option<i32>) -> Self {
        let leader_epoch = leader_epoch.filter(|_| !self.is_empty());
        Self {
            leader_epoch,
            ..self
        }
    }

    /// Returns the highest leader epoch that a message below the horizon may have. One with
    /// a higher epoch was written after the log had been truncated.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    /// Returns the number of messages at `offset`, or behind it, that are known and not done
    /// with.
    pub fn incomplete_from(&self, offset: i64) -> u64 {
        let lengths = self.incomplete.iter().map(|range| {
            let start = range.start.max(offset);
            u64::try_from(range.end - start).unwrap_or(0)
        });
        lengths.sum()
    }

    /// Whether nothing is known of messages but the committed offset.
    pub fn is_empty(&self) -> bool {
        self.horizon == self.base
    }

    /// The committed offset.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// The lowest offset of which nothing is known, nor of any behind it.
    pub fn horizon(&self) -> i64 {
        self.horizon
    }

    /// What is not done with between the two, rising.
    pub fn incomplete(&self) -> &[Range<i64>] {
        &self.incomplete
    }

    /// Attempts made at messages that are not done with, rising by offset.
    pub fn attempts(&self) -> &[(i64, u32)] {
        &self.attempts
    }

    /// Whether the message at an offset is known to be done with.
    pub fn is_complete(&self, offset: i64) -> bool {
        let place = self.incomplete.partition_point(|range| range.end <= offset);
        let incomplete = self.incomplete.get(place);
        (self.base..self.horizon).contains(&offset)
            && incomplete.is_none_or(|range| offset < range.start)
    }
}
