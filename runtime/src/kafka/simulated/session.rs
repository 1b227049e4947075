//! A client: what librdkafka keeps of a consumer (`rd_kafka_t` and `rd_kafka_cgrp_t`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::broker::{Action, ClientId, Cluster};
use super::fetcher::{Item, Toppar};
use super::protocol::{CommitBatch, Request, Response};
use super::settings::{GroupProtocol, MemberSettings};
use crate::kafka::seam::{CommitOutcome, Committed, Event, LookUpError, TopicPartition};

/// How often a client looks at its timers.
const TICK: Duration = Duration::from_millis(500);

/// `rkcg_join_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum JoinState {
    #[default]
    Init,
    WaitJoin,
    WaitSync,
    WaitAssignCall,
    WaitUnassignCall,
    WaitUnassignToComplete,
    WaitIncrementalUnassignToComplete,
    Steady,
}

/// What lies in the queue that [`poll`](super::SimulatedClient) serves.
#[derive(Debug)]
pub(super) enum Op {
    Assign(Vec<TopicPartition>),
    Revoke(Vec<TopicPartition>),
    Commit(Vec<CommitOutcome>),
    Error(RDKafkaErrorCode),
    /// A message of a partition that was not attached to the fetcher.
    Stray(String),
}

/// A question for committed offsets.
pub(super) struct OffsetLookUp {
    pub(super) partitions: Vec<TopicPartition>,
    /// Who asked; absent where the client itself wants to know where to begin.
    pub(super) asker: Option<oneshot::Sender<Result<Vec<Committed>, LookUpError>>>,
}

#[derive(Default)]
pub(super) struct Session {
    pub(super) group: String,
    /// The client's id, by which members' ids begin.
    pub(super) name: String,
    pub(super) settings: MemberSettings,
    pub(super) wake: Arc<Notify>,

    // The process.
    pub(super) is_frozen: bool,
    pub(super) is_dead: bool,
    /// Answers and timers that are due while the process is frozen.
    pub(super) held: VecDeque<Action>,
    /// Notified at a thaw.
    pub(super) thawed: Arc<Notify>,

    // The connection to the coordinator.
    /// When the last request, and the last answer, arrives.
    pub(super) up: Option<Instant>,
    pub(super) down: Option<Instant>,
    /// The broker answers one request, and reads no other.
    pub(super) is_muted: bool,
    pub(super) pipeline: VecDeque<Request>,

    // The queue of events (`rkcg_q`).
    ops: VecDeque<Op>,
    pub(super) is_announced: bool,
    pub(super) events: VecDeque<Event>,
    pub(super) answers_by_itself: bool,
    pub(super) last_poll: Option<Instant>,

    // The group (`rkcg`).
    pub(super) join: JoinState,
    pub(super) member: String,
    /// `rkcg_generation_id`: under KIP-848 the member's epoch.
    pub(super) generation: i32,
    /// `rkcg_group_assignment`: what the group has assigned, as far as it was announced.
    pub(super) owned: Option<BTreeSet<TopicPartition>>,
    /// `rkcg_rebalance_incr_assignment`: to be announced once a revocation is done.
    pub(super) to_assign: Option<BTreeSet<TopicPartition>>,
    /// `rkcg_rebalance_rejoin`.
    pub(super) rejoins: bool,
    /// `rkcg_assignment_lost`.
    pub(super) is_lost: bool,
    pub(super) last_join: Option<Instant>,
    pub(super) next_heartbeat: Option<Instant>,
    pub(super) is_heartbeat_in_transit: bool,
    /// `rkcg_ts_session_timeout`.
    pub(super) session_until: Option<Instant>,
    /// `RD_KAFKA_CGRP_F_MAX_POLL_EXCEEDED`.
    pub(super) has_exceeded_poll: bool,
    pub(super) epochs: super::consumer_member::Epochs,

    // Commits.
    /// `wait_commit_cnt`.
    pub(super) open_commits: usize,
    pub(super) deferred: Vec<CommitBatch>,
    pub(super) next_auto_commit: Option<Instant>,

    // The assignment (`rk_consumer.assignment`) and what was fetched.
    pub(super) toppars: BTreeMap<TopicPartition, Toppar>,
    pub(super) fetched: VecDeque<Item>,
    pub(super) on_nonempty: Option<Box<dyn Fn() + Send + Sync>>,
    pub(super) watermarks: BTreeMap<TopicPartition, i64>,
    /// Partitions whose messages go to the fetcher.
    pub(super) attached: BTreeSet<TopicPartition>,
    /// Handles of topics, by their place.
    pub(super) handles: Vec<String>,

    /// Questions for committed offsets, by their numbers.
    pub(super) look_ups: BTreeMap<u64, OffsetLookUp>,

    // The end.
    pub(super) is_closing: bool,
    pub(super) is_leaving: bool,
    pub(super) is_closed: bool,
    pub(super) closed: Arc<Notify>,
}

impl Session {
    pub(super) fn new(
        group: &str,
        name: String,
        settings: MemberSettings,
        wake: Arc<Notify>,
    ) -> Self {
        let is_consumer = settings.protocol == GroupProtocol::Consumer;
        Self {
            group: group.to_owned(),
            // Under KIP-848 the client names itself.
            member: if is_consumer {
                name.clone()
            } else {
                String::new()
            },
            generation: if is_consumer { 0 } else { -1 },
            name,
            settings,
            wake,
            last_poll: Some(Instant::now()),
            ..Self::default()
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_dead || self.is_closed
    }

    pub(super) fn protocol(&self) -> GroupProtocol {
        self.settings.protocol
    }

    /// `rd_kafka_cgrp_rebalance_protocol`: KIP-848 counts as cooperative.
    pub(super) fn is_eager(&self) -> bool {
        self.settings.protocol == GroupProtocol::Eager
    }

    /// `RD_KAFKA_CGRP_WAIT_ASSIGN_CALL`.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(
            self.join,
            JoinState::WaitAssignCall | JoinState::WaitUnassignCall
        )
    }

    /// `RD_KAFKA_CGRP_REBALANCING`.
    pub(super) fn is_rebalancing(&self) -> bool {
        let is_joining = match self.join {
            JoinState::WaitJoin => !self.member.is_empty(),
            JoinState::Init | JoinState::Steady => false,
            JoinState::WaitSync
            | JoinState::WaitAssignCall
            | JoinState::WaitUnassignCall
            | JoinState::WaitUnassignToComplete
            | JoinState::WaitIncrementalUnassignToComplete => true,
        };
        is_joining || self.to_assign.is_some() || self.rejoins
    }

    pub(super) fn poll_is_overdue(&self) -> bool {
        let last = self.last_poll;
        last.is_some_and(|last| last.elapsed() > self.settings.max_poll_interval)
    }

    /// Puts an event in the queue. Answers to commits have priority there
    /// (`rd_kafka_cgrp_propagate_commit_result`).
    pub(super) fn push(&mut self, op: Op) {
        let was_empty = self.ops.is_empty();
        match op {
            Op::Commit(_) => {
                let is_commit = |op: &Op| matches!(op, Op::Commit(_));
                let place = self.ops.iter().position(|op| !is_commit(op));
                self.ops.insert(place.unwrap_or(self.ops.len()), op);
            }
            op => self.ops.push_back(op),
        }
        // `rd_kafka_q_enq1`: only the first is announced.
        if was_empty {
            self.is_announced = true;
            self.wake.notify_one();
        }
    }

    pub(super) fn pop(&mut self) -> Option<Op> {
        self.ops.pop_front()
    }

    /// Empties the queue of events at the close.
    pub(super) fn clear_ops(&mut self) {
        self.ops.clear();
    }
}

impl Cluster {
    /// Begins a client's life: it joins its group and looks at its timers.
    pub(super) fn begin_session(&mut self, client: ClientId) {
        let delay = self.between(Duration::ZERO, TICK);
        self.client_timer(client, delay, move |cluster| cluster.tick(client));
    }

    /// `rd_kafka_cgrp_serve`: looks at all timers of a client.
    fn tick(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_gone() {
            return;
        }
        if !session.is_closing {
            self.check_poll_interval(client);
            self.serve_join_state(client);
            self.commit_automatically(client);
        }
        self.client_timer(client, TICK, move |cluster| cluster.tick(client));
    }

    fn serve_join_state(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get(&client) else {
            return;
        };
        match session.protocol() {
            GroupProtocol::Consumer => self.serve_consumer(client),
            GroupProtocol::Eager | GroupProtocol::Cooperative => self.serve_classic(client),
        }
    }

    /// `rd_kafka_cgrp_max_poll_interval_check_tmr_cb`: a client that is not polled leaves
    /// its group.
    fn check_poll_interval(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let is_consumer = session.protocol() == GroupProtocol::Consumer;
        let has_joined = match is_consumer {
            true => session.generation > 0,
            false => !session.member.is_empty(),
        };
        if !has_joined || session.has_exceeded_poll || !session.poll_is_overdue() {
            return;
        }
        session.has_exceeded_poll = true;
        session.push(Op::Error(RDKafkaErrorCode::PollExceeded));
        let name = session.name.clone();
        self.note(format_args!("{name} is not polled and leaves"));
        match is_consumer {
            true => {
                self.leave_consumer(client);
                if let Some(session) = self.sessions.get_mut(&client) {
                    session.epochs.rejoin();
                }
            }
            false => {
                self.leave_classic(client);
                self.revoke_all_and_rejoin_maybe(client, true);
            }
        }
    }

    /// Takes an answer of the coordinator.
    pub(super) fn answered(&mut self, client: ClientId, response: Response) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_gone() {
            return;
        }
        match response {
            Response::Commit(batch, result) => self.commit_answered(client, batch, result),
            Response::Left => {
                if session.is_closing {
                    session.is_closed = true;
                    session.closed.notify_waiters();
                }
            }
            Response::FetchOffsets(number, found) => self.offsets_answered(client, number, found),
            _ if session.is_closing => {}
            Response::Join(joined) => self.joined(client, joined),
            Response::Sync(synced) => self.synced(client, synced),
            Response::Heartbeat(result) => self.heartbeat_answered(client, result),
            Response::Beat(answer) => self.beat_answered(client, answer),
        }
    }
}
