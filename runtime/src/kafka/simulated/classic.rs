//! The classic protocol at the coordinator, as `GroupCoordinator.scala` and
//! `ClassicGroup.java` have it.
//!
//! ```text
//! Empty ─► PreparingRebalance ─► CompletingRebalance ─► Stable
//!              ▲    (all joined)      (leader synced)      │
//!              └──────────── join, leave, time-out ◄───────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::assignor::{Candidate, Plan};
use super::broker::{ClientId, Cluster};
use super::group::{Committer, Members};
use super::protocol::{Joined, Response};
use super::tenures::Holding;
use crate::kafka::seam::TopicPartition;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Empty,
    Preparing,
    Completing,
    Stable,
}

#[derive(Debug, Default)]
pub(super) struct ClassicGroup {
    state: State,
    generation: i32,
    members: BTreeMap<String, Member>,
    leader: Option<String>,
    /// Until when joining, or the leader, is waited for.
    deadline: Option<Instant>,
    /// Until when a group that was empty waits for more members.
    delay_until: Option<Instant>,
}

#[derive(Debug)]
struct Member {
    client: ClientId,
    topics: Vec<String>,
    owned: BTreeSet<TopicPartition>,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    session_until: Instant,
    /// Waits for the answer to its join.
    is_joining: bool,
    /// Waits for the answer to its sync.
    is_syncing: bool,
    /// Has synced in this generation.
    has_synced: bool,
    assignment: BTreeSet<TopicPartition>,
}

impl ClassicGroup {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn has(&self, member: &str) -> bool {
        self.members.contains_key(member)
    }

    pub(super) fn holdings(&self) -> Option<Vec<Holding>> {
        let members = self.members.iter().map(|(name, member)| Holding {
            client: member.client,
            member: name.clone(),
            partitions: member.assignment.clone(),
        });
        (self.state == State::Stable).then(|| members.collect())
    }

    pub(super) fn extend_session(&mut self, member: &str) {
        if let Some(member) = self.members.get_mut(member) {
            member.session_until = Instant::now() + member.session_timeout;
        }
    }

    /// `ClassicGroup.validateOffsetCommit`.
    pub(super) fn validate(
        &self,
        by: &Committer,
        is_transactional: bool,
    ) -> Result<(), RDKafkaErrorCode> {
        if by.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if by.generation >= 0 || !by.member.is_empty() {
            if !self.members.contains_key(&by.member) {
                return Err(RDKafkaErrorCode::UnknownMemberId);
            }
            if by.generation != self.generation {
                return Err(RDKafkaErrorCode::IllegalGeneration);
            }
        } else if !is_transactional && self.state != State::Empty {
            return Err(RDKafkaErrorCode::UnknownMemberId);
        }
        if !is_transactional && self.state == State::Completing {
            return Err(RDKafkaErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn rebalance_timeout(&self) -> Duration {
        let timeouts = self.members.values().map(|it| it.rebalance_timeout);
        timeouts.max().unwrap_or_default()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let members = self.members.iter().map(|(name, member)| Candidate {
            member: name.clone(),
            topics: member.topics.clone(),
            owned: member.owned.clone(),
        });
        members.collect()
    }

    fn joined(&self, name: &str) -> Joined {
        let is_leader = self.leader.as_deref() == Some(name);
        Joined {
            member: name.to_owned(),
            generation: self.generation,
            members: is_leader.then(|| self.candidates()),
        }
    }

    /// Returns the members whose session has timed out.
    fn expired(&self) -> Vec<String> {
        let now = Instant::now();
        let members = self.members.iter().filter(|(_, member)| {
            !member.is_joining && !member.is_syncing && member.session_until <= now
        });
        members.map(|(name, _)| name.clone()).collect()
    }
}

impl Cluster {
    fn classic(&mut self, group: &str) -> Option<&mut ClassicGroup> {
        match &mut self.groups.get_mut(group)?.members {
            Members::Classic(classic) => Some(classic),
            Members::Unknown | Members::Consumer(_) => None,
        }
    }

    pub(super) fn classic_join(
        &mut self,
        client: ClientId,
        group: &str,
        name: String,
        owned: BTreeSet<TopicPartition>,
    ) {
        let number = self.number();
        let Some((settings, label)) = self
            .sessions
            .get(&client)
            .map(|it| (it.settings.clone(), it.name.clone()))
        else {
            return;
        };
        let Some(classic) = self.classic(group) else {
            return self.respond(
                client,
                Response::Join(Err(RDKafkaErrorCode::InconsistentGroupProtocol)),
            );
        };
        let known = classic.members.get(&name);
        if !name.is_empty() && known.is_none() {
            return self.respond(
                client,
                Response::Join(Err(RDKafkaErrorCode::UnknownMemberId)),
            );
        }
        let is_unchanged =
            known.is_some_and(|it| it.owned == owned && it.topics == settings.topics);
        // KIP-394: the coordinator names a new member, which then joins by that name.
        let name = if name.is_empty() {
            format!("{label}-{number}")
        } else {
            name
        };
        let is_leader = classic.leader.as_ref() == Some(&name);
        if is_unchanged
            && (classic.state == State::Completing || classic.state == State::Stable && !is_leader)
        {
            let joined = classic.joined(&name);
            return self.respond(client, Response::Join(Ok(joined)));
        }
        let is_new = classic.members.insert(
            name.clone(),
            Member {
                client,
                topics: settings.topics,
                owned,
                session_timeout: settings.session_timeout,
                rebalance_timeout: settings.max_poll_interval,
                session_until: Instant::now() + settings.session_timeout,
                is_joining: true,
                is_syncing: false,
                has_synced: false,
                assignment: BTreeSet::new(),
            },
        );
        let is_new = is_new.is_none();
        self.note(format_args!("{group}: {name} joins"));
        self.prepare_rebalance(group, is_new);
        self.try_complete_join(group);
    }

    /// Begins a rebalance, unless one has begun.
    fn prepare_rebalance(&mut self, group: &str, has_new_member: bool) {
        let delay = self.settings.initial_rebalance_delay;
        let Some(classic) = self.classic(group) else {
            return;
        };
        let now = Instant::now();
        let (state, timeout) = (classic.state, classic.rebalance_timeout());
        if state != State::Preparing {
            classic.state = State::Preparing;
            classic.deadline = Some(now + timeout);
            classic.delay_until = (state == State::Empty).then_some(now + delay);
        } else if has_new_member && let Some(until) = classic.delay_until {
            // A new member prolongs the initial delay.
            let latest = classic.deadline.unwrap_or(now);
            classic.delay_until = Some(until.max(now + delay).min(latest));
        }
        if state == State::Completing {
            let waiting = classic.members.values_mut().filter(|it| it.is_syncing);
            let waiting: Vec<_> = waiting
                .map(|member| {
                    member.is_syncing = false;
                    member.client
                })
                .collect();
            for client in waiting {
                let answer = Err(RDKafkaErrorCode::RebalanceInProgress);
                self.respond(client, Response::Sync(answer));
            }
        }
    }

    fn try_complete_join(&mut self, group: &str) {
        let Some(classic) = self.classic(group) else {
            return;
        };
        let now = Instant::now();
        let has_waited = classic.delay_until.is_none_or(|until| until <= now);
        let have_joined = classic.members.values().all(|it| it.is_joining);
        if classic.state == State::Preparing && has_waited && have_joined {
            self.complete_join(group);
        }
    }

    /// Begins a generation of the members that have joined.
    fn complete_join(&mut self, group: &str) {
        let Some(classic) = self.classic(group) else {
            return;
        };
        classic.members.retain(|_, member| member.is_joining);
        classic.generation += 1;
        classic.delay_until = None;
        let generation = classic.generation;
        if classic.members.is_empty() {
            classic.state = State::Empty;
            classic.leader = None;
            return self.note(format_args!(
                "{group}: generation {generation} has no members"
            ));
        }
        let leader = classic.leader.take();
        let leader = leader.filter(|it| classic.members.contains_key(it));
        classic.leader = leader.or_else(|| classic.members.keys().next().cloned());
        classic.state = State::Completing;
        classic.deadline = Some(Instant::now() + classic.rebalance_timeout());
        let names: Vec<_> = classic.members.keys().cloned().collect();
        let mut answers = Vec::new();
        for name in &names {
            let joined = classic.joined(name);
            if let Some(member) = classic.members.get_mut(name) {
                member.is_joining = false;
                member.has_synced = false;
                member.session_until = Instant::now() + member.session_timeout;
                answers.push((member.client, joined));
            }
        }
        self.note(format_args!(
            "{group}: generation {generation} of {names:?}"
        ));
        for (client, joined) in answers {
            self.respond(client, Response::Join(Ok(joined)));
        }
    }

    pub(super) fn classic_sync(
        &mut self,
        client: ClientId,
        group: &str,
        name: &str,
        generation: i32,
        plan: Option<Plan>,
    ) {
        let Some(classic) = self.classic(group) else {
            return self.respond(
                client,
                Response::Sync(Err(RDKafkaErrorCode::UnknownMemberId)),
            );
        };
        let state = classic.state;
        let current = classic.generation;
        let Some(member) = classic.members.get_mut(name) else {
            return self.respond(
                client,
                Response::Sync(Err(RDKafkaErrorCode::UnknownMemberId)),
            );
        };
        let refusal = match state {
            _ if generation != current => Some(RDKafkaErrorCode::IllegalGeneration),
            State::Preparing => Some(RDKafkaErrorCode::RebalanceInProgress),
            State::Empty => Some(RDKafkaErrorCode::UnknownMemberId),
            State::Completing | State::Stable => None,
        };
        if let Some(code) = refusal {
            return self.respond(client, Response::Sync(Err(code)));
        }
        member.is_syncing = true;
        member.has_synced = true;
        member.session_until = Instant::now() + member.session_timeout;
        if let (State::Completing, Some(mut plan)) = (state, plan) {
            for (name, member) in &mut classic.members {
                member.assignment = plan.remove(name).unwrap_or_default();
            }
            classic.state = State::Stable;
            classic.deadline = None;
        }
        self.answer_syncs(group);
    }

    /// Answers all members that wait for the leader's assignment, once there is one.
    fn answer_syncs(&mut self, group: &str) {
        let Some(classic) = self.classic(group) else {
            return;
        };
        if classic.state != State::Stable {
            return;
        }
        let waiting = classic.members.values_mut().filter(|it| it.is_syncing);
        let answers: Vec<_> = waiting
            .map(|member| {
                member.is_syncing = false;
                member.session_until = Instant::now() + member.session_timeout;
                (member.client, member.assignment.clone())
            })
            .collect();
        for (client, assignment) in answers {
            self.respond(client, Response::Sync(Ok(assignment)));
        }
    }

    pub(super) fn classic_heartbeat(
        &mut self,
        group: &str,
        name: &str,
        generation: i32,
    ) -> Result<(), RDKafkaErrorCode> {
        let classic = self
            .classic(group)
            .ok_or(RDKafkaErrorCode::UnknownMemberId)?;
        let (state, current) = (classic.state, classic.generation);
        let member = classic.members.get_mut(name);
        let member = member.ok_or(RDKafkaErrorCode::UnknownMemberId)?;
        if generation != current {
            return Err(RDKafkaErrorCode::IllegalGeneration);
        }
        member.session_until = Instant::now() + member.session_timeout;
        match state {
            State::Preparing => Err(RDKafkaErrorCode::RebalanceInProgress),
            State::Empty => Err(RDKafkaErrorCode::UnknownMemberId),
            State::Completing | State::Stable => Ok(()),
        }
    }

    pub(super) fn classic_leave(&mut self, group: &str, name: &str) {
        self.note(format_args!("{group}: {name} leaves"));
        self.remove_members(group, &[name.to_owned()]);
    }

    fn remove_members(&mut self, group: &str, names: &[String]) {
        let Some(classic) = self.classic(group) else {
            return;
        };
        let before = classic.members.len();
        for name in names {
            classic.members.remove(name);
            if classic.leader.as_ref() == Some(name) {
                classic.leader = None;
            }
        }
        if classic.members.len() < before {
            self.prepare_rebalance(group, false);
            self.try_complete_join(group);
        }
    }

    /// Looks for sessions and rebalances that have timed out.
    pub(super) fn classic_tick(&mut self, group: &str) {
        if self.no_coordinator(group).is_some() {
            return;
        }
        let Some(classic) = self.classic(group) else {
            return;
        };
        let expired = classic.expired();
        if !expired.is_empty() {
            self.note(format_args!(
                "{group}: the session of {expired:?} timed out"
            ));
            self.remove_members(group, &expired);
        }
        let Some(classic) = self.classic(group) else {
            return;
        };
        let is_over = classic.deadline.is_some_and(|at| at <= Instant::now());
        match classic.state {
            State::Preparing if is_over => {
                let members = classic.members.iter();
                let late: Vec<_> = members
                    .filter(|(_, member)| !member.is_joining)
                    .map(|(name, _)| name.clone())
                    .collect();
                self.note(format_args!("{group}: {late:?} did not join in time"));
                self.complete_join(group);
            }
            State::Preparing => self.try_complete_join(group),
            State::Completing if is_over => {
                let members = classic.members.iter();
                let late: Vec<_> = members
                    .filter(|(_, member)| !member.has_synced)
                    .map(|(name, _)| name.clone())
                    .collect();
                self.note(format_args!("{group}: {late:?} did not sync in time"));
                self.remove_members(group, &late);
            }
            State::Completing | State::Stable | State::Empty => {}
        }
    }

    /// The coordinator of a classic group moves: members that wait for an answer get none
    /// but an error, and sessions begin again at the new coordinator.
    pub(super) fn classic_move(&mut self, group: &str) {
        let until = self.groups.get(group).and_then(|it| it.unavailable_until);
        let loaded = until.unwrap_or_else(Instant::now);
        let Some(classic) = self.classic(group) else {
            return;
        };
        let mut answers = Vec::new();
        for member in classic.members.values_mut() {
            member.session_until = loaded + member.session_timeout;
            let code = RDKafkaErrorCode::NotCoordinator;
            if std::mem::take(&mut member.is_joining) {
                answers.push((member.client, Response::Join(Err(code))));
            } else if std::mem::take(&mut member.is_syncing) {
                answers.push((member.client, Response::Sync(Err(code))));
            }
        }
        // Only a stable group is stored; another begins its rebalance again.
        if classic.state != State::Stable && !classic.members.is_empty() {
            classic.state = State::Preparing;
            classic.deadline = Some(loaded + classic.rebalance_timeout());
            classic.delay_until = None;
        }
        for (client, response) in answers {
            self.respond(client, response);
        }
    }
}
