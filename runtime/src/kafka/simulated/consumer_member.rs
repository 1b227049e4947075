//! KIP-848 at a client, after `rd_kafka_cgrp_consumer_serve` and
//! `rd_kafka_cgrp_handle_ConsumerGroupHeartbeat` of librdkafka 2.12.

use std::collections::BTreeSet;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::broker::{ClientId, Cluster};
use super::consumer_group::LEAVE;
use super::protocol::{BeatAnswer, Request};
use super::session::JoinState;
use crate::kafka::seam::TopicPartition;

/// What a member of KIP-848 knows besides its epoch.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// `rkcg_current_assignment`: what the coordinator knows that it has.
    current: BTreeSet<TopicPartition>,
    /// `rkcg_target_assignment`: what it reconciles with.
    target: Option<BTreeSet<TopicPartition>>,
    /// `rkcg_next_target_assignment`: what it will reconcile with then.
    next: Option<BTreeSet<TopicPartition>>,
    /// `..._F_WAIT_ACK`: the coordinator does not know yet that the target is reached.
    awaits_acknowledgement: bool,
    /// `..._F_SENDING_ACK`.
    is_acknowledging: bool,
    /// `..._F_WAIT_REJOIN`.
    is_to_rejoin: bool,
    /// `..._F_WAIT_REJOIN_TO_COMPLETE`.
    is_rejoining: bool,
}

impl Epochs {
    /// The member was fenced, or left.
    pub(super) fn rejoin(&mut self) {
        self.is_to_rejoin = true;
    }

    /// `rd_kafka_cgrp_consumer_is_new_assignment_different`.
    fn differs(&self, assignment: &BTreeSet<TopicPartition>) -> bool {
        self.target.as_ref().unwrap_or(&self.current) != assignment
    }
}

impl Cluster {
    /// `rd_kafka_cgrp_consumer_serve`.
    pub(super) fn serve_consumer(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.epochs.is_to_rejoin {
            if session.is_rebalancing() {
                return;
            }
            session.epochs.is_to_rejoin = false;
            session.epochs.is_rejoining = true;
            self.revoke_all_and_rejoin(client, true);
        }
        let now = Instant::now();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.join == JoinState::Init {
            session.epochs.is_rejoining = false;
        }
        let waits_for_poll = session.has_exceeded_poll && session.poll_is_overdue();
        let may = !session.is_heartbeat_in_transit
            && !session.epochs.is_rejoining
            && !waits_for_poll
            && !session.is_closing;
        if !may || session.next_heartbeat.is_some_and(|at| at > now) {
            return;
        }
        let interval = self.settings.consumer_heartbeat_interval;
        session.next_heartbeat = Some(now + interval);
        session.has_exceeded_poll = false;
        session.is_heartbeat_in_transit = true;
        let is_full = session.join == JoinState::Init;
        let epochs = &mut session.epochs;
        epochs.is_acknowledging =
            session.join == JoinState::Steady && epochs.awaits_acknowledgement;
        let owned = if epochs.is_acknowledging {
            epochs.target.clone()
        } else {
            is_full.then(|| epochs.current.clone())
        };
        let request = Request::Beat {
            member: session.member.clone(),
            epoch: session.generation.max(0),
            is_full,
            owned,
        };
        self.send(client, request);
    }

    /// `rd_kafka_cgrp_consumer_expedite_next_heartbeat`.
    pub(super) fn expedite_heartbeat(&mut self, client: ClientId) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.next_heartbeat = None;
            let delay = std::time::Duration::ZERO;
            self.client_timer(client, delay, move |cluster| cluster.serve_consumer(client));
        }
    }

    /// An assignment operation is done: the coordinator is to know.
    pub(super) fn acknowledge(&mut self, client: ClientId) {
        let waits = self.sessions.get(&client);
        if waits.is_some_and(|it| it.epochs.awaits_acknowledgement) {
            self.expedite_heartbeat(client);
        }
    }

    /// `rd_kafka_cgrp_handle_ConsumerGroupHeartbeat`.
    pub(super) fn beat_answered(
        &mut self,
        client: ClientId,
        answer: Result<BeatAnswer, RDKafkaErrorCode>,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.is_heartbeat_in_transit = false;
        let answer = match answer {
            Ok(answer) => answer,
            Err(code) => {
                session.epochs.is_acknowledging = false;
                let is_fenced = matches!(
                    code,
                    RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedMemberEpoch
                );
                if is_fenced {
                    session.epochs.rejoin();
                }
                return;
            }
        };
        // It was sent before the member left.
        if session.epochs.is_to_rejoin {
            return;
        }
        session.generation = answer.epoch;
        let epochs = &mut session.epochs;
        if let Some(assignment) = answer.assignment {
            epochs.next = epochs.differs(&assignment).then_some(assignment);
        }
        if session.join == JoinState::Steady && epochs.awaits_acknowledgement {
            if epochs.is_acknowledging {
                epochs.current = epochs.target.take().unwrap_or_default();
                epochs.awaits_acknowledgement = false;
            } else {
                self.expedite_heartbeat(client);
            }
        }
        self.reconcile_next(client);
    }

    /// `rd_kafka_cgrp_consumer_handle_next_assignment`.
    fn reconcile_next(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let epochs = &mut session.epochs;
        epochs.is_acknowledging = false;
        let is_ready = matches!(session.join, JoinState::Init | JoinState::Steady);
        if epochs.awaits_acknowledgement || !is_ready {
            return;
        }
        let Some(next) = epochs.next.take() else {
            return;
        };
        if epochs.differs(&next) {
            epochs.awaits_acknowledgement = true;
            epochs.target = Some(next.clone());
            self.take_assignment(client, next);
        }
    }

    /// `rd_kafka_cgrp_consumer_rejoin`.
    pub(super) fn rejoin_consumer(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.generation = 0;
        session.epochs = Epochs::default();
        self.expedite_heartbeat(client);
    }

    pub(super) fn leave_consumer(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get(&client) else {
            return;
        };
        let request = Request::Beat {
            member: session.member.clone(),
            epoch: LEAVE,
            is_full: false,
            owned: None,
        };
        self.send(client, request);
    }
}
