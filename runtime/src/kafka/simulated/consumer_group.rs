//! KIP-848 at the coordinator, as `GroupMetadataManager.java` and
//! `CurrentAssignmentBuilder.java` have it.
//!
//! The group's epoch counts changes of its members, subscriptions and topics; for each the
//! coordinator makes a target assignment. A member follows it in two steps: it confirms
//! that it has revoked what it loses (`Unrevoked`) and then gets what others have released
//! (`Unreleased` until then). Its epoch is the target's once nothing is left to revoke.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::assignor::{self, Candidate, Plan};
use super::broker::{ClientId, Cluster};
use super::group::{Committer, Members};
use super::protocol::{BeatAnswer, Response};
use super::tenures::Holding;
use crate::kafka::seam::TopicPartition;

/// The epoch by which a member leaves.
pub(super) const LEAVE: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Stable,
    Unrevoked,
    Unreleased,
}

#[derive(Debug, Default)]
pub(super) struct ConsumerGroup {
    epoch: i32,
    members: BTreeMap<String, Member>,
    /// The assignment to reach, and the group's epoch that it is for.
    target: Plan,
    target_epoch: i32,
    /// The number of partitions that the target was made for.
    counts: BTreeMap<String, i32>,
}

#[derive(Debug)]
struct Member {
    client: ClientId,
    epoch: i32,
    previous_epoch: i32,
    state: State,
    topics: Vec<String>,
    assigned: BTreeSet<TopicPartition>,
    revoking: BTreeSet<TopicPartition>,
    session_until: Instant,
    rebalance_timeout: Duration,
    /// Until when a revocation must be confirmed.
    revoke_until: Option<Instant>,
}

impl ConsumerGroup {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn has(&self, member: &str) -> bool {
        self.members.contains_key(member)
    }

    /// Partitions that a member is to revoke are among those that it has.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let members = self.members.iter().map(|(name, member)| Holding {
            client: member.client,
            member: name.clone(),
            partitions: member.assigned.union(&member.revoking).cloned().collect(),
        });
        members.collect()
    }

    /// `ConsumerGroup.validateOffsetCommit`.
    pub(super) fn validate(&self, by: &Committer) -> Result<(), RDKafkaErrorCode> {
        if by.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        match self.members.get(&by.member) {
            None => Err(RDKafkaErrorCode::UnknownMemberId),
            Some(member) if member.epoch != by.generation => {
                Err(RDKafkaErrorCode::StaleMemberEpoch)
            }
            Some(_) => Ok(()),
        }
    }

    /// `ConsumerGroup.throwIfConsumerGroupMemberEpochIsInvalid`.
    fn check_epoch(
        member: &Member,
        epoch: i32,
        owned: Option<&BTreeSet<TopicPartition>>,
    ) -> Result<(), RDKafkaErrorCode> {
        let is_repeated = epoch == member.previous_epoch
            && owned.is_some_and(|owned| owned.is_subset(&member.assigned));
        if epoch > member.epoch || epoch < member.epoch && !is_repeated {
            return Err(RDKafkaErrorCode::FencedMemberEpoch);
        }
        Ok(())
    }

    /// Removes a member; its partitions are free.
    fn remove(&mut self, name: &str) {
        if self.members.remove(name).is_some() {
            self.target.remove(name);
            self.epoch += 1;
        }
    }

    /// Makes the target assignment of the group's epoch, if there is none yet.
    fn make_target(&mut self, counts: BTreeMap<String, i32>) {
        if counts != self.counts {
            self.counts = counts;
            self.epoch += 1;
        }
        if self.target_epoch == self.epoch {
            return;
        }
        let members = self.members.iter().map(|(name, member)| Candidate {
            member: name.clone(),
            topics: member.topics.clone(),
            owned: self.target.get(name).cloned().unwrap_or_default(),
        });
        let members: Vec<_> = members.collect();
        self.target = assignor::sticky(&members, &self.counts);
        self.target_epoch = self.epoch;
    }

    /// Moves a member towards its target, as `CurrentAssignmentBuilder.build` does.
    fn reconcile(&mut self, name: &str, owned: Option<&BTreeSet<TopicPartition>>) {
        let target = self.target.get(name).cloned().unwrap_or_default();
        let target_epoch = self.target_epoch;
        let others = self.members.iter().filter(|(other, _)| *other != name);
        let taken: BTreeSet<_> = others
            .flat_map(|(_, other)| other.assigned.union(&other.revoking).cloned())
            .collect();
        let Some(member) = self.members.get_mut(name) else {
            return;
        };
        match member.state {
            State::Stable if member.epoch == target_epoch => {}
            State::Unrevoked => {
                // It must say that it has them no more.
                let has_revoked = owned.is_some_and(|owned| owned.is_disjoint(&member.revoking));
                if has_revoked {
                    member.revoking.clear();
                    member.advance(target, target_epoch, &taken, owned);
                }
            }
            State::Stable | State::Unreleased => {
                member.advance(target, target_epoch, &taken, owned);
            }
        }
    }
}

impl Member {
    /// `CurrentAssignmentBuilder.computeNextAssignment`.
    fn advance(
        &mut self,
        target: BTreeSet<TopicPartition>,
        target_epoch: i32,
        taken: &BTreeSet<TopicPartition>,
        owned: Option<&BTreeSet<TopicPartition>>,
    ) {
        let kept: BTreeSet<_> = self.assigned.intersection(&target).cloned().collect();
        let revoking: BTreeSet<_> = self.assigned.difference(&target).cloned().collect();
        let wanted: BTreeSet<_> = target.difference(&kept).cloned().collect();
        let free: BTreeSet<_> = wanted.difference(taken).cloned().collect();
        let has_unreleased = free.len() < wanted.len();
        // What it does not have it need not revoke.
        let owns_revoked = owned.is_none_or(|owned| !owned.is_disjoint(&revoking));
        if !revoking.is_empty() && owns_revoked {
            self.state = State::Unrevoked;
            self.revoke_until = Some(Instant::now() + self.rebalance_timeout);
            self.assigned = kept;
            self.revoking = revoking;
            return;
        }
        self.state = if has_unreleased {
            State::Unreleased
        } else {
            State::Stable
        };
        self.revoke_until = None;
        self.assigned = kept;
        self.assigned.extend(free);
        if self.epoch != target_epoch {
            self.previous_epoch = self.epoch;
            self.epoch = target_epoch;
        }
    }
}

impl Cluster {
    fn consumer_group(&mut self, group: &str) -> Option<&mut ConsumerGroup> {
        match &mut self.groups.get_mut(group)?.members {
            Members::Consumer(consumer) => Some(consumer),
            Members::Unknown | Members::Classic(_) => None,
        }
    }

    /// Serves `ConsumerGroupHeartbeat`.
    pub(super) fn beat(
        &mut self,
        client: ClientId,
        group: &str,
        name: &str,
        epoch: i32,
        is_full: bool,
        owned: Option<BTreeSet<TopicPartition>>,
    ) {
        if epoch == LEAVE {
            self.note(format_args!("{group}: {name} leaves"));
            self.remove_consumers(group, &[name.to_owned()]);
            return self.respond(client, Response::Left);
        }
        let answer = self.take_beat(client, group, name, epoch, is_full, owned.as_ref());
        if let Err(code) = answer {
            self.note(format_args!(
                "{group}: heartbeat of {name} by {epoch} refused: {code:?}"
            ));
        }
        self.respond(client, Response::Beat(answer));
    }

    fn take_beat(
        &mut self,
        client: ClientId,
        group: &str,
        name: &str,
        epoch: i32,
        is_full: bool,
        owned: Option<&BTreeSet<TopicPartition>>,
    ) -> Result<BeatAnswer, RDKafkaErrorCode> {
        let session_timeout = self.settings.consumer_session_timeout;
        let session = self
            .sessions
            .get(&client)
            .ok_or(RDKafkaErrorCode::UnknownMemberId)?;
        let (topics, rebalance_timeout) = (
            session.settings.topics.clone(),
            session.settings.max_poll_interval,
        );
        let consumers = self.consumer_group(group);
        let consumers = consumers.ok_or(RDKafkaErrorCode::InconsistentGroupProtocol)?;
        if epoch != 0 {
            let member = consumers.members.get(name);
            let member = member.ok_or(RDKafkaErrorCode::UnknownMemberId)?;
            ConsumerGroup::check_epoch(member, epoch, owned)?;
        }
        let is_new = !consumers.members.contains_key(name);
        let now = Instant::now();
        let member = consumers
            .members
            .entry(name.to_owned())
            .or_insert_with(|| Member {
                client,
                epoch: 0,
                previous_epoch: 0,
                state: State::Stable,
                topics: topics.clone(),
                assigned: BTreeSet::new(),
                revoking: BTreeSet::new(),
                session_until: now,
                rebalance_timeout,
                revoke_until: None,
            });
        member.session_until = now + session_timeout;
        let before = member.assigned.clone();
        if is_new || member.topics != topics {
            member.topics = topics;
            consumers.epoch += 1;
        }
        self.make_target(group);
        let consumers = self.consumer_group(group);
        let consumers = consumers.ok_or(RDKafkaErrorCode::UnknownMemberId)?;
        consumers.reconcile(name, owned);
        let member = consumers.members.get(name);
        let member = member.ok_or(RDKafkaErrorCode::UnknownMemberId)?;
        let (epoch, assigned, state) = (member.epoch, member.assigned.clone(), member.state);
        let is_changed = is_full || epoch == 0 || assigned != before;
        if is_new || assigned != before {
            self.note(format_args!(
                "{group}: {name} {state:?} {epoch} has {}",
                Names(&assigned)
            ));
        }
        Ok(BeatAnswer {
            epoch,
            assignment: is_changed.then_some(assigned),
        })
    }

    fn make_target(&mut self, group: &str) {
        let Some(consumers) = self.consumer_group(group) else {
            return;
        };
        let topics = consumers.members.values().flat_map(|it| it.topics.clone());
        let topics: BTreeSet<_> = topics.collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let counts = self.counts(&topics);
        if let Some(consumers) = self.consumer_group(group) {
            consumers.make_target(counts);
        }
    }

    fn remove_consumers(&mut self, group: &str, names: &[String]) {
        if let Some(consumers) = self.consumer_group(group) {
            for name in names {
                consumers.remove(name);
            }
        }
    }

    /// Looks for sessions and revocations that have timed out: their members are fenced.
    pub(super) fn consumer_tick(&mut self, group: &str) {
        if self.no_coordinator(group).is_some() {
            return;
        }
        let now = Instant::now();
        let Some(consumers) = self.consumer_group(group) else {
            return;
        };
        let fenced = consumers.members.iter().filter(|(_, member)| {
            member.session_until <= now || member.revoke_until.is_some_and(|until| until <= now)
        });
        let fenced: Vec<_> = fenced.map(|(name, _)| name.clone()).collect();
        if !fenced.is_empty() {
            self.note(format_args!(
                "{group}: {fenced:?} fenced, for they were silent for too long"
            ));
            self.remove_consumers(group, &fenced);
        }
    }

    /// The coordinator of a group moves: sessions begin again at the new one.
    pub(super) fn consumer_move(&mut self, group: &str) {
        let session_timeout = self.settings.consumer_session_timeout;
        let until = self.groups.get(group).and_then(|it| it.unavailable_until);
        let loaded = until.unwrap_or_else(Instant::now);
        if let Some(consumers) = self.consumer_group(group) {
            for member in consumers.members.values_mut() {
                member.session_until = loaded + session_timeout;
                let timeout = member.rebalance_timeout;
                member.revoke_until = member.revoke_until.map(|_| loaded + timeout);
            }
        }
    }
}

/// Partitions in a line of the log.
pub(super) struct Names<'a>(pub(super) &'a BTreeSet<TopicPartition>);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.iter().map(TopicPartition::to_string).collect();
        write!(f, "[{}]", names.join(", "))
    }
}
