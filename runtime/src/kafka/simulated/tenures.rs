//! Which member had which partition, as the coordinator of a group saw it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::broker::{ClientId, Cluster};
use super::group::Members;
use crate::kafka::seam::TopicPartition;

/// The time for which a coordinator had a partition assigned to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) client: ClientId,
    pub(crate) partition: TopicPartition,
    /// Since the cluster was created.
    pub(crate) from: Duration,
    /// Absent while it lasts.
    pub(crate) until: Option<Duration>,
    /// It ended because the coordinator removed a member that was silent for too long.
    pub(crate) is_evicted: bool,
    member: String,
}

/// What the coordinator has assigned to a member.
pub(super) struct Holding {
    pub(super) client: ClientId,
    pub(super) member: String,
    pub(super) partitions: BTreeSet<TopicPartition>,
}

/// Why members may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    Left,
    Evicted,
}

impl Members {
    fn has(&self, member: &str) -> bool {
        match self {
            Self::Unknown => false,
            Self::Classic(classic) => classic.has(member),
            Self::Consumer(consumer) => consumer.has(member),
        }
    }

    /// Returns what each member has, unless a rebalance is about to decide that.
    fn holdings(&self) -> Option<Vec<Holding>> {
        match self {
            Self::Unknown => None,
            Self::Classic(classic) => classic.holdings(),
            Self::Consumer(consumer) => Some(consumer.holdings()),
        }
    }
}

impl Cluster {
    /// Notes which tenures of a group have ended, and which have begun.
    pub(super) fn note_tenures(&mut self, group: &str, gone: Gone) {
        let now = self.elapsed();
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        let holdings = group.members.holdings();
        for tenure in group.tenures.iter_mut().filter(|it| it.until.is_none()) {
            let is_gone = !group.members.has(&tenure.member);
            let is_moved = holdings.as_ref().is_some_and(|holdings| {
                let mut of_it = holdings.iter().filter(|it| it.member == tenure.member);
                !of_it.any(|it| it.partitions.contains(&tenure.partition))
            });
            if is_gone || is_moved {
                tenure.until = Some(now);
                tenure.is_evicted = is_gone && gone == Gone::Evicted;
            }
        }
        for holding in holdings.into_iter().flatten() {
            for partition in holding.partitions {
                let lasts = group.tenures.iter().any(|it| {
                    it.until.is_none() && it.member == holding.member && it.partition == partition
                });
                if !lasts {
                    group.tenures.push(Tenure {
                        client: holding.client,
                        partition,
                        from: now,
                        until: None,
                        is_evicted: false,
                        member: holding.member.clone(),
                    });
                }
            }
        }
    }
}
