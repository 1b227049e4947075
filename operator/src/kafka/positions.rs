//! The positions of a group in its topics, and the lag and the lost messages that follow from them.
//! Pure functions; `offsets` asks the brokers.

use std::collections::BTreeSet;

use penstock_crds::spec::{LossReason, OffsetReset};
use penstock_runtime::gaps::Gaps;

/// The reason of an unknown lag if the group has no committed offset and does not begin at the
/// start of the log. With Latest it begins at the end of the log at the time when a pod is assigned
/// the partition, which the brokers do not record.
const NOTHING_COMMITTED: &str = "nothing committed yet";

/// The offsets of one partition, or the reason why they could not be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PartitionOffsets {
    pub topic: String,
    pub partition: i32,
    pub offsets: Result<Offsets, String>,
}

/// The offsets of one partition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Offsets {
    /// The offset of the oldest message that is kept.
    pub start: i64,
    /// The offset after the newest message that the group may read.
    pub end: i64,
    /// The offset after the newest message, also of an open transaction.
    pub log_end: i64,
    /// The group's commit, if there is one.
    pub committed: Option<Committed>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Committed {
    pub offset: i64,
    /// The messages beyond it that are settled.
    pub gaps: Option<Gaps>,
}

/// The lag of one partition. An unknown lag is never reported as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionLag {
    /// The number of messages.
    Known(i64),
    /// Unknown, for this reason.
    Unknown(String),
}

/// The lag of all partitions of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// The sum over the partitions with a known lag; `None` if there are none. While the lag of
    /// another partition is unknown, this is a lower bound.
    pub known: Option<i64>,
    /// The number of partitions with an unknown lag.
    pub unknown_partitions: i32,
    /// The reason of the first of them.
    pub unknown_reason: Option<String>,
}

/// Messages of a partition that were removed from the log before the group
/// committed them, or a committed offset that the log does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// RetentionPassed or TopicRecreated.
    pub reason: LossReason,
    /// The committed offset.
    pub committed: i64,
    /// The offset at which the log begins, or ends.
    pub log: i64,
    /// The maximum number of lost messages.
    pub messages: Option<i64>,
}

/// The result of one reading of a group's offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The lag.
    pub lag: Lag,
    /// The lost messages.
    pub losses: Vec<Loss>,
    /// The topics in which the group has a committed offset.
    pub committed: BTreeSet<String>,
    /// The topics without a committed offset. Every partition of these could be read.
    pub uncommitted: BTreeSet<String>,
    /// The reason why a partition could not be read.
    pub unread: Option<String>,
    /// The partitions that could not be read.
    pub unread_partitions: BTreeSet<(String, i32)>,
    /// The topics whose partitions are not known.
    pub unlisted_topics: BTreeSet<String>,
}

impl Positions {
    /// Creates the result of a reading that failed.
    pub fn unread(why: impl Into<String>) -> Self {
        let why = why.into();
        Self {
            lag: Lag {
                unknown_reason: Some(why.clone()),
                ..Lag::default()
            },
            unread: Some(why),
            ..Self::default()
        }
    }

    /// Returns `true` if the list of losses is complete for a partition: the partition was read, or
    /// the topic no longer has it.
    pub fn was_read(&self, topic: &str, partition: i32) -> bool {
        let nothing_was = self.unread.is_some() && self.unread_partitions.is_empty();
        let unread = (topic.to_owned(), partition);
        !nothing_was
            && !self.unlisted_topics.contains(topic)
            && !self.unread_partitions.contains(&unread)
    }

    /// Computes the result from the offsets of all partitions. `reset` is the start of a group
    /// without a committed offset.
    pub(super) fn of(partitions: &[PartitionOffsets], reset: OffsetReset) -> Self {
        let mut positions = Self::default();
        let mut unread = Reasons::default();
        let mut unknown = Reasons::default();
        for partition in partitions {
            let lag = match &partition.offsets {
                Ok(offsets) => {
                    positions.losses.extend(partition.loss(offsets));
                    let topics = match offsets.committed {
                        Some(_) => &mut positions.committed,
                        None => &mut positions.uncommitted,
                    };
                    topics.insert(partition.topic.clone());
                    offsets.lag(reset)
                }
                Err(why) => {
                    unread.add(partition, why);
                    let at = (partition.topic.clone(), partition.partition);
                    positions.unread_partitions.insert(at);
                    PartitionLag::Unknown(why.clone())
                }
            };
            match lag {
                PartitionLag::Known(lag) => *positions.lag.known.get_or_insert(0) += lag,
                PartitionLag::Unknown(why) => unknown.add(partition, &why),
            }
        }
        let (committed, unread_partitions) = (&positions.committed, &positions.unread_partitions);
        let is_unread = |topic: &String| unread_partitions.iter().any(|it| it.0 == *topic);
        positions
            .uncommitted
            .retain(|topic| !committed.contains(topic) && !is_unread(topic));
        positions.lag.unknown_partitions = unknown.count;
        positions.lag.unknown_reason = unknown.text();
        positions.unread = unread.text();
        positions
    }
}

impl Offsets {
    /// Returns the number of messages from the first that the group will read to the end.
    fn lag(&self, reset: OffsetReset) -> PartitionLag {
        let messages_from = |offset: i64| (self.end - offset.max(self.start)).max(0);
        match &self.committed {
            Some(committed) if committed.offset > self.log_end => PartitionLag::Unknown(format!(
                "the committed offset {} is beyond the end of the log, {}",
                committed.offset, self.log_end
            )),
            Some(committed) => PartitionLag::Known(messages_from(committed.offset)),
            None if messages_from(self.start) == 0 => PartitionLag::Known(0),
            None if reset == OffsetReset::Earliest => {
                PartitionLag::Known(messages_from(self.start))
            }
            None => PartitionLag::Unknown(NOTHING_COMMITTED.to_owned()),
        }
    }
}

impl PartitionOffsets {
    fn loss(&self, offsets: &Offsets) -> Option<Loss> {
        let committed = offsets.committed.as_ref()?;
        let loss = |reason, log, messages| Loss {
            topic: self.topic.clone(),
            partition: self.partition,
            reason,
            committed: committed.offset,
            log,
            messages,
        };
        if committed.offset > offsets.log_end {
            return Some(loss(LossReason::TopicRecreated, offsets.log_end, None));
        }
        let lost = committed.unsettled_below(offsets.start);
        (lost > 0).then(|| loss(LossReason::RetentionPassed, offsets.start, Some(lost)))
    }
}

impl Committed {
    /// Returns the number of offsets from the committed one up to `end` that the group has not
    /// noted as settled.
    fn unsettled_below(&self, end: i64) -> i64 {
        let Some(gaps) = &self.gaps else {
            return (end - self.offset).max(0);
        };
        let incomplete: i64 = gaps
            .incomplete()
            .iter()
            .map(|range| (range.end.min(end) - range.start).max(0))
            .sum();
        incomplete + (end - gaps.horizon()).max(0)
    }
}

/// The reasons of several partitions, in one line.
#[derive(Default)]
struct Reasons {
    first: Option<String>,
    count: i32,
}

impl Reasons {
    fn add(&mut self, of: &PartitionOffsets, why: &str) {
        self.count += 1;
        self.first
            .get_or_insert_with(|| format!("topic {} partition {}: {why}", of.topic, of.partition));
    }

    fn text(self) -> Option<String> {
        let first = self.first?;
        Some(match self.count - 1 {
            0 => first,
            1 => format!("{first}; and 1 more partition"),
            more => format!("{first}; and {more} more partitions"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(start: i64, committed: Option<i64>, end: i64) -> Offsets {
        Offsets {
            start,
            end,
            log_end: end,
            committed: committed.map(|offset| Committed { offset, gaps: None }),
        }
    }

    fn partition(partition: i32, offsets: Result<Offsets, &str>) -> PartitionOffsets {
        PartitionOffsets {
            topic: "orders".into(),
            partition,
            offsets: offsets.map_err(str::to_owned),
        }
    }

    #[test]
    fn a_lag_begins_at_the_committed_offset_or_where_the_log_does() {
        use OffsetReset::{Earliest, Fail, Latest};
        use PartitionLag::Known;
        for reset in [Latest, Earliest, Fail] {
            assert_eq!(offsets(0, Some(7), 10).lag(reset), Known(3));
            assert_eq!(offsets(0, Some(10), 10).lag(reset), Known(0));
            // Messages that retention has removed can't be handled any more.
            assert_eq!(offsets(8, Some(2), 10).lag(reset), Known(2));
            assert_eq!(offsets(10, Some(2), 10).lag(reset), Known(0));
            // There is nothing to lag behind.
            assert_eq!(offsets(4, None, 4).lag(reset), Known(0));
        }
        assert_eq!(offsets(4, None, 10).lag(Earliest), Known(6));
    }

    #[test]
    fn a_lag_behind_an_open_transaction_ends_where_the_group_may_read() {
        let open = Offsets {
            log_end: 20,
            ..offsets(0, Some(12), 10)
        };
        assert_eq!(open.lag(OffsetReset::Latest), PartitionLag::Known(0));
        assert_eq!(partition(0, Ok(open.clone())).loss(&open), None);
    }

    #[test]
    fn a_lag_that_is_not_known_is_no_number() {
        let unknown = |lag| match lag {
            PartitionLag::Unknown(why) => why,
            PartitionLag::Known(lag) => panic!("known as {lag}"),
        };
        for reset in [OffsetReset::Latest, OffsetReset::Fail] {
            assert_eq!(
                unknown(offsets(0, None, 10).lag(reset)),
                "nothing committed yet"
            );
        }
        let why = unknown(offsets(0, Some(500), 3).lag(OffsetReset::Earliest));
        assert_eq!(
            why,
            "the committed offset 500 is beyond the end of the log, 3"
        );
    }

    #[test]
    fn a_partition_that_could_not_be_read_makes_the_lag_a_lower_bound() {
        let read = [
            partition(0, Ok(offsets(0, Some(7), 10))),
            partition(1, Err("it has no leader")),
            partition(2, Err("timed out")),
        ];
        let positions = Positions::of(&read, OffsetReset::Earliest);
        let why = "topic orders partition 1: it has no leader; and 1 more partition";
        assert_eq!(positions.lag.known, Some(3));
        assert_eq!(positions.lag.unknown_partitions, 2);
        assert_eq!(positions.lag.unknown_reason.as_deref(), Some(why));
        assert_eq!(positions.unread.as_deref(), Some(why));

        let positions = Positions::of(&read[1..], OffsetReset::Earliest);
        assert_eq!(positions.lag.known, None, "none is known");
        assert_eq!(positions.lag.unknown_partitions, 2);
    }

    #[test]
    fn a_topic_without_commits_is_one_whose_partitions_were_all_read() {
        let topics = |partitions: &[PartitionOffsets]| {
            let positions = Positions::of(partitions, OffsetReset::Latest);
            (positions.committed.len(), positions.uncommitted.len())
        };
        let none = partition(0, Ok(offsets(0, None, 10)));
        let some = partition(1, Ok(offsets(0, Some(3), 10)));
        let unread = partition(2, Err("it has no leader"));
        assert_eq!(topics(std::slice::from_ref(&none)), (0, 1));
        assert_eq!(topics(&[none.clone(), some]), (1, 0));
        assert_eq!(
            topics(&[none, unread]),
            (0, 0),
            "it may have a commit there"
        );
    }

    #[test]
    fn messages_are_lost_where_the_log_begins_behind_the_committed_offset() {
        let losses = |offsets: Offsets| {
            Positions::of(&[partition(4, Ok(offsets))], OffsetReset::Latest).losses
        };
        let lost = losses(offsets(1500, Some(1000), 2000));
        let expected = Loss {
            topic: "orders".into(),
            partition: 4,
            reason: LossReason::RetentionPassed,
            committed: 1000,
            log: 1500,
            messages: Some(500),
        };
        assert_eq!(lost, std::slice::from_ref(&expected));
        assert_eq!(losses(offsets(1500, Some(1500), 2000)), []);
        assert_eq!(losses(offsets(2000, Some(2000), 2000)), []);
        assert_eq!(losses(offsets(1500, None, 2000)), []);
        let recreated = Loss {
            reason: LossReason::TopicRecreated,
            log: 3,
            messages: None,
            ..expected
        };
        assert_eq!(losses(offsets(0, Some(1000), 3)), [recreated]);
    }

    #[test]
    fn settled_messages_beyond_the_committed_offset_are_not_lost() {
        let lost = |start: i64| {
            // 1000 and 1005 to 1009 are in flight; from 1100 on nothing is known.
            let gaps = Gaps::new(1000, 1100, [1000..1001, 1005..1010], []);
            let committed = Committed {
                offset: 1000,
                gaps: Some(gaps),
            };
            let offsets = Offsets {
                committed: Some(committed),
                ..offsets(start, None, 2000)
            };
            let loss = partition(0, Ok(offsets.clone())).loss(&offsets);
            loss.and_then(|loss| loss.messages)
        };
        assert_eq!(lost(1000), None);
        assert_eq!(lost(1004), Some(1));
        assert_eq!(lost(1007), Some(3));
        assert_eq!(lost(1100), Some(6));
        assert_eq!(lost(1150), Some(56));
    }
}
