//! Plays a scenario.

mod events;
mod evidence;
mod members;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::spec::Commit;
use penstock_crds::validate::ValidatedConsumer;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ledger::{Cut, Ledger, Produced};
use super::losses::{self, Loss};
use super::record::{Delivery, Happened, Recorder, Verdict};
use super::scenario::{DEAD_LETTERS, GROUP, MAX_MEMBERS, OUTPUT, Scenario, TOPIC};
use crate::consumer::server::RunError;
use crate::kafka::simulated::{Cleanup, Kafka, KafkaSettings, TopicKind};
use crate::observe::metrics::Metrics;
use members::Member;

/// How often it is looked whether everything has drained.
const LOOK: Duration = Duration::from_millis(100);

/// The longest time without progress once disturbances have ended: the first message that is
/// open stays the same. Far more than any wait in the engine: all back-offs of a message, two
/// minutes for a transaction that covers offsets, and several sessions.
const DRAIN_LIMIT: Duration = Duration::from_secs(900);

/// A commit that the coordinator applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// The partition of [`TOPIC`].
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The id of the topic that it names, if it names one.
    pub topic: Option<u128>,
    /// Up to where it speaks of messages.
    pub horizon: i64,
}

/// The time for which the group's coordinator had a partition assigned to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The number of the process.
    pub process: usize,
    /// The partition of [`TOPIC`].
    pub partition: i32,
    /// When it began, from the beginning of the run.
    pub from: Duration,
    /// When it ended, if it did.
    pub until: Option<Duration>,
    /// The coordinator removed the process, which was silent for too long.
    pub is_evicted: bool,
}

/// A dead letter that a reader of committed records sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The message's number, if it can be decoded.
    pub seq: Option<usize>,
    /// The message's partition.
    pub partition: i32,
    /// The message's offset.
    pub offset: i64,
}

/// The evidence of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Every delivery that a handler began, in the order of their beginnings.
    pub deliveries: Vec<Delivery>,
    /// What happened to processes.
    pub processes: Vec<(Duration, usize, Happened)>,
    /// Which process had which partition, as the group's coordinator saw it.
    pub tenures: Vec<Tenure>,
    /// The messages.
    pub produced: Vec<Produced>,
    /// Offsets of [`TOPIC`] that hold no message for a reader, by partition and log:
    /// control markers, and records of aborted transactions.
    pub holes: BTreeSet<(i32, u32, i64)>,
    /// When offsets came to name other messages.
    pub cuts: Vec<Cut>,
    /// When partitions were added.
    pub added: BTreeMap<i32, Duration>,
    /// The offsets that processes said are lost.
    pub losses: Vec<Loss>,
    /// `penstock_lost_messages_total`, of all processes together.
    pub lost_messages: u64,
    /// Every commit.
    pub commits: Vec<Committed>,
    /// When the coordinator refused a commit, and of which process: it was of an earlier
    /// generation, or came between two.
    pub refused_commits: Vec<(Duration, usize)>,
    /// The records on [`OUTPUT`] that a reader of committed records sees, in order, each
    /// with its key.
    pub outputs: Vec<(Option<String>, String)>,
    /// The dead letters that a reader of committed records sees.
    pub letters: Vec<Letter>,
    /// Why the run did not end by itself, if so.
    pub hung: Option<String>,
    /// How long it took by the simulated clock.
    pub simulated: Duration,
    /// Everything that happened in Kafka, a line each.
    pub log: String,
}

/// Plays a scenario. With `keeps_log` the evidence has what happened in Kafka.
///
/// # Panics
/// If no runtime can be built.
pub fn run(scenario: &Scenario, keeps_log: bool) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async { Driver::new(scenario, keeps_log).play().await })
}

/// Something due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Produce(usize),
    Event(usize),
    Thaw(usize, usize),
    Restart(usize),
}

/// The end of a process: its slot, its number and its result.
type Ended = (usize, usize, Result<(), RunError>);

struct Driver {
    scenario: Arc<Scenario>,
    consumer: ValidatedConsumer,
    kafka: Kafka,
    recorder: Recorder,
    ledger: Ledger,
    /// Of each process.
    metrics: Vec<Metrics>,
    slots: Vec<Option<Member>>,
    /// Slots whose process is started again after a failure.
    wanted: Vec<bool>,
    processes: usize,
    /// The number of each client's process.
    clients: BTreeMap<u64, usize>,
    ends: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
    due: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    planned: u64,
}

impl Driver {
    fn new(scenario: &Scenario, keeps_log: bool) -> Self {
        let settings = KafkaSettings {
            keeps_events: keeps_log,
            metadata_limit: scenario.metadata_limit,
            ..KafkaSettings::default()
        };
        let kafka = Kafka::new(scenario.seed, settings);
        let cleanup = match scenario.is_compacted() {
            true => Cleanup::Compact,
            false => Cleanup::Delete,
        };
        kafka.create_topic(TOPIC, scenario.partitions, TopicKind { cleanup });
        kafka.create_topic(OUTPUT, 1, TopicKind::default());
        kafka.create_topic(DEAD_LETTERS, 1, TopicKind::default());
        let (ends, ended) = mpsc::unbounded_channel();
        let slots = usize::from(MAX_MEMBERS);
        Self {
            consumer: scenario.consumer(),
            scenario: Arc::new(scenario.clone()),
            ledger: Ledger::new(kafka.clone(), scenario),
            kafka,
            recorder: Recorder::new(),
            metrics: Vec::new(),
            slots: (0..slots).map(|_| None).collect(),
            wanted: vec![false; slots],
            processes: 0,
            clients: BTreeMap::new(),
            ends,
            ended,
            due: BinaryHeap::new(),
            planned: 0,
        }
    }

    async fn play(mut self) -> Run {
        let _listening = losses::listen();
        let start = Instant::now();
        let at = |millis: u32| start + Duration::from_millis(millis.into());
        let scenario = Arc::clone(&self.scenario);
        for (index, message) in scenario.messages.iter().enumerate() {
            self.plan(at(message.at), Due::Produce(index));
        }
        for (index, (moment, _)) in scenario.events.iter().enumerate() {
            self.plan(at(*moment), Due::Event(index));
        }
        for slot in 0..usize::from(scenario.members) {
            self.start(slot);
        }
        self.disturb().await;
        let hung = self.settle().await;
        self.finish(hung, start)
    }

    fn plan(&mut self, at: Instant, due: Due) {
        self.planned += 1;
        self.due.push(Reverse((at, self.planned, due)));
    }

    /// Lets everything happen that is due, until nothing is.
    async fn disturb(&mut self) {
        while let Some(Reverse((at, _, due))) = self.due.peek().copied() {
            tokio::select! {
                biased;
                Some(ended) = self.ended.recv() => self.take_end(ended),
                () = tokio::time::sleep_until(at) => {
                    self.due.pop();
                    self.happen(due);
                }
            }
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Produce(index) => {
                let now = self.recorder.now();
                self.ledger.produce(&self.scenario, index, now);
            }
            Due::Event(index) => {
                let (_, event) = self.scenario.events[index];
                self.event(event);
            }
            Due::Thaw(slot, number) => self.thaw(slot, number),
            Due::Restart(slot) => {
                if self.wanted[slot] {
                    self.start(slot);
                }
            }
        }
    }

    /// Waits until every message is settled and everything is committed, then stops the
    /// members. Returns why that did not come about, if so.
    async fn settle(&mut self) -> Option<String> {
        self.kafka.end_faults();
        // As an administrator ends one that hangs.
        self.ledger.end_transaction(false, self.recorder.now());
        if self.wanted.iter().all(|wanted| !wanted) {
            self.start(0);
        }
        let (mut since, mut open) = (Instant::now(), String::new());
        while let Some(still_open) = self.undrained() {
            if still_open != open {
                (since, open) = (Instant::now(), still_open);
            } else if since.elapsed() > DRAIN_LIMIT {
                return Some(format!("no progress for {DRAIN_LIMIT:?}: {open}"));
            }
            self.look().await;
        }
        for slot in 0..self.slots.len() {
            self.stop(slot);
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        while self.slots.iter().any(Option::is_some) {
            if Instant::now() > deadline {
                return Some(format!("a stop did not end within {DRAIN_LIMIT:?}"));
            }
            self.look().await;
        }
        None
    }

    /// Lets a little time pass.
    async fn look(&mut self) {
        let until = Instant::now() + LOOK;
        self.plan(until, Due::Restart(usize::from(MAX_MEMBERS)));
        self.disturb_until(until).await;
    }

    async fn disturb_until(&mut self, until: Instant) {
        while let Some(Reverse((at, _, due))) = self.due.peek().copied() {
            if at > until {
                return;
            }
            tokio::select! {
                biased;
                Some(ended) = self.ended.recv() => self.take_end(ended),
                () = tokio::time::sleep_until(at) => {
                    self.due.pop();
                    if due != Due::Restart(usize::from(MAX_MEMBERS)) {
                        self.happen(due);
                    }
                }
            }
        }
    }

    /// What is still to be settled or committed.
    fn undrained(&mut self) -> Option<String> {
        let deliveries = self.recorder.deliveries();
        // What was read and not handled is lost by a kill, as documented.
        if self.scenario.commit != Commit::Read {
            let settled: BTreeSet<_> = deliveries
                .iter()
                .filter(|delivery| self.scenario.settles(delivery.verdict, delivery.attempt))
                .map(|delivery| delivery.seq)
                .collect();
            let passed = self.passed(&deliveries);
            let open = self.ledger.produced.iter().find(|it| {
                it.valid
                    && it.removed.is_none()
                    && !settled.contains(&it.seq)
                    && !passed.contains(&it.seq)
            });
            if let Some(open) = open {
                return Some(format!("{}/{} is not settled", open.partition, open.offset));
            }
        }
        let going = deliveries.iter().find(|it| it.verdict == Verdict::Open);
        if let Some(going) = going {
            let Delivery {
                partition, offset, ..
            } = going;
            return Some(format!("{partition}/{offset} is with a handler"));
        }
        let committed = self.kafka.committed(GROUP);
        let starts = self.kafka.log_starts(TOPIC).into_iter();
        for (partition, (start, end)) in (0..).zip(starts.zip(self.kafka.ends(TOPIC))) {
            let key = (TOPIC.to_owned(), partition);
            // Of an empty partition nothing is committed.
            let offset = committed.get(&key).map_or(start, |(offset, _)| *offset);
            if offset < end && self.commits_ends() {
                return Some(format!(
                    "partition {partition} is committed up to {offset} of {end}"
                ));
            }
        }
        None
    }

    /// Whether the end of a partition is committed once everything is settled.
    fn commits_ends(&self) -> bool {
        self.scenario.commit != Commit::Read
    }

    /// Messages that the group passes by its manifest.
    fn passed(&self, deliveries: &[Delivery]) -> BTreeSet<usize> {
        let commits = self.commits();
        let losses = losses::heard();
        self.ledger.passed(
            &self.scenario,
            deliveries,
            &commits,
            &losses,
            self.recorder.now(),
        )
    }
}
