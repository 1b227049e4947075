//! A client's commits and their outcomes, after `rd_kafka_cgrp_offsets_commit` and
//! `rd_kafka_cgrp_op_handle_OffsetCommit` of librdkafka 2.12.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::group::StoredOffset;
use super::protocol::{CommitBatch, Request};
use super::session::Op;
use super::settings::GroupProtocol;
use crate::kafka::seam::{CommitOutcome, TopicPartition};

/// How often a client asks for a coordinator that it lacks.
const QUERY_INTERVAL: Duration = Duration::from_millis(500);

/// How often a commit is sent again that a coordinator could not serve
/// (`RD_KAFKA_REQUEST_DEFAULT_RETRIES`).
const RETRIES: u32 = 2;

impl Cluster {
    pub(super) fn send_commit(
        &mut self,
        client: ClientId,
        offsets: Vec<(TopicPartition, StoredOffset)>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.open_commits += 1;
        let batch = CommitBatch {
            offsets,
            deferred_until: None,
            retries: 0,
        };
        self.send_batch(client, batch);
    }

    fn send_batch(&mut self, client: ClientId, batch: CommitBatch) {
        if let Some(session) = self.sessions.get(&client) {
            let request = Request::Commit {
                member: session.member.clone(),
                generation: session.generation,
                batch,
            };
            self.send(client, request);
        }
    }

    pub(super) fn commit_answered(
        &mut self,
        client: ClientId,
        batch: CommitBatch,
        result: Result<(), RDKafkaErrorCode>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let is_consumer = session.protocol() == GroupProtocol::Consumer;
        match result {
            Err(RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::StaleMemberEpoch)
                if is_consumer =>
            {
                self.expedite_heartbeat(client);
            }
            Err(RDKafkaErrorCode::UnknownMemberId) => {
                session.member.clear();
                if !session.is_closing {
                    self.revoke_all_and_rejoin_maybe(client, true);
                }
            }
            Err(RDKafkaErrorCode::IllegalGeneration)
                if !session.is_rebalancing() && !session.is_closing =>
            {
                session.generation = -1;
                self.revoke_all_and_rejoin_maybe(client, true);
            }
            Err(
                RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure,
            ) if batch.deferred_until.is_none() => {
                return self.defer_commit(client, batch);
            }
            Err(
                RDKafkaErrorCode::CoordinatorLoadInProgress | RDKafkaErrorCode::RequestTimedOut,
            ) if batch.retries < RETRIES => {
                return self.retry_commit(client, batch);
            }
            Err(_) | Ok(()) => {}
        }
        self.end_commit(client, batch, result);
    }

    fn retry_commit(&mut self, client: ClientId, mut batch: CommitBatch) {
        batch.retries += 1;
        let backoff = self.settings.retry_backoff;
        self.client_timer(client, backoff, move |cluster| {
            cluster.send_batch(client, batch)
        });
    }

    fn end_commit(
        &mut self,
        client: ClientId,
        batch: CommitBatch,
        result: Result<(), RDKafkaErrorCode>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.open_commits = session.open_commits.saturating_sub(1);
        let outcomes = batch
            .offsets
            .into_iter()
            .map(|(partition, stored)| CommitOutcome {
                topic: partition.topic,
                partition: partition.partition,
                offset: Some(stored.offset),
                metadata: stored.metadata,
                result,
            });
        let outcomes = outcomes.collect();
        session.push(Op::Commit(outcomes));
        if session.open_commits == 0 {
            self.serve_assignment(client);
        }
    }

    /// `rd_kafka_cgrp_defer_offset_commit`: it is sent again, once, when there is a
    /// coordinator, and fails after the session's time-out.
    fn defer_commit(&mut self, client: ClientId, mut batch: CommitBatch) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let until = Instant::now() + session.settings.session_timeout;
        batch.deferred_until = Some(until);
        let is_first = session.deferred.is_empty();
        session.deferred.push(batch);
        if is_first {
            self.query_coordinator(client);
        }
    }

    fn query_coordinator(&mut self, client: ClientId) {
        self.client_timer(client, QUERY_INTERVAL, move |cluster| {
            let Some(session) = cluster.sessions.get(&client) else {
                return;
            };
            let is_up = cluster.no_coordinator(&session.group).is_none();
            let Some(session) = cluster.sessions.get_mut(&client) else {
                return;
            };
            let now = Instant::now();
            let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut session.deferred)
                .into_iter()
                .partition(|batch| is_up || batch.deferred_until.is_some_and(|it| it <= now));
            let waits = !waiting.is_empty();
            session.deferred = waiting;
            for batch in ready {
                match is_up {
                    true => cluster.send_batch(client, batch),
                    false => {
                        let result = Err(RDKafkaErrorCode::WaitingForCoordinator);
                        cluster.end_commit(client, batch, result);
                    }
                }
            }
            if waits {
                cluster.query_coordinator(client);
            }
        });
    }

    /// Commits what was handed out, where that is automatic and due.
    pub(super) fn commit_automatically(&mut self, client: ClientId) {
        let now = Instant::now();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let Some(interval) = session.settings.auto_commit else {
            return;
        };
        if session.next_auto_commit.is_some_and(|at| at > now) {
            return;
        }
        session.next_auto_commit = Some(now + interval);
        // Commits of a lost assignment are left out (`RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST`).
        if !session.is_lost {
            self.commit_stored(client, None);
        }
    }

    /// Commits what was handed out of these partitions, or of all, where that is automatic.
    pub(super) fn commit_stored(
        &mut self,
        client: ClientId,
        partitions: Option<&BTreeSet<TopicPartition>>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.settings.auto_commit.is_none() {
            return;
        }
        let mut offsets = Vec::new();
        for (partition, toppar) in &mut session.toppars {
            let is_meant = partitions.is_none_or(|some| some.contains(partition));
            if let (true, Some(offset)) = (is_meant, toppar.stored)
                && toppar.committed < Some(offset)
            {
                toppar.committed = Some(offset);
                let stored = StoredOffset {
                    offset,
                    leader_epoch: None,
                    metadata: String::new(),
                };
                offsets.push((partition.clone(), stored));
            }
        }
        if !offsets.is_empty() {
            self.send_commit(client, offsets);
        }
    }
}
