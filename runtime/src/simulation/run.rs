//! Plays a scenario.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use penstock_crds::spec::{Commit, OnOffsetLost};
use penstock_crds::validate::ValidatedConsumer;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::freeze::Process;
use super::handler::Scripted;
use super::ledger::{Cut, Ledger, Produced};
use super::losses::{self, Loss};
use super::record::{Delivery, Happened, Recorder, Verdict};
use super::scenario::{
    DEAD_LETTERS, Event, GROUP, MAX_MEMBERS, OUTPUT, OnFailure, Protocol, Refusal, Scenario, Shape,
    TOPIC,
};
use crate::assembly::{Assembly, Tasks as _};
use crate::dead_letter::{DeadLetters, LetterSink};
use crate::decode::Json;
use crate::kafka::Edge;
use crate::kafka::simulated::{
    Cleanup, Fault, GroupProtocol, Kafka, KafkaSettings, MemberSettings, SimulatedClient, TopicKind,
};
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::positions::Policy;
use crate::server::RunError;
use crate::worker::{work, work_in_batches};
use rdkafka::error::RDKafkaErrorCode;

/// The wait before a process that failed is started again.
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether everything has drained.
const LOOK: Duration = Duration::from_millis(100);

/// The longest time for everything to drain once disturbances have ended. Far more than
/// any wait in the engine: two minutes for a transaction that covers offsets, and several
/// sessions.
const DRAIN_LIMIT: Duration = Duration::from_secs(900);

/// How long the coordinator lets a transaction stay open, as the runtime sets it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A commit that the coordinator applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// The partition of [`TOPIC`].
    pub partition: i32,
    /// The offset.
    pub offset: i64,
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

/// A process of a member.
struct Member {
    number: usize,
    process: Process,
    client: Arc<SimulatedClient>,
    stop: CancellationToken,
    frozen: bool,
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

    fn event(&mut self, event: Event) {
        match event {
            Event::Start(slot) => self.start(slot.into()),
            Event::Stop(slot) => self.stop(slot.into()),
            Event::Kill(slot) => self.kill(slot.into()),
            Event::Freeze(slot, millis) => self.freeze(slot.into(), millis),
            Event::MoveCoordinator => self.kafka.move_coordinator(GROUP),
            Event::MoveLeader(partition) => self.kafka.move_leader(TOPIC, partition),
            Event::RefuseCommits(refusal, times) => {
                let code = refusal_code(refusal);
                let times = times.into();
                self.kafka.fail(Fault::CommitRefused(code, times));
            }
            Event::LoseCommit { applied } => self.kafka.fail(Fault::CommitTimesOut { applied }),
            Event::FailLookUps(times) => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::LookUpFails(code, times.into()));
            }
            Event::FailFetches { times, reported } => {
                let code = match reported {
                    true => RDKafkaErrorCode::Unknown,
                    false => RDKafkaErrorCode::NotLeaderForPartition,
                };
                self.kafka.fail(Fault::FetchError(code, times.into()));
            }
            Event::Unreachable(millis) => {
                let time = Duration::from_millis(millis.into());
                self.kafka.fail(Fault::Unreachable(time));
            }
            Event::Marker(_)
            | Event::Aborted(..)
            | Event::OpenTransaction(..)
            | Event::EndTransaction { .. }
            | Event::DeleteRecords(..)
            | Event::Truncate(..)
            | Event::Recreate
            | Event::AddPartition
            | Event::Compact(..) => self.log_event(event),
            Event::AbortTransaction => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::TransactionAborted(code));
            }
            Event::RefuseLetters(times) => {
                let code = RDKafkaErrorCode::RequestTimedOut;
                self.kafka.fail(Fault::ProduceFails(code, times.into()));
            }
        }
    }

    /// Something happens to the topic.
    fn log_event(&mut self, event: Event) {
        let (ledger, now) = (&mut self.ledger, self.recorder.now());
        match event {
            Event::Marker(partition) => ledger.put_marker(partition),
            Event::Aborted(partition, count) => ledger.abort(partition, count),
            Event::OpenTransaction(partition, count) => {
                ledger.open_transaction(partition, count, now);
            }
            Event::EndTransaction { commits } => ledger.end_transaction(commits, now),
            Event::DeleteRecords(partition, percent) => ledger.delete(partition, percent, now),
            Event::Truncate(partition, count) => ledger.truncate(partition, count, now),
            Event::Recreate => ledger.recreate(now),
            Event::AddPartition => ledger.add_partition(now),
            Event::Compact(partition, kept) => ledger.compact(partition, kept, now),
            _ => {}
        }
    }

    fn start(&mut self, slot: usize) {
        self.wanted[slot] = true;
        if self.slots[slot].is_some() {
            return;
        }
        let number = self.processes;
        self.processes += 1;
        self.recorder.note(number, Happened::Started);
        let wake = Arc::new(Notify::new());
        let process = Process::new(number);
        let client = self.client(&wake);
        let stop = CancellationToken::new();
        self.slots[slot] = Some(Member {
            number,
            process: process.clone(),
            client: Arc::clone(&client),
            stop: stop.clone(),
            frozen: false,
        });
        let metrics = Metrics::new("", "orders").expect("the series are well-formed");
        self.metrics.push(metrics.clone());
        let transactional = self.scenario.commit == Commit::Transactional;
        let transactions = transactional.then(|| {
            let id = format!("{GROUP}.{slot}");
            let wake = Arc::clone(&wake);
            self.kafka
                .transactional(&id, &client, TRANSACTION_TIMEOUT, wake)
        });
        let assembly = Assembly {
            consumer: &self.consumer,
            client,
            wake,
            transactions,
            dead_letters: self.dead_letters(transactional),
            metrics,
            budget: Budget::of_container(),
            commit_interval: Duration::from_millis(self.scenario.commit_interval.into()),
            policy: Policy {
                reset: Some(match self.scenario.begins_at_end {
                    true => Edge::End,
                    false => Edge::Start,
                }),
                lost: match self.scenario.skips_lost {
                    true => OnOffsetLost::Latest,
                    false => OnOffsetLost::Earliest,
                },
            },
            stores: self.scenario.commit == Commit::Read,
            commit_retry_limit: Duration::from_secs(30),
        };
        let handler = Scripted {
            recorder: self.recorder.clone(),
            process: number,
            scenario: Arc::clone(&self.scenario),
        };
        let most = self.scenario.batch_size as usize;
        let (running, _progress) = match self.scenario.shape {
            Shape::Single => assembly.start(Json::default(), handler, work, &process),
            Shape::Batch | Shape::Stream => {
                let work = move |shared, seat| work_in_batches(shared, seat, most);
                assembly.start(Json::default(), handler, work, &process)
            }
        };
        let ends = self.ends.clone();
        tokio::spawn(process.task(async move {
            let result = running.until(stop).await;
            // Fails only at the end of the run.
            let _ = ends.send((slot, number, result));
        }));
    }

    fn client(&self, wake: &Arc<Notify>) -> Arc<SimulatedClient> {
        let settings = MemberSettings {
            protocol: match self.scenario.protocol {
                Protocol::Eager => GroupProtocol::Eager,
                Protocol::Cooperative => GroupProtocol::Cooperative,
                Protocol::Consumer => GroupProtocol::Consumer,
            },
            topics: vec![TOPIC.to_owned()],
            // As the client that the runtime makes of the manifest would have it.
            auto_commit: (self.scenario.commit == Commit::Read)
                .then(|| Duration::from_millis(self.scenario.commit_interval.into())),
            auto_store: false,
            reports_ends: self.scenario.commit != Commit::Read,
            ..MemberSettings::default()
        };
        self.kafka.member(GROUP, settings, Arc::clone(wake))
    }

    fn dead_letters(&self, transactional: bool) -> Option<DeadLetters> {
        if self.scenario.on_failure != OnFailure::DeadLetter {
            return None;
        }
        let topic = super::scenario::dead_letter_topic();
        let sink = (!transactional).then(|| Box::new(self.kafka.letters()) as Box<dyn LetterSink>);
        Some(DeadLetters::new(sink, topic, GROUP.to_owned()))
    }

    fn stop(&mut self, slot: usize) {
        self.wanted[slot] = false;
        if let Some(member) = &self.slots[slot] {
            self.recorder.note(member.number, Happened::Stopping);
            member.stop.cancel();
        }
    }

    fn kill(&mut self, slot: usize) {
        if let Some(member) = self.slots[slot].take() {
            self.recorder.cut_short(member.number);
            self.recorder.note(member.number, Happened::Killed);
            member.client.kill();
            member.process.kill();
            self.plan(Instant::now() + RESTART_WAIT, Due::Restart(slot));
        }
    }

    fn freeze(&mut self, slot: usize, millis: u32) {
        let Some(member) = &mut self.slots[slot] else {
            return;
        };
        if std::mem::replace(&mut member.frozen, true) {
            return;
        }
        let number = member.number;
        self.recorder.note(number, Happened::Frozen);
        member.client.freeze();
        member.process.freeze();
        let thaw = Instant::now() + Duration::from_millis(millis.into());
        self.plan(thaw, Due::Thaw(slot, number));
    }

    fn thaw(&mut self, slot: usize, number: usize) {
        let member = self.slots[slot].as_mut();
        if let Some(member) = member.filter(|member| member.number == number) {
            member.frozen = false;
            self.recorder.note(number, Happened::Thawed);
            member.client.thaw();
            member.process.thaw();
        }
    }

    fn take_end(&mut self, (slot, number, result): Ended) {
        let member = &self.slots[slot];
        if member.as_ref().is_none_or(|member| member.number != number) {
            return;
        }
        self.slots[slot] = None;
        let error = result.err().map(|error| error.to_string());
        self.recorder.note(number, Happened::Ended(error));
        if self.wanted[slot] {
            self.plan(Instant::now() + RESTART_WAIT, Due::Restart(slot));
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
        let deadline = Instant::now() + DRAIN_LIMIT;
        while let Some(open) = self.undrained() {
            if Instant::now() > deadline {
                return Some(format!("not drained after {DRAIN_LIMIT:?}: {open}"));
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

    fn commits(&self) -> Vec<Committed> {
        let commits = self.kafka.commit_log(GROUP).into_iter();
        let commits = commits.filter(|commit| commit.topic == TOPIC);
        commits
            .map(|commit| Committed {
                at: commit.at,
                partition: commit.partition,
                offset: commit.offset,
            })
            .collect()
    }

    fn letters(&self) -> Vec<Letter> {
        let letters = self.kafka.visible(DEAD_LETTERS);
        let letters = letters.iter().filter_map(|letter| {
            let fact = |name: &str| {
                let found = letter.headers.iter().find(|(header, _)| header == name)?;
                text(&found.1)
            };
            let value: Option<serde_json::Value> = letter
                .value
                .as_deref()
                .and_then(|value| serde_json::from_slice(value).ok());
            Some(Letter {
                seq: value
                    .and_then(|value| value["seq"].as_u64())
                    .and_then(|seq| usize::try_from(seq).ok()),
                partition: fact("penstock.failure.partition")?.parse().ok()?,
                offset: fact("penstock.failure.offset")?.parse().ok()?,
            })
        });
        letters.collect()
    }

    fn finish(mut self, hung: Option<String>, start: Instant) -> Run {
        let outputs = self.kafka.visible(OUTPUT);
        let deliveries = self.recorder.deliveries();
        let passed = self.passed(&deliveries);
        for message in &mut self.ledger.produced {
            message.is_passed = passed.contains(&message.seq);
        }
        Run {
            commits: self.commits(),
            letters: self.letters(),
            deliveries,
            processes: self.recorder.processes(),
            outputs: outputs
                .iter()
                .map(|record| (text(&record.key), text(&record.value).unwrap_or_default()))
                .collect(),
            holes: self.ledger.holes,
            cuts: self.ledger.cuts,
            added: self.ledger.added,
            produced: self.ledger.produced,
            losses: losses::heard(),
            lost_messages: self.metrics.iter().map(lost_messages).sum(),
            hung,
            simulated: start.elapsed(),
            log: self.kafka.events().join("\n"),
        }
    }
}

fn text(bytes: &Option<Vec<u8>>) -> Option<String> {
    let text = String::from_utf8_lossy(bytes.as_deref()?);
    Some(text.into_owned())
}

/// Returns the sum of `penstock_lost_messages_total` of a process.
fn lost_messages(metrics: &Metrics) -> u64 {
    let families = metrics.registry().gather();
    let ours = families
        .iter()
        .filter(|family| family.name() == "penstock_lost_messages_total");
    let counts = ours.flat_map(|family| family.get_metric());
    counts
        .map(|count| count.get_counter().get_value() as u64)
        .sum()
}

fn refusal_code(refusal: Refusal) -> RDKafkaErrorCode {
    match refusal {
        Refusal::RebalanceInProgress => RDKafkaErrorCode::RebalanceInProgress,
        Refusal::NotCoordinator => RDKafkaErrorCode::NotCoordinator,
        Refusal::RequestTimedOut => RDKafkaErrorCode::RequestTimedOut,
        Refusal::MetadataTooLarge => RDKafkaErrorCode::OffsetMetadataTooLarge,
    }
}
