//! The classic protocol at a client, and what all protocols share: announcing changes,
//! and what follows once the engine has answered. After `rdkafka_cgrp.c` and
//! `rdkafka_assignment.c` of librdkafka 2.12.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::assignor::{self, Candidate, Plan};
use super::broker::{ClientId, Cluster};
use super::consumer_group::Names;
use super::protocol::{Joined, Request};
use super::session::{JoinState, Op};
use super::settings::GroupProtocol;
use crate::kafka::seam::TopicPartition;

/// `rkcg_join_intvl`: the minimum time between two attempts to join.
const JOIN_INTERVAL: Duration = Duration::from_secs(1);

impl Cluster {
    /// `rd_kafka_cgrp_join_state_serve`.
    pub(super) fn serve_classic(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        match session.join {
            JoinState::Init => {
                let is_due = session
                    .last_join
                    .is_none_or(|it| it.elapsed() >= JOIN_INTERVAL);
                if is_due {
                    self.join_group(client);
                }
            }
            JoinState::Steady | JoinState::WaitAssignCall | JoinState::WaitUnassignCall => {
                self.check_session(client);
                self.send_heartbeat(client);
            }
            JoinState::WaitJoin
            | JoinState::WaitSync
            | JoinState::WaitUnassignToComplete
            | JoinState::WaitIncrementalUnassignToComplete => {}
        }
    }

    /// `rd_kafka_cgrp_session_timeout_check`.
    fn check_session(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session
            .session_until
            .is_some_and(|until| until <= Instant::now())
        {
            session.session_until = None;
            session.member.clear();
            let name = session.name.clone();
            self.note(format_args!(
                "{name}: the session timed out without an answer"
            ));
            self.revoke_all_and_rejoin_maybe(client, true);
        }
    }

    fn send_heartbeat(&mut self, client: ClientId) {
        let now = Instant::now();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let is_due = session.next_heartbeat.is_none_or(|at| at <= now);
        let may = !session.is_heartbeat_in_transit && !session.has_exceeded_poll;
        let in_group = matches!(
            session.join,
            JoinState::Steady | JoinState::WaitAssignCall | JoinState::WaitUnassignCall
        );
        if is_due && may && in_group {
            session.next_heartbeat = Some(now + session.settings.heartbeat_interval);
            session.is_heartbeat_in_transit = true;
            let (member, generation) = (session.member.clone(), session.generation);
            self.send(client, Request::Heartbeat { member, generation });
        }
    }

    /// `rd_kafka_cgrp_join`.
    fn join_group(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let waits_for_poll = session.has_exceeded_poll && session.poll_is_overdue();
        if session.join != JoinState::Init || waits_for_poll || session.is_closing {
            return;
        }
        session.has_exceeded_poll = false;
        session.join = JoinState::WaitJoin;
        session.last_join = Some(Instant::now());
        let member = session.member.clone();
        let owned = match session.protocol() {
            GroupProtocol::Eager => BTreeSet::new(),
            GroupProtocol::Cooperative | GroupProtocol::Consumer => {
                session.owned.clone().unwrap_or_default()
            }
        };
        self.send(client, Request::Join { member, owned });
    }

    /// `rd_kafka_cgrp_handle_JoinGroup`. The leader assigns.
    pub(super) fn joined(&mut self, client: ClientId, joined: Result<Joined, RDKafkaErrorCode>) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.join != JoinState::WaitJoin {
            return;
        }
        let joined = match joined {
            Ok(joined) => joined,
            Err(code) => return self.join_failed(client, code),
        };
        session.member = joined.member.clone();
        session.generation = joined.generation;
        session.join = JoinState::WaitSync;
        let protocol = session.protocol();
        let plan = joined
            .members
            .map(|members| self.assign_members(protocol, &members));
        let (member, generation) = (joined.member, joined.generation);
        let request = Request::Sync {
            member,
            generation,
            plan,
        };
        self.send(client, request);
    }

    fn join_failed(&mut self, client: ClientId, code: RDKafkaErrorCode) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        match code {
            RDKafkaErrorCode::UnknownMemberId => session.member.clear(),
            RDKafkaErrorCode::IllegalGeneration => session.generation = -1,
            _ => {}
        }
        let is_lost = session.protocol() == GroupProtocol::Cooperative
            && code == RDKafkaErrorCode::IllegalGeneration;
        match is_lost {
            true => self.revoke_all_and_rejoin(client, true),
            false => self.rejoin(client, false),
        }
    }

    fn assign_members(&self, protocol: GroupProtocol, members: &[Candidate]) -> Plan {
        let topics = members.iter().flat_map(|it| it.topics.clone());
        let topics: BTreeSet<_> = topics.collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let counts: BTreeMap<_, _> = self.counts(&topics);
        match protocol {
            GroupProtocol::Eager => assignor::range(members, &counts),
            GroupProtocol::Cooperative | GroupProtocol::Consumer => {
                assignor::cooperative(members, &counts)
            }
        }
    }

    /// `rd_kafka_cgrp_handle_SyncGroup_memberstate`.
    pub(super) fn synced(
        &mut self,
        client: ClientId,
        synced: Result<BTreeSet<TopicPartition>, RDKafkaErrorCode>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.join != JoinState::WaitSync {
            return;
        }
        match synced {
            Ok(assignment) => {
                let now = Instant::now();
                session.session_until = Some(now + session.settings.session_timeout);
                session.next_heartbeat = Some(now + session.settings.heartbeat_interval);
                session.is_heartbeat_in_transit = false;
                self.take_assignment(client, assignment);
            }
            Err(code) => {
                match code {
                    RDKafkaErrorCode::UnknownMemberId => session.member.clear(),
                    RDKafkaErrorCode::IllegalGeneration => session.generation = -1,
                    _ => {}
                }
                let is_gone = matches!(
                    code,
                    RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::IllegalGeneration
                );
                match session.protocol() == GroupProtocol::Cooperative && is_gone {
                    true => self.revoke_all_and_rejoin(client, true),
                    false => self.rejoin(client, false),
                }
            }
        }
    }

    /// `rd_kafka_cgrp_handle_assignment` and `..._cooperative`.
    pub(super) fn take_assignment(
        &mut self,
        client: ClientId,
        assignment: BTreeSet<TopicPartition>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_eager() {
            return self.announce_assignment(client, assignment, false);
        }
        let owned = session.owned.clone().unwrap_or_default();
        let added: BTreeSet<_> = assignment.difference(&owned).cloned().collect();
        let revoked: BTreeSet<_> = owned.difference(&assignment).cloned().collect();
        if revoked.is_empty() {
            self.announce_assignment(client, added, false);
        } else {
            session.to_assign = Some(added);
            self.announce_revocation(client, revoked, false);
        }
    }

    /// `rd_kafka_rebalance_op` and `rd_kafka_rebalance_op_incr`. Fetching is paused until
    /// the engine answers, which drops what was fetched.
    fn announce_assignment(
        &mut self,
        client: ClientId,
        partitions: BTreeSet<TopicPartition>,
        rejoins: bool,
    ) {
        self.pause_assignment(client);
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.rejoins = rejoins;
        session.join = JoinState::WaitAssignCall;
        session.push(Op::Assign(partitions.iter().cloned().collect()));
        let text = format!("{}: to assign {}", session.name, Names(&partitions));
        match session.is_eager() {
            true => session.owned = Some(partitions),
            false => session.owned.get_or_insert_default().extend(partitions),
        }
        self.note(format_args!("{text}"));
    }

    fn announce_revocation(
        &mut self,
        client: ClientId,
        partitions: BTreeSet<TopicPartition>,
        rejoins: bool,
    ) {
        self.pause_assignment(client);
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.rejoins = rejoins;
        session.join = JoinState::WaitUnassignCall;
        session.push(Op::Revoke(partitions.iter().cloned().collect()));
        let lost = if session.is_lost { " as lost" } else { "" };
        let text = format!("{}: to revoke {}{lost}", session.name, Names(&partitions));
        if session.is_eager() {
            session.owned = None;
        } else if let Some(owned) = &mut session.owned {
            owned.retain(|it| !partitions.contains(it));
        }
        self.note(format_args!("{text}"));
    }

    /// `rd_kafka_cgrp_revoke_all_rejoin_maybe`.
    pub(super) fn revoke_all_and_rejoin_maybe(&mut self, client: ClientId, is_lost: bool) {
        let rebalances = self
            .sessions
            .get(&client)
            .is_none_or(|it| it.is_rebalancing());
        if !rebalances {
            self.revoke_all_and_rejoin(client, is_lost);
        }
    }

    /// `rd_kafka_cgrp_revoke_all_rejoin`.
    pub(super) fn revoke_all_and_rejoin(&mut self, client: ClientId, is_lost: bool) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let owned = session.owned.clone();
        if session.is_eager() {
            session.is_lost |= is_lost && owned.is_some();
            match owned {
                Some(owned) if !session.awaits_answer() => {
                    self.announce_revocation(client, owned, false);
                }
                Some(_) | None => self.rejoin(client, true),
            }
            return;
        }
        match owned {
            Some(owned) if !owned.is_empty() => {
                session.is_lost |= is_lost;
                self.announce_revocation(client, owned, true);
            }
            Some(_) | None => self.rejoin(client, true),
        }
    }

    /// `rd_kafka_cgrp_rejoin`; `at_once` skips the back-off between joins.
    fn rejoin(&mut self, client: ClientId, at_once: bool) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.join = JoinState::Init;
        if session.protocol() == GroupProtocol::Consumer {
            return self.rejoin_consumer(client);
        }
        if at_once {
            self.join_group(client);
        }
    }

    /// `rd_kafka_cgrp_handle_Heartbeat`.
    pub(super) fn heartbeat_answered(
        &mut self,
        client: ClientId,
        result: Result<(), RDKafkaErrorCode>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.is_heartbeat_in_transit = false;
        if matches!(
            session.join,
            JoinState::Init | JoinState::WaitJoin | JoinState::WaitSync
        ) {
            return;
        }
        let extended = Instant::now() + session.settings.session_timeout;
        match result {
            Ok(()) => session.session_until = Some(extended),
            Err(RDKafkaErrorCode::RebalanceInProgress) => {
                session.session_until = Some(extended);
                if session.awaits_answer() || session.is_rebalancing() {
                    return;
                }
                match session.is_eager() {
                    true => self.revoke_all_and_rejoin(client, false),
                    false => self.rejoin(client, true),
                }
            }
            Err(RDKafkaErrorCode::UnknownMemberId) => {
                session.member.clear();
                self.revoke_all_and_rejoin_maybe(client, true);
            }
            Err(RDKafkaErrorCode::IllegalGeneration) => {
                session.generation = -1;
                self.revoke_all_and_rejoin_maybe(client, true);
            }
            // No coordinator: heartbeats go on until the session times out.
            Err(_) => {}
        }
    }

    pub(super) fn leave_classic(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let member = std::mem::take(&mut session.member);
        self.send(client, Request::Leave { member });
    }

    /// `rd_kafka_cgrp_metadata_update_check`: the topics have other partitions than before.
    pub(super) fn topics_changed(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get(&client) else {
            return;
        };
        if session.is_gone() || session.is_closing || session.is_rebalancing() {
            return;
        }
        match session.protocol() {
            GroupProtocol::Eager => self.revoke_all_and_rejoin(client, false),
            GroupProtocol::Cooperative => self.rejoin(client, true),
            // The coordinator notices by itself.
            GroupProtocol::Consumer => {}
        }
    }

    /// `rd_kafka_assignment_serve`: once no commit is open, starts what was assigned and
    /// ends what was revoked.
    pub(super) fn serve_assignment(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.open_commits > 0 {
            return;
        }
        self.start_pending(client);
        self.assignment_done(client);
    }

    /// `rd_kafka_cgrp_assignment_done` and `rd_kafka_cgrp_consumer_assignment_done`.
    fn assignment_done(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_closing {
            return self.finish_close(client);
        }
        match session.join {
            JoinState::WaitUnassignToComplete => self.rejoin(client, true),
            JoinState::WaitIncrementalUnassignToComplete => {
                if let Some(added) = session.to_assign.take() {
                    let rejoins = session.protocol() == GroupProtocol::Cooperative;
                    self.announce_assignment(client, added, rejoins);
                } else if std::mem::take(&mut session.rejoins) {
                    self.rejoin(client, true);
                } else {
                    session.join = JoinState::Steady;
                }
            }
            JoinState::Steady => {
                if std::mem::take(&mut session.rejoins) {
                    self.rejoin(client, true);
                } else if session.protocol() == GroupProtocol::Consumer {
                    self.acknowledge(client);
                }
            }
            JoinState::Init
            | JoinState::WaitJoin
            | JoinState::WaitSync
            | JoinState::WaitAssignCall
            | JoinState::WaitUnassignCall => {}
        }
    }
}
