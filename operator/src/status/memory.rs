//! Which messages the group has lost, and in which topics it has committed offsets:
//! the part of a status that outlives what is seen in one pass.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use penstock_crds::spec::{CommittedTopics, KafkaConsumerStatus, LossReason, LostMessages};
use penstock_crds::validate::ValidatedConsumer;

use super::Seen;
use crate::kafka::{Loss, Positions};

/// How long a loss is reported after the group has moved past it. Somebody who is
/// called by night should still find it.
pub(crate) const REPORTED: Duration = Duration::from_secs(3600);

/// The maximum number of losses in a status.
const MAX_LOSSES: usize = 100;

/// What is remembered from pass to pass.
#[derive(Default)]
pub(super) struct Memory {
    pub committed: Option<CommittedTopics>,
    pub lost: Vec<LostMessages>,
}

impl Memory {
    /// Returns what `before` remembers and what was seen since. It is about one group
    /// at one cluster: another group, or other brokers, begin with nothing.
    pub fn of(seen: &Seen<'_>, before: &KafkaConsumerStatus) -> Self {
        let mut memory = Self {
            committed: before.committed.clone(),
            lost: before.messages_lost.clone(),
        };
        if let Ok(consumer) = seen.consumer {
            if !is_same_group(consumer, before) {
                memory = Self::default();
            }
            memory.forget_topics(consumer);
            if let Some(positions) = &seen.positions {
                memory.note(consumer, positions, seen.now);
            }
        }
        memory.lost.retain(|lost| left(lost, seen.now).is_some());
        memory.sort();
        memory
    }

    fn forget_topics(&mut self, consumer: &ValidatedConsumer) {
        let reads = |topic: &String| consumer.topics.iter().any(|read| read.as_str() == topic);
        self.lost.retain(|lost| reads(&lost.topic));
        if let Some(committed) = &mut self.committed {
            committed.topics.retain(reads);
        }
    }

    fn note(&mut self, consumer: &ValidatedConsumer, positions: &Positions, now: Timestamp) {
        let had = self.committed.take().map(|committed| committed.topics);
        let mut topics: BTreeSet<String> = had.into_iter().flatten().collect();
        let mut current: Vec<LostMessages> = positions.losses.iter().map(lost).collect();
        current.extend(
            topics
                .intersection(&positions.uncommitted)
                .map(|topic| expired(topic)),
        );
        self.pass_by(&current, positions, now);
        for lost in current {
            match self.lost.iter_mut().find(|known| is_same(known, &lost)) {
                Some(known) => extend(known, lost),
                None => self.lost.push(lost),
            }
        }
        topics.extend(positions.committed.iter().cloned());
        self.committed = (!topics.is_empty()).then(|| CommittedTopics {
            group: consumer.group.to_string(),
            bootstrap_servers: consumer.kafka.bootstrap_servers.clone(),
            topics: topics.into_iter().collect(),
        });
    }

    /// The group has moved past what is no longer seen where that could be read.
    fn pass_by(&mut self, current: &[LostMessages], positions: &Positions, now: Timestamp) {
        for known in &mut self.lost {
            let was_read = match known.partition {
                Some(partition) => positions.was_read(&known.topic, partition),
                // One committed offset is enough to know.
                None => positions.committed.contains(&known.topic),
            };
            if was_read && !current.iter().any(|lost| is_same(known, lost)) {
                known.passed_time.get_or_insert(Time(now));
            }
        }
    }

    /// The largest are kept, in the order of the partitions.
    fn sort(&mut self) {
        self.lost
            .sort_by_key(|lost| std::cmp::Reverse(lost.messages.unwrap_or(i64::MAX)));
        self.lost.truncate(MAX_LOSSES);
        self.lost
            .sort_by(|one, other| place(one).cmp(&place(other)));
    }
}

/// Returns `true` unless what `before` remembers is of another group or cluster.
pub(super) fn is_same_group(consumer: &ValidatedConsumer, before: &KafkaConsumerStatus) -> bool {
    before.committed.as_ref().is_none_or(|committed| {
        committed.group == consumer.group.as_str()
            && committed.bootstrap_servers == consumer.kafka.bootstrap_servers
    })
}

/// How long a loss is reported from now on; forever while the group has not moved past
/// it. `None` when it is not any more.
pub(super) fn left(lost: &LostMessages, now: Timestamp) -> Option<Duration> {
    let Some(passed) = &lost.passed_time else {
        return Some(Duration::MAX);
    };
    let age = Duration::try_from(now.duration_since(passed.0)).unwrap_or_default();
    REPORTED.checked_sub(age).filter(|left| !left.is_zero())
}

fn place(lost: &LostMessages) -> (LossReason, &str, Option<i32>) {
    (lost.reason, &lost.topic, lost.partition)
}

fn is_same(one: &LostMessages, other: &LostMessages) -> bool {
    place(one) == place(other)
}

fn lost(loss: &Loss) -> LostMessages {
    LostMessages {
        topic: loss.topic.clone(),
        partition: Some(loss.partition),
        reason: loss.reason,
        committed: Some(loss.committed),
        log: Some(loss.log),
        messages: loss.messages,
        passed_time: None,
    }
}

fn expired(topic: &str) -> LostMessages {
    LostMessages {
        topic: topic.to_owned(),
        partition: None,
        reason: LossReason::OffsetsExpired,
        committed: None,
        log: None,
        messages: None,
        passed_time: None,
    }
}

/// Adds what is lost now to what is known to be lost. Where the group has committed
/// since, the messages of before are counted too, and none twice.
fn extend(known: &mut LostMessages, now: LostMessages) {
    let (Some((first, end)), Some((committed, log))) = (range(known), range(&now)) else {
        known.passed_time = None;
        return;
    };
    if now.reason != LossReason::RetentionPassed || committed == first {
        *known = now;
        return;
    }
    let more = (log - committed.max(end)).max(0);
    let more = more.min(now.messages.unwrap_or(more));
    known.messages = Some(known.messages.unwrap_or_default() + more);
    known.committed = Some(first.min(committed));
    known.log = Some(end.max(log));
    known.passed_time = None;
}

fn range(lost: &LostMessages) -> Option<(i64, i64)> {
    lost.committed.zip(lost.log)
}
