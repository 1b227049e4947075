//! Topics, and the log of a partition: records, control markers, holes and transactions.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::broker::ClientId;
use super::settings::{Isolation, Produce, TopicKind};

/// A record as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRecord {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp: Option<i64>,
}

/// Names a transaction for good, other than a producer's id.
pub(super) type TransactionNumber = u64;

#[derive(Debug)]
pub(super) struct Topic {
    /// Distinguishes topics of the same name.
    pub(super) id: u64,
    pub(super) kind: TopicKind,
    pub(super) partitions: Vec<Log>,
}

impl Topic {
    pub(super) fn new(id: u64, partitions: usize, kind: TopicKind) -> Self {
        Self {
            id,
            kind,
            partitions: (0..partitions).map(|_| Log::default()).collect(),
        }
    }

    /// Adds partitions up to a number.
    pub(super) fn grow(&mut self, to: usize) {
        while self.partitions.len() < to {
            self.partitions.push(Log::default());
        }
    }

    /// Returns the partition, if the topic has it.
    pub(super) fn log(&mut self, partition: i32) -> Option<&mut Log> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

/// The log of a partition, as its leader has it.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The first offset that is retained.
    pub(super) start: i64,
    /// The offset that the next record gets: the high watermark, as no replica lags.
    pub(super) end: i64,
    pub(super) epoch: i32,
    /// The first offset of each leader epoch after the first.
    epochs: Vec<(i32, i64)>,
    /// Sorted by offset, with holes.
    entries: Vec<Entry>,
    /// The first offset of each transaction that has not ended.
    open: BTreeMap<TransactionNumber, i64>,
    /// Transactions that have ended: whether they committed.
    ended: BTreeMap<TransactionNumber, bool>,
    /// Until when the partition has no leader.
    pub(super) leaderless_until: Option<Instant>,
    /// Fetches that wait for something new.
    pub(super) parked: Vec<ParkedFetch>,
}

/// A fetch that the broker answers later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParkedFetch {
    pub(super) client: ClientId,
    pub(super) number: u64,
    pub(super) position: i64,
    pub(super) version: u64,
    pub(super) topic: u64,
    pub(super) leader_epoch: i32,
    pub(super) reported_end: Option<i64>,
}

#[derive(Debug, Clone)]
struct Entry {
    offset: i64,
    epoch: i32,
    transaction: Option<TransactionNumber>,
    /// Absent in a control marker.
    data: Option<Produce>,
}

/// What a fetch found.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) records: Vec<FetchedRecord>,
    /// The position behind the batch: past control markers, aborted records and holes.
    pub(super) next: Position,
}

/// An offset, and the leader epoch of the record before it, where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: i64,
    pub(super) epoch: Option<i32>,
}

#[derive(Debug, Clone)]
pub(super) struct FetchedRecord {
    pub(super) offset: i64,
    pub(super) epoch: i32,
    pub(super) data: Produce,
}

impl Log {
    /// Appends a record and returns its offset.
    pub(super) fn append(&mut self, data: Produce, transaction: Option<TransactionNumber>) -> i64 {
        let offset = self.end;
        if let Some(transaction) = transaction {
            self.open.entry(transaction).or_insert(offset);
        }
        self.push(Some(data), transaction)
    }

    /// Appends the marker that ends a transaction, if it wrote here.
    pub(super) fn end_transaction(&mut self, transaction: TransactionNumber, commits: bool) {
        if self.open.remove(&transaction).is_some() {
            self.ended.insert(transaction, commits);
            self.push(None, Some(transaction));
        }
    }

    /// Appends a marker that ends a transaction without records here.
    pub(super) fn push_marker(&mut self, transaction: TransactionNumber) {
        self.push(None, Some(transaction));
    }

    fn push(&mut self, data: Option<Produce>, transaction: Option<TransactionNumber>) -> i64 {
        let offset = self.end;
        self.entries.push(Entry {
            offset,
            epoch: self.epoch,
            transaction,
            data,
        });
        self.end += 1;
        offset
    }

    /// Returns the last stable offset: the first of any transaction that has not ended, or
    /// the log start if that was deleted (`UnifiedLog.maybeUpdateFirstUnstable`).
    pub(super) fn stable(&self) -> i64 {
        let first = self.open.values().min();
        first.map_or(self.end, |first| *first.max(&self.start))
    }

    /// Returns the offset up to which a reader may read.
    pub(super) fn readable_end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.end,
            Isolation::ReadCommitted => self.stable(),
        }
    }

    fn is_visible(&self, entry: &Entry, isolation: Isolation) -> bool {
        entry.data.is_some()
            && match (isolation, entry.transaction) {
                (Isolation::ReadUncommitted, _) | (_, None) => true,
                (Isolation::ReadCommitted, Some(it)) => self.ended.get(&it) == Some(&true),
            }
    }

    /// Reads from an offset on. Like a broker it returns at least one record, even if that
    /// is larger than the limit.
    pub(super) fn read(
        &self,
        from: i64,
        isolation: Isolation,
        messages: usize,
        bytes: usize,
    ) -> Batch {
        let end = self.readable_end(isolation);
        let first = self.entries.partition_point(|entry| entry.offset < from);
        let mut batch = Batch {
            records: Vec::new(),
            next: Position {
                offset: from,
                epoch: None,
            },
        };
        let (mut size, mut all_read) = (0, true);
        for entry in self.entries[first..]
            .iter()
            .take_while(|it| it.offset < end)
        {
            if self.is_visible(entry, isolation)
                && let Some(data) = &entry.data
            {
                size += data.size();
                let is_full = batch.records.len() >= messages || size > bytes;
                if is_full && !batch.records.is_empty() {
                    all_read = false;
                    break;
                }
                batch.records.push(FetchedRecord {
                    offset: entry.offset,
                    epoch: entry.epoch,
                    data: data.clone(),
                });
            }
            batch.next = Position {
                offset: entry.offset + 1,
                epoch: Some(entry.epoch),
            };
        }
        // A hole at the end: the batch that held it says how far it reached.
        if all_read {
            batch.next.offset = end.max(from);
        }
        batch
    }

    /// Returns all records that a reader sees.
    pub(super) fn visible(&self, partition: i32, isolation: Isolation) -> Vec<StoredRecord> {
        let batch = self.read(self.start, isolation, usize::MAX, usize::MAX);
        let records = batch.records.into_iter().map(|record| StoredRecord {
            partition,
            offset: record.offset,
            key: record.data.key,
            value: record.data.value,
            headers: record.data.headers,
            timestamp: record.data.timestamp,
        });
        records.collect()
    }

    /// Returns the offsets of all entries.
    #[cfg(feature = "simulation")]
    pub(super) fn offsets(&self) -> Vec<i64> {
        self.entries.iter().map(|entry| entry.offset).collect()
    }

    /// Returns the end of a leader epoch, as `OffsetForLeaderEpoch` gives it: none of an
    /// epoch that is yet to come (`LeaderEpochFileCache.endOffsetFor`).
    pub(super) fn end_of_epoch(&self, epoch: i32) -> Option<i64> {
        let later = self.epochs.iter().find(|(it, _)| *it > epoch);
        let end = later.map_or(self.end, |(_, start)| *start);
        (epoch <= self.epoch).then_some(end)
    }

    /// Another leader takes over.
    pub(super) fn elect(&mut self) {
        self.epoch += 1;
        self.epochs.push((self.epoch, self.end));
    }

    /// Another leader takes over that lacks the newest records.
    pub(super) fn truncate(&mut self, to: i64) {
        self.end = self.end.min(to.max(self.start));
        let end = self.end;
        self.entries.retain(|entry| entry.offset < end);
        self.open.retain(|_, first| *first < end);
        self.epochs.retain(|(_, start)| *start < end);
        self.elect();
    }

    /// Deletes what is before an offset.
    pub(super) fn delete_before(&mut self, before: i64) {
        self.start = self.start.max(before.min(self.end));
        let start = self.start;
        self.entries.retain(|entry| entry.offset >= start);
    }

    /// Removes records, and markers, whose offset is not kept; never the last entry, nor
    /// any that a transaction still holds.
    pub(super) fn compact(&mut self, keep: impl Fn(i64) -> bool) {
        let (stable, last) = (self.stable(), self.end - 1);
        self.entries
            .retain(|it| keep(it.offset) || it.offset >= stable || it.offset == last);
    }
}

impl Produce {
    fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }
}
