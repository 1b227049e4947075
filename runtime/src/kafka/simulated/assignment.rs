//! The assigned partitions of a client: starting, stopping and pausing them. After
//! `rdkafka_assignment.c` and `rdkafka_partition.c` of librdkafka 2.12.

use std::collections::BTreeSet;

use rdkafka::error::RDKafkaErrorCode;

use super::broker::{ClientId, Cluster};
use super::fetcher::{FetchState, Toppar};
use super::log::Position;
use super::protocol::Request;
use super::session::{JoinState, OffsetLookUp, Op};
use super::settings::Isolation;
use crate::kafka::seam::{Committed, LookUpError, OutOfRange, StartOffset, TopicPartition};

impl Cluster {
    /// `rd_kafka_cgrp_assign` and `rd_kafka_cgrp_incremental_assign`.
    pub(super) fn assign(
        &mut self,
        client: ClientId,
        starts: &[StartOffset],
    ) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&client) else {
            return Err("no such client".into());
        };
        if session.is_closing {
            return Ok(());
        }
        if session.is_eager() {
            self.remove_toppars(client, None);
        } else if let Some(known) = starts
            .iter()
            .find(|it| session.toppars.contains_key(&it.partition))
        {
            return Err(format!("{} is already assigned", known.partition));
        }
        for start in starts {
            let version = self.number();
            let position = start.offset.map(|offset| Position {
                offset,
                epoch: start.leader_epoch,
            });
            if let Some(session) = self.sessions.get_mut(&client) {
                let toppar = Toppar::new(version, position);
                session.toppars.insert(start.partition.clone(), toppar);
            }
        }
        self.set_lost(client, false);
        let Some(session) = self.sessions.get_mut(&client) else {
            return Ok(());
        };
        if session.join == JoinState::WaitAssignCall {
            session.join = JoinState::Steady;
            self.resume_assignment(client);
        }
        self.serve_assignment(client);
        Ok(())
    }

    /// `rd_kafka_cgrp_unassign` and `rd_kafka_cgrp_incremental_unassign`.
    pub(super) fn unassign(
        &mut self,
        client: ClientId,
        partitions: &[TopicPartition],
    ) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&client) else {
            return Err("no such client".into());
        };
        if session.is_eager() {
            self.remove_toppars(client, None);
        } else {
            let unknown = partitions
                .iter()
                .find(|it| !session.toppars.contains_key(it));
            if let Some(unknown) = unknown {
                return Err(format!("{unknown} can't be unassigned: it is not assigned"));
            }
            let removed = partitions.iter().cloned().collect();
            self.remove_toppars(client, Some(&removed));
        }
        let Some(session) = self.sessions.get_mut(&client) else {
            return Ok(());
        };
        if session.join == JoinState::WaitUnassignCall {
            session.join = match session.is_eager() {
                true => JoinState::WaitUnassignToComplete,
                false => JoinState::WaitIncrementalUnassignToComplete,
            };
            self.resume_assignment(client);
        }
        self.set_lost(client, false);
        self.serve_assignment(client);
        Ok(())
    }

    fn set_lost(&mut self, client: ClientId, is_lost: bool) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.is_lost = is_lost;
        }
    }

    /// Stops partitions, all without a list. What was stored of them is committed, where
    /// commits are automatic.
    pub(super) fn remove_toppars(
        &mut self,
        client: ClientId,
        partitions: Option<&BTreeSet<TopicPartition>>,
    ) {
        self.commit_stored(client, partitions);
        if let Some(session) = self.sessions.get_mut(&client) {
            // What is attached for the next assignment stays.
            let attached = &mut session.attached;
            session.toppars.retain(|partition, _| {
                let stops = partitions.is_none_or(|some| some.contains(partition));
                if stops {
                    attached.remove(partition);
                }
                !stops
            });
        }
    }

    /// `rd_kafka_assignment_serve_pending`: begins to fetch; looks up where to begin
    /// where the engine did not say.
    pub(super) fn start_pending(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let pending = session
            .toppars
            .iter()
            .filter_map(|(partition, toppar)| match toppar.state {
                FetchState::Pending(start) => Some((partition.clone(), start)),
                _ => None,
            });
        let pending: Vec<_> = pending.collect();
        let mut unknown = Vec::new();
        for (partition, start) in pending {
            match start {
                Some(position) => self.start_fetching(client, &partition, position),
                None => unknown.push(partition),
            }
        }
        if unknown.is_empty() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&client) {
            for partition in &unknown {
                if let Some(toppar) = session.toppars.get_mut(partition) {
                    toppar.state = FetchState::Looking;
                }
            }
        }
        self.look_up_offsets(client, unknown, None);
    }

    fn start_fetching(&mut self, client: ClientId, partition: &TopicPartition, at: Position) {
        let topic = self
            .topics
            .get(&partition.topic)
            .map_or(0, |topic| topic.id);
        let leader_epoch = self.log(partition).map_or(0, |log| log.epoch);
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if let Some(toppar) = session.toppars.get_mut(partition) {
            toppar.topic = topic;
            toppar.leader_epoch = leader_epoch;
            toppar.state = FetchState::Active;
            toppar.position = at;
            toppar.restart = at;
        }
        // A position by an earlier leader is checked first.
        match at.epoch {
            Some(_) => self.validate_position(client, partition),
            None => self.fetch(client, partition),
        }
    }

    /// Asks for committed offsets.
    pub(super) fn look_up_offsets(
        &mut self,
        client: ClientId,
        partitions: Vec<TopicPartition>,
        asker: Option<tokio::sync::oneshot::Sender<Result<Vec<Committed>, LookUpError>>>,
    ) {
        let number = self.number();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let is_stable = session.settings.isolation == Isolation::ReadCommitted;
        let look_up = OffsetLookUp {
            partitions: partitions.clone(),
            asker,
        };
        session.look_ups.insert(number, look_up);
        let request = Request::FetchOffsets {
            number,
            partitions,
            is_stable,
        };
        self.send(client, request);
    }

    /// `rd_kafka_handle_OffsetFetch`: asks again while a transaction covers the offsets,
    /// or there is no coordinator.
    pub(super) fn offsets_answered(
        &mut self,
        client: ClientId,
        number: u64,
        found: Result<Vec<Committed>, RDKafkaErrorCode>,
    ) {
        let backoff = self.settings.retry_backoff;
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let Some(look_up) = session.look_ups.remove(&number) else {
            return;
        };
        let OffsetLookUp { partitions, asker } = look_up;
        if asker.as_ref().is_some_and(|asker| asker.is_closed()) {
            return;
        }
        match (found, asker) {
            (Ok(found), Some(asker)) => {
                // Fails only when nobody waits any more.
                let _ = asker.send(Ok(found));
            }
            (Ok(found), None) => self.begin_at_committed(client, found),
            (Err(code), asker) if is_asked_again(code) => {
                self.client_timer(client, backoff, move |cluster| {
                    cluster.look_up_offsets(client, partitions, asker);
                });
            }
            (Err(code), Some(asker)) => {
                let text = code.to_string();
                // Fails only when nobody waits any more.
                let _ = asker.send(Err(LookUpError { code, text }));
            }
            (Err(code), None) => session.push(Op::Error(code)),
        }
    }

    fn begin_at_committed(&mut self, client: ClientId, found: Vec<Committed>) {
        for committed in found {
            let partition = committed.partition;
            let Some(session) = self.sessions.get(&client) else {
                return;
            };
            let toppar = session.toppars.get(&partition);
            if toppar.is_none_or(|it| it.state != FetchState::Looking) {
                continue;
            }
            match committed.offset {
                Some(offset) => {
                    let epoch = committed.leader_epoch;
                    self.start_fetching(client, &partition, Position { offset, epoch });
                }
                None => {
                    let unknown = OutOfRange {
                        position: None,
                        departs_at: None,
                    };
                    self.reset_position(client, &partition, unknown);
                }
            }
        }
    }

    /// `rd_kafka_assignment_pause`, while a rebalance awaits its answer.
    pub(super) fn pause_assignment(&mut self, client: ClientId) {
        for partition in self.assigned(client) {
            self.set_paused(client, &partition, |toppar| toppar.is_held = true);
        }
    }

    /// `rd_kafka_assignment_resume`.
    pub(super) fn resume_assignment(&mut self, client: ClientId) {
        for partition in self.assigned(client) {
            self.unset_paused(client, &partition, |toppar| {
                std::mem::take(&mut toppar.is_held)
            });
        }
    }

    fn assigned(&self, client: ClientId) -> Vec<TopicPartition> {
        let session = self.sessions.get(&client);
        session
            .map(|it| it.toppars.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// `rd_kafka_toppar_pause_resume`: what was fetched is dropped, and fetching begins
    /// again behind the last message that was handed out.
    pub(super) fn set_paused(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        pause: impl FnOnce(&mut Toppar),
    ) -> Option<()> {
        let version = self.number();
        let session = self.sessions.get_mut(&client)?;
        let toppar = session.toppars.get_mut(partition)?;
        pause(toppar);
        toppar.version = version;
        toppar.queued = 0;
        toppar.is_in_flight = false;
        if let Some(handed_out) = toppar.handed_out {
            toppar.restart = handed_out;
        }
        session
            .fetched
            .retain(|it| it.partition != *partition || it.version == 0);
        Some(())
    }

    pub(super) fn unset_paused(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        resume: impl FnOnce(&mut Toppar) -> bool,
    ) -> Option<()> {
        let version = self.number();
        let session = self.sessions.get_mut(&client)?;
        let toppar = session.toppars.get_mut(partition)?;
        if resume(toppar) {
            toppar.begin_again(version);
            self.fetch(client, partition);
        }
        Some(())
    }

    /// `rd_kafka_toppar_seek`.
    pub(super) fn seek(
        &mut self,
        client: ClientId,
        partition: &TopicPartition,
        to: Position,
    ) -> Result<(), String> {
        let version = self.number();
        let Some(session) = self.sessions.get_mut(&client) else {
            return Err("no such client".into());
        };
        let Some(toppar) = session.toppars.get_mut(partition) else {
            return Err(RDKafkaErrorCode::State.to_string());
        };
        if toppar.state == FetchState::Stopped {
            return Err(RDKafkaErrorCode::State.to_string());
        }
        toppar.handed_out = None;
        toppar.restart = to;
        toppar.state = FetchState::Active;
        toppar.begin_again(version);
        match to.epoch {
            Some(_) => self.validate_position(client, partition),
            None => self.fetch(client, partition),
        }
        Ok(())
    }
}

/// Errors after which librdkafka asks for committed offsets again by itself.
fn is_asked_again(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnstableOffsetCommit
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::StaleMemberEpoch
    )
}
