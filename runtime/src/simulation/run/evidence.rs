//! What a run left behind.

use std::time::Duration;

use tokio::time::Instant;

use super::{Committed, Driver, Letter, Run, Tenure};
use crate::observe::metrics::Metrics;
use crate::offsets::gaps::Gaps;
use crate::simulation::losses;
use crate::simulation::scenario::{DEAD_LETTERS, GROUP, OUTPUT, TOPIC};

impl Driver {
    pub(super) fn commits(&self) -> Vec<Committed> {
        let commits = self.kafka.commit_log(GROUP).into_iter();
        let commits = commits.filter(|commit| commit.topic == TOPIC);
        commits
            .map(|commit| {
                let gaps = Gaps::decode(commit.metadata.as_bytes(), commit.offset).unwrap_or(None);
                let horizon = gaps.as_ref().map_or(commit.offset, Gaps::horizon);
                Committed {
                    at: commit.at,
                    partition: commit.partition,
                    offset: commit.offset,
                    topic: gaps.and_then(|gaps| gaps.topic_id()),
                    horizon,
                }
            })
            .collect()
    }

    fn tenures(&self) -> Vec<Tenure> {
        let tenures = self.kafka.tenures(GROUP).into_iter();
        let tenures = tenures.filter(|it| it.partition.topic == TOPIC);
        let tenures = tenures.filter_map(|it| {
            Some(Tenure {
                process: self.clients.get(&it.client).copied()?,
                partition: it.partition.partition,
                from: it.from,
                until: it.until,
                is_evicted: it.is_evicted,
            })
        });
        tenures.collect()
    }

    fn refused_commits(&self) -> Vec<(Duration, usize)> {
        let refused = self.kafka.refused_commits(GROUP).into_iter();
        let refused = refused.filter_map(|(at, client)| Some((at, *self.clients.get(&client)?)));
        refused.collect()
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

    pub(super) fn finish(mut self, hung: Option<String>, start: Instant) -> Run {
        let outputs = self.kafka.visible(OUTPUT);
        let deliveries = self.recorder.deliveries();
        let passed = self.passed(&deliveries);
        for message in &mut self.ledger.produced {
            message.is_passed = passed.contains(&message.seq);
        }
        Run {
            commits: self.commits(),
            refused_commits: self.refused_commits(),
            letters: self.letters(),
            deliveries,
            processes: self.recorder.processes(),
            tenures: self.tenures(),
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
