//! The cluster: its state, and the agenda of everything that is still to happen.
//!
//! Requests, answers and timers are entries of one agenda, ordered by time and then by
//! the order in which they were made. A single task runs those that are due. So one seed
//! leads to one run.
//!
//! ```text
//! client ── send ──► agenda ── receive ──► coordinator, log
//!   ▲                                            │
//!   └──── answered ◄── agenda ◄── respond ◄──────┘
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::group::Group;
use super::log::{Log, Topic};
use super::producers::Producer;
use super::protocol::{Request, Response};
use super::session::Session;
use super::settings::{Fault, KafkaSettings};
use crate::kafka::seam::TopicPartition;

/// Names a client. Smaller is older.
pub(super) type ClientId = u64;

/// Something that happens later.
pub(super) type Action = Box<dyn FnOnce(&mut Cluster) + Send>;

/// Everything that is simulated, under one lock.
pub(super) struct Cluster {
    pub(super) settings: KafkaSettings,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) sessions: BTreeMap<ClientId, Session>,
    /// By transactional id.
    pub(super) producers: BTreeMap<String, Producer>,
    /// Faults to come, in their order.
    faults: Vec<Fault>,
    unreachable_until: Option<Instant>,
    rng: StdRng,
    agenda: BTreeMap<(Instant, u64), Action>,
    /// Counts entries of the agenda, and whatever else needs a number of its own.
    last_number: u64,
    began: Instant,
    events: Vec<String>,
    /// Notified when the agenda has an earlier entry.
    changed: Arc<Notify>,
}

impl Cluster {
    /// Creates a cluster and starts the task that runs its agenda.
    pub(super) fn start(seed: u64, settings: KafkaSettings) -> Arc<Mutex<Self>> {
        let changed = Arc::new(Notify::new());
        let cluster = Arc::new(Mutex::new(Self {
            settings,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            sessions: BTreeMap::new(),
            producers: BTreeMap::new(),
            faults: Vec::new(),
            unreachable_until: None,
            rng: StdRng::seed_from_u64(seed),
            agenda: BTreeMap::new(),
            last_number: 0,
            began: Instant::now(),
            events: Vec::new(),
            changed: Arc::clone(&changed),
        }));
        tokio::spawn(run(Arc::downgrade(&cluster), changed));
        cluster
    }

    /// Returns a number that was not returned before.
    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Has an action run after a delay.
    pub(super) fn after(
        &mut self,
        delay: Duration,
        action: impl FnOnce(&mut Self) + Send + 'static,
    ) {
        self.at(Instant::now() + delay, action);
    }

    fn at(&mut self, at: Instant, action: impl FnOnce(&mut Self) + Send + 'static) {
        let is_first = self.agenda.first_key_value().is_none_or(|it| at < it.0.0);
        let number = self.number();
        self.agenda.insert((at, number), Box::new(action));
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Runs whatever is due. Returns when there will be more.
    fn run_due(&mut self) -> Option<Instant> {
        loop {
            let first = self.agenda.first_entry()?;
            let at = first.key().0;
            if at > Instant::now() {
                return Some(at);
            }
            let action = first.remove();
            action(self);
        }
    }

    /// Returns how long a request or an answer is on its way.
    pub(super) fn latency(&mut self) -> Duration {
        let (least, most) = (*self.settings.latency.start(), *self.settings.latency.end());
        self.between(least, most)
    }

    /// Returns a time from a range.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (to_micros(least), to_micros(most));
        Duration::from_micros(self.rng.random_range(least..=most.max(least)))
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, text: fmt::Arguments<'_>) {
        if self.settings.keeps_events {
            let at = self.began.elapsed().as_millis();
            self.events.push(format!("{at:>9} {text}"));
        }
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.events.clone()
    }

    /// Returns the time since the cluster was created.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    // Faults.

    pub(super) fn fail(&mut self, fault: Fault) {
        self.note(format_args!("fault: {fault:?}"));
        match fault {
            Fault::Unreachable(time) => self.unreachable_until = Some(Instant::now() + time),
            fault => self.faults.push(fault),
        }
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Ends all faults that are still to come.
    pub(super) fn forget_faults(&mut self) {
        self.faults.clear();
        self.unreachable_until = None;
    }

    /// Returns the error of the oldest fault that `code` finds one in, which happens once
    /// less from now on.
    pub(super) fn take_fault(
        &mut self,
        code: impl Fn(&mut Fault) -> Option<(RDKafkaErrorCode, &mut u32)>,
    ) -> Option<RDKafkaErrorCode> {
        let mut faults = self.faults.iter_mut().enumerate();
        let (index, code, left) = faults.find_map(|(index, fault)| {
            let (code, times) = code(fault)?;
            *times = times.saturating_sub(1);
            Some((index, code, *times))
        })?;
        if left == 0 {
            self.faults.remove(index);
        }
        Some(code)
    }

    /// Returns what `found` makes of the oldest fault that it accepts, and removes that.
    pub(super) fn take_fault_once<T>(&mut self, found: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let mut faults = self.faults.iter().enumerate();
        let (index, taken) = faults.find_map(|(index, fault)| Some((index, found(fault)?)))?;
        self.faults.remove(index);
        Some(taken)
    }

    // The network between clients and the coordinators of their groups.

    /// Sends a request to the coordinator of the client's group. Requests of one client
    /// arrive in the order in which they were sent.
    pub(super) fn send(&mut self, client: ClientId, request: Request) {
        let latency = self.latency();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_frozen {
            session
                .held
                .push_back(Box::new(move |cluster| cluster.send(client, request)));
        } else if !session.is_dead {
            let soonest = Instant::now() + latency;
            let at = session.up.map_or(soonest, |last| last.max(soonest));
            session.up = Some(at);
            self.at(at, move |cluster| cluster.receive(client, request));
        }
    }

    /// A broker answers the requests of a connection one after the other: one that waits
    /// for a rebalance holds back those behind it (`SocketServer.scala`, which mutes the
    /// channel).
    fn receive(&mut self, client: ClientId, request: Request) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_muted {
            session.pipeline.push_back(request);
            return;
        }
        session.is_muted = true;
        self.serve(client, request);
    }

    /// Answers the request that the client's connection waits for. Answers arrive in the
    /// order of the requests.
    pub(super) fn respond(&mut self, client: ClientId, response: Response) {
        let soonest = Instant::now() + self.latency();
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let at = session.down.map_or(soonest, |last| last.max(soonest));
        session.down = Some(at);
        let answered = move |cluster: &mut Self| cluster.answered(client, response);
        self.at(at, move |cluster| {
            cluster.arrive(client, Box::new(answered))
        });
        self.unmute(client);
    }

    /// Serves the next request of the client's connection.
    pub(super) fn unmute(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.is_muted = false;
        if let Some(request) = session.pipeline.pop_front() {
            self.after(Duration::ZERO, move |cluster| {
                cluster.receive_next(client, request)
            });
        }
    }

    fn receive_next(&mut self, client: ClientId, request: Request) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_muted {
            session.pipeline.push_front(request);
            return;
        }
        session.is_muted = true;
        self.serve(client, request);
    }

    /// Has an action run at a client once an answer has reached it. A client that is
    /// frozen acts when it thaws; a dead one never does.
    pub(super) fn reply_to(
        &mut self,
        client: ClientId,
        action: impl FnOnce(&mut Self) + Send + 'static,
    ) {
        let latency = self.latency();
        self.after(latency, move |cluster| {
            cluster.arrive(client, Box::new(action))
        });
    }

    /// Has an action run at a client after a time.
    pub(super) fn client_timer(
        &mut self,
        client: ClientId,
        delay: Duration,
        action: impl FnOnce(&mut Self) + Send + 'static,
    ) {
        self.after(delay, move |cluster| {
            cluster.arrive(client, Box::new(action))
        });
    }

    fn arrive(&mut self, client: ClientId, action: Action) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        if session.is_frozen {
            session.held.push_back(action);
        } else if !session.is_dead {
            action(self);
        }
    }

    // Partitions.

    pub(super) fn log(&mut self, partition: &TopicPartition) -> Option<&mut Log> {
        self.topics
            .get_mut(&partition.topic)?
            .log(partition.partition)
    }

    /// Returns the number of partitions of each of these topics that exists.
    pub(super) fn counts(&self, topics: &[String]) -> BTreeMap<String, i32> {
        let found = topics.iter().filter_map(|name| {
            let topic = self.topics.get(name)?;
            Some((name.clone(), i32::try_from(topic.partitions.len()).ok()?))
        });
        found.collect()
    }
}

/// Runs the agenda until the cluster is gone.
async fn run(cluster: Weak<Mutex<Cluster>>, changed: Arc<Notify>) {
    loop {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let next = cluster.lock().run_due();
        drop(cluster);
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = sleep => {}
        }
    }
}

fn to_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
