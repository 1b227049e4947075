//! What was written to the topic of a run, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::losses::Loss;
use super::record::Delivery;
use super::run::Committed;
use super::scenario::{Scenario, TOPIC};
use crate::kafka::TopicId;
use crate::kafka::simulated::{Kafka, Produce};

/// The time within which a running consumer notices that a topic was created again: it asks
/// for the id every 30 s.
const NOTICE: Duration = Duration::from_secs(60);

/// A message that was produced.
#[derive(Clone, Debug)]
pub struct Produced {
    /// Names the message: no other of the run has this number.
    pub seq: usize,
    /// The partition of [`TOPIC`].
    pub partition: i32,
    /// Which of the partition's logs it was written to, see [`Cut`].
    pub log: u32,
    /// The offset.
    pub offset: i64,
    /// `false` if the value can't be decoded.
    pub valid: bool,
    /// When, from the beginning of the run.
    pub at: Duration,
    /// When it was removed from the log, and by what.
    pub removed: Option<(Duration, Removal)>,
    /// The group began behind it, as `offsetReset: Latest` asks for, or skipped it, as
    /// `onOffsetLost: Latest` does.
    pub is_passed: bool,
}

/// What removed a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Records were deleted up to an offset.
    Retention,
    /// A replica became the leader that lacks it.
    Truncation,
    /// The topic was deleted and created again.
    Recreation,
    /// Compaction, which leaves a hole.
    Compaction,
    /// Its transaction was aborted.
    Abort,
}

/// A partition's log was truncated or created again: from then on its offsets name other
/// messages. Logs count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// The partition.
    pub partition: i32,
    /// The number of the log that begins.
    pub log: u32,
    /// Its first offset.
    pub start: i64,
    /// The end of the log before.
    pub end_before: i64,
    /// The id of the topic, if it was created again.
    pub topic: Option<u128>,
}

pub(super) struct Ledger {
    kafka: Kafka,
    pub(super) produced: Vec<Produced>,
    /// Offsets without a message for a reader: partition, log and offset.
    pub(super) holes: BTreeSet<(i32, u32, i64)>,
    pub(super) cuts: Vec<Cut>,
    /// When partitions were added, by the first of them.
    pub(super) added: BTreeMap<i32, Duration>,
    /// Numbers of the messages in the third party's open transaction.
    open: Vec<usize>,
    /// Beyond those of the scenario.
    next_seq: usize,
}

impl Ledger {
    pub(super) fn new(kafka: Kafka, scenario: &Scenario) -> Self {
        Self {
            kafka,
            produced: Vec::new(),
            holes: BTreeSet::new(),
            cuts: Vec::new(),
            added: BTreeMap::new(),
            open: Vec::new(),
            next_seq: scenario.messages.len(),
        }
    }

    /// Produces a message of the scenario. One for a partition that does not exist yet goes
    /// to another.
    pub(super) fn produce(&mut self, scenario: &Scenario, index: usize, now: Duration) {
        let message = &scenario.messages[index];
        let partition = message.partition % self.partitions();
        let record = record(index, message.key, message.valid);
        let offset = self.kafka.produce(TOPIC, partition, record);
        self.note(index, partition, offset, message.valid, now);
    }

    fn note(&mut self, seq: usize, partition: i32, offset: i64, valid: bool, at: Duration) {
        self.produced.push(Produced {
            seq,
            partition,
            log: self.log(partition),
            offset,
            valid,
            at,
            removed: None,
            is_passed: false,
        });
    }

    /// The number of the partition's present log.
    fn log(&self, partition: i32) -> u32 {
        let mut cuts = self.cuts.iter().rev();
        let last = cuts.find(|cut| cut.partition == partition);
        last.map_or(0, |cut| cut.log)
    }

    fn partitions(&self) -> i32 {
        i32::try_from(self.kafka.ends(TOPIC).len()).unwrap_or(i32::MAX)
    }

    fn bounds(&self, partition: i32) -> Range<i64> {
        let at = |edges: Vec<i64>| {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            edges.get(index).copied().unwrap_or(0)
        };
        at(self.kafka.log_starts(TOPIC))..at(self.kafka.ends(TOPIC))
    }

    /// Notes offsets that hold nothing for a reader.
    fn add_holes(&mut self, partition: i32, offsets: Range<i64>) {
        let log = self.log(partition);
        let holes = offsets.map(|offset| (partition, log, offset));
        self.holes.extend(holes);
    }

    pub(super) fn put_marker(&mut self, partition: i32) {
        let offset = self.kafka.put_control(TOPIC, partition);
        self.add_holes(partition, offset..offset + 1);
    }

    pub(super) fn abort(&mut self, partition: i32, count: u8) {
        let count = count.into();
        let range = self.kafka.produce_aborted(TOPIC, partition, count);
        self.add_holes(partition, range);
    }

    /// Begins, or continues, a third party's transaction with messages.
    pub(super) fn open_transaction(&mut self, partition: i32, count: u8, now: Duration) {
        for _ in 0..count {
            let seq = self.next_seq;
            self.next_seq += 1;
            let record = record(seq, None, true);
            let offset = self.kafka.produce_foreign(TOPIC, partition, record);
            self.open.push(seq);
            self.note(seq, partition, offset, true, now);
        }
    }

    /// Ends the third party's transaction, if one is open.
    pub(super) fn end_transaction(&mut self, commits: bool, now: Duration) {
        let open: BTreeSet<_> = std::mem::take(&mut self.open).into_iter().collect();
        let before = self.kafka.ends(TOPIC);
        self.kafka.end_foreign_transaction(commits);
        for (partition, (start, end)) in (0..).zip(before.into_iter().zip(self.kafka.ends(TOPIC))) {
            self.add_holes(partition, start..end);
        }
        if !commits {
            self.remove(Removal::Abort, now, |it| open.contains(&it.seq));
        }
    }

    /// Notes that messages are gone from the logs.
    fn remove(&mut self, by: Removal, now: Duration, is_gone: impl Fn(&Produced) -> bool) {
        for message in &mut self.produced {
            if message.removed.is_none() && is_gone(message) {
                message.removed = Some((now, by));
            }
        }
    }

    /// Deletes so many hundredths of a partition's log.
    pub(super) fn delete(&mut self, partition: i32, percent: u8, now: Duration) {
        let bounds = self.bounds(partition);
        let count = (bounds.end - bounds.start) * i64::from(percent) / 100;
        let before = bounds.start + count;
        self.kafka.delete_records(TOPIC, partition, before);
        self.remove(Removal::Retention, now, |it| {
            it.partition == partition && it.offset < before
        });
    }

    /// Cuts the newest records off a partition's log.
    pub(super) fn truncate(&mut self, partition: i32, count: u8, now: Duration) {
        let bounds = self.bounds(partition);
        let to = (bounds.end - i64::from(count)).max(bounds.start);
        self.kafka.truncate(TOPIC, partition, to);
        self.remove(Removal::Truncation, now, |it| {
            it.partition == partition && it.offset >= to
        });
        self.cut(partition, to, bounds.end, None, now);
    }

    /// Deletes the topic, and creates it again with as many partitions.
    pub(super) fn recreate(&mut self, now: Duration) {
        let partitions = self.partitions();
        let ends: Vec<_> = (0..partitions).map(|it| self.bounds(it).end).collect();
        let TopicId(topic) = self.kafka.recreate(TOPIC, partitions);
        self.remove(Removal::Recreation, now, |_| true);
        for (partition, end) in (0..).zip(ends) {
            self.cut(partition, 0, end, Some(topic), now);
        }
    }

    fn cut(
        &mut self,
        partition: i32,
        start: i64,
        end_before: i64,
        topic: Option<u128>,
        at: Duration,
    ) {
        let log = self.log(partition) + 1;
        self.cuts.push(Cut {
            at,
            partition,
            log,
            start,
            end_before,
            topic,
        });
    }

    pub(super) fn add_partition(&mut self, now: Duration) {
        let partitions = self.partitions();
        self.kafka.add_partitions(TOPIC, partitions + 1);
        self.added.insert(partitions, now);
    }

    /// Returns the messages that the group passes by its manifest: it begins at the end of
    /// a partition, or continues there when its offset is lost; and those of a topic that
    /// was created again unnoticed.
    pub(super) fn passed(
        &self,
        scenario: &Scenario,
        deliveries: &[Delivery],
        commits: &[Committed],
        losses: &[Loss],
        now: Duration,
    ) -> BTreeSet<usize> {
        let is_skipped = |it: &Produced| {
            scenario.skips_lost
                && losses.iter().any(|loss| {
                    loss.partition == it.partition
                        && (loss.skipped.0..loss.skipped.1).contains(&it.offset)
                        && it.at <= loss.at
                        && self.log_at(it.partition, loss.at) >= it.log
                })
        };
        let is_unnoticed = |it: &Produced| {
            let cut = self.cut_of((it.partition, it.log));
            cut.is_some_and(|cut| {
                cut.at + NOTICE <= now
                    && it.offset
                        < passed_below(cut, &self.cuts, &self.produced, deliveries, commits, losses)
            })
        };
        let begins = |it: &Produced| {
            let log = (it.partition, it.log);
            let cut = self.cut_of(log);
            scenario.begins_at_end
                && cut.is_none_or(|cut| cut.at + NOTICE <= now)
                && self
                    .first_wanted(scenario, log, deliveries, commits)
                    .is_some_and(|first| it.offset < first)
        };
        let left = self.produced.iter().filter(|it| it.removed.is_none());
        left.filter(|it| is_skipped(it) || is_unnoticed(it) || begins(it))
            .map(|it| it.seq)
            .collect()
    }

    /// Where a group without offsets began in a log, if it began at the end.
    fn first_wanted(
        &self,
        scenario: &Scenario,
        (partition, log): (i32, u32),
        deliveries: &[Delivery],
        commits: &[Committed],
    ) -> Option<i64> {
        // A partition that is added while the group has offsets is read from its start.
        commits.first()?;
        // With a topic that is created again the brokers forget the group's offsets on it.
        let is_new = self.added.get(&partition).filter(|added| {
            let mut cuts = self.cuts.iter();
            !cuts.any(|cut| cut.topic.is_some() && cut.at >= **added)
        });
        let had_offsets = |added: &Duration| {
            let cuts = self.cuts.iter().filter(|cut| cut.topic.is_some());
            let forgotten = cuts.map(|cut| cut.at).filter(|at| at < added).max();
            let forgotten = forgotten.unwrap_or_default();
            commits
                .iter()
                .any(|it| (forgotten..=*added).contains(&it.at))
        };
        if is_new.is_some_and(had_offsets) {
            return None;
        }
        let mut ours = commits.iter().filter(|it| it.partition == partition);
        // What is left of a log that was truncated may be read as part of the next.
        let era = ours
            .clone()
            .map(|it| self.log_at(partition, it.at))
            .find(|era| *era >= log)?;
        let is_then = |at: Duration| self.log_at(partition, at) == era;
        let first = ours.find(|it| is_then(it.at))?;
        let lowest = ours.filter(|it| is_then(it.at)).map(|it| it.offset).min();
        let committed = lowest.map_or(first.offset, |lowest| lowest.min(first.offset));
        // A member that is evicted before the brokers took its first commit is followed at
        // the end: nobody knows where the group has begun.
        let is_known = |at: Duration| at >= first.at || !scenario.may_evict();
        let delivered = deliveries
            .iter()
            .filter(|it| it.partition == partition && is_then(it.begun) && is_known(it.begun));
        let delivered = delivered.map(|it| it.offset).min();
        Some(delivered.map_or(committed, |first| first.min(committed)))
    }

    fn log_at(&self, partition: i32, at: Duration) -> u32 {
        log_at(&self.cuts, partition, at)
    }

    /// Returns where a log begins; the first of a partition has no beginning of its own.
    fn cut_of(&self, log: (i32, u32)) -> Option<&Cut> {
        let mut cuts = self.cuts.iter();
        cuts.find(|cut| (cut.partition, cut.log) == log)
    }

    /// Compacts a partition: a record is kept if the bit of its offset is set.
    pub(super) fn compact(&mut self, partition: i32, kept: u8, now: Duration) {
        let is_kept = |offset: i64| kept & (1 << (offset % 8)) != 0;
        self.kafka.compact(TOPIC, partition, is_kept);
        let left: BTreeSet<_> = self.kafka.offsets(TOPIC, partition).into_iter().collect();
        self.remove(Removal::Compaction, now, |it| {
            it.partition == partition && !left.contains(&it.offset)
        });
    }
}

/// Returns the offset below which messages of a log are passed, since nobody saw that it
/// took the place of another, see docs/reliability.md. Either the log before was truncated,
/// and the group had committed the offset by then. Or the topic was created again, and a
/// commit followed that does not name the topic before: the id was not known yet.
pub fn passed_below(
    cut: &Cut,
    cuts: &[Cut],
    produced: &[Produced],
    deliveries: &[Delivery],
    commits: &[Committed],
    losses: &[Loss],
) -> i64 {
    let partition = cut.partition;
    let is_then = |at: Duration| log_at(cuts, partition, at) == cut.log;
    // Without its id, a topic that was created again may be taken for one that was truncated.
    let notices = |loss: &Loss| match cut.topic.is_some() {
        true => loss.reason == "recreation",
        false => loss.reason != "retention" && !loss.is_departure,
    };
    let mut of_partition = losses.iter().filter(|it| it.partition == partition);
    let is_noticed = of_partition.any(|it| notices(it) && is_then(it.at));
    if is_noticed {
        return 0;
    }
    let is_of_log = |seq: usize| {
        let message = produced.iter().find(|it| it.seq == seq);
        message.is_some_and(|it| (it.partition, it.log) == (partition, cut.log))
    };
    let first = deliveries.iter().find(|it| is_of_log(it.seq));
    let first = first.map_or(Duration::MAX, |it| it.begun);
    let commits = commits.iter().filter(|it| it.partition == partition);
    let (before, after): (Vec<_>, Vec<_>) = commits.partition(|it| it.at <= cut.at);
    let unaware = after.iter().take_while(|it| it.at <= first);
    let passed = if cut.topic.is_some() {
        // If the id was looked up afterwards for the first time, commits of what was read before
        // name the new topic.
        let is_late = before.iter().all(|it| it.topic.is_none());
        let earlier = cuts
            .iter()
            .filter(|it| it.partition == partition && it.log <= cut.log);
        let end_before = earlier.map(|it| it.end_before).max().unwrap_or_default();
        let is_other =
            |it: &Committed| is_late && it.topic == cut.topic && it.horizon <= end_before;
        let unnamed = unaware.filter(|it| it.topic.is_none() || is_other(it));
        unnamed.map(|it| it.horizon).max()
    } else {
        let known = before.last().into_iter().chain(unaware);
        known.map(|it| it.offset).max()
    };
    passed.unwrap_or(0)
}

/// Returns the number of the log that a partition had at a moment.
pub fn log_at(cuts: &[Cut], partition: i32, at: Duration) -> u32 {
    let of_it = cuts.iter().filter(|cut| cut.partition == partition);
    let before = of_it.take_while(|cut| cut.at <= at);
    before.last().map_or(0, |cut| cut.log)
}

fn record(seq: usize, key: Option<u8>, valid: bool) -> Produce {
    let value = match valid {
        true => format!("{{\"seq\":{seq}}}"),
        false => "{".to_owned(),
    };
    Produce {
        key: key.map(|key| vec![b'a' + key]),
        value: Some(value.into_bytes()),
        ..Produce::default()
    }
}
