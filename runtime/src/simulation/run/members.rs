//! The processes of a run: started, stopped, killed and frozen.

use std::sync::Arc;
use std::time::Duration;

use penstock_crds::spec::{Commit, OnOffsetLost};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Driver, Due, Ended};
use crate::consumer::assembly::{Assembly, Tasks as _};
use crate::consumer::memory::Budget;
use crate::group::positions::Policy;
use crate::handler::decode::Json;
use crate::kafka::Edge;
use crate::kafka::simulated::{GroupProtocol, MemberSettings, SimulatedClient};
use crate::observe::metrics::Metrics;
use crate::process::dead_letter::{DeadLetters, LetterSink};
use crate::process::worker::{work, work_in_batches};
use crate::simulation::freeze::Process;
use crate::simulation::handler::Scripted;
use crate::simulation::record::Happened;
use crate::simulation::scenario::{GROUP, OnFailure, Protocol, Shape, TOPIC, dead_letter_topic};

/// The wait before a process that failed is started again.
const RESTART_WAIT: Duration = Duration::from_secs(1);

/// How long the coordinator lets a transaction stay open, as the runtime sets it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A process of a member.
pub(super) struct Member {
    pub(super) number: usize,
    pub(super) process: Process,
    pub(super) client: Arc<SimulatedClient>,
    pub(super) stop: CancellationToken,
    pub(super) frozen: bool,
}

impl Driver {
    pub(super) fn start(&mut self, slot: usize) {
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
        self.clients.insert(client.id(), number);
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
        let topic = dead_letter_topic();
        let sink = (!transactional).then(|| Box::new(self.kafka.letters()) as Box<dyn LetterSink>);
        Some(DeadLetters::new(sink, topic, GROUP.to_owned()))
    }

    pub(super) fn stop(&mut self, slot: usize) {
        self.wanted[slot] = false;
        if let Some(member) = &self.slots[slot] {
            self.recorder.note(member.number, Happened::Stopping);
            member.stop.cancel();
        }
    }

    pub(super) fn kill(&mut self, slot: usize) {
        if let Some(member) = self.slots[slot].take() {
            self.recorder.cut_short(member.number);
            self.recorder.note(member.number, Happened::Killed);
            member.client.kill();
            member.process.kill();
            self.plan(Instant::now() + RESTART_WAIT, Due::Restart(slot));
        }
    }

    pub(super) fn freeze(&mut self, slot: usize, millis: u32) {
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

    pub(super) fn thaw(&mut self, slot: usize, number: usize) {
        let member = self.slots[slot].as_mut();
        if let Some(member) = member.filter(|member| member.number == number) {
            member.frozen = false;
            self.recorder.note(number, Happened::Thawed);
            member.client.thaw();
            member.process.thaw();
        }
    }

    pub(super) fn take_end(&mut self, (slot, number, result): Ended) {
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
}
