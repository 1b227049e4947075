//! Restarts partitions whose position the brokers refuse.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use super::Pump;
use crate::kafka::{Client, Fetcher as _, StartOffset};
use crate::partition::{Keeper, Partition, StartCommit};
use crate::positions::{Incarnation, Lost, Resumption};
use crate::rebalance::warn_on_error;
use crate::recovery::Found;

impl<C: Client> Pump<C> {
    /// Continues partitions whose position the brokers refuse, where that is decided.
    pub(super) fn advance_recovery(&mut self) {
        for partition in self.recovery.unattached(&self.assignment) {
            self.messages.attach(partition);
        }
        // A restart would be taken for the answer to a rebalance.
        if self.joining.is_some() || self.revocation.is_some() || self.stopped.is_some() {
            return;
        }
        let found = self.recovery.advance(&self.parts.client, &self.assignment);
        let mut starts = Vec::new();
        for (partition, found) in found {
            match found {
                // It was not lost after all, and was read on meanwhile.
                Found::Resumed(resumption, _)
                    if resumption.lost.is_none()
                        && partition.read_position() != Some(resumption.offset) => {}
                Found::Resumed(resumption, incarnation) => {
                    starts.push(self.resume(&partition, &resumption, incarnation));
                }
                Found::Begun(beginning) => {
                    if let Some(text) = beginning.refused {
                        self.fail(RDKafkaErrorCode::AutoOffsetReset, text);
                        continue;
                    }
                    for start in &beginning.starts {
                        self.begin(&partition, start, beginning.commit_of(&start.partition));
                    }
                    starts.extend(beginning.starts);
                }
                Found::Refused(lost) => {
                    self.fail(RDKafkaErrorCode::AutoOffsetReset, ends(&partition, &lost));
                }
            }
        }
        if !starts.is_empty() {
            self.restart(&starts);
        }
    }

    /// Notes where a partition begins, and has it committed where that is due.
    pub(super) fn begin(
        &mut self,
        partition: &Arc<Partition>,
        start: &StartOffset,
        commit: StartCommit,
    ) {
        if let Some(offset) = start.offset {
            partition.begin_at(offset, start.leader_epoch, commit);
            if commit == StartCommit::Due {
                self.pins.pin(&mut self.parts.commits, partition);
            }
        }
    }

    fn resume(
        &mut self,
        partition: &Arc<Partition>,
        resumption: &Resumption,
        incarnation: Incarnation,
    ) -> StartOffset {
        let offset = resumption.offset;
        if let Some(lost) = &resumption.lost {
            self.report(partition, lost, offset);
            let current = if lost.is_other_log() {
                self.begin_again(partition, offset)
            } else {
                partition.reach(offset);
                Arc::clone(partition)
            };
            self.pins.pin(&mut self.parts.commits, &current);
        }
        // Other partitions of the topic were created again too.
        if incarnation == Incarnation::Other {
            self.recovery.compare_soon();
        }
        StartOffset {
            partition: partition.name(),
            offset: Some(offset),
            leader_epoch: None,
        }
    }

    /// Gives a partition a new assignment: messages of the earlier log that are in flight
    /// must not settle those of this log that have the same offsets.
    fn begin_again(&mut self, partition: &Arc<Partition>, offset: i64) -> Arc<Partition> {
        partition.revoke();
        let client: Keeper = Arc::clone(&self.parts.client) as Keeper;
        let current = self.assignment.replace(partition, &client);
        self.drop_queued(|record| record.assignment().is_revoked());
        self.parts.commits.drop_revoked();
        current.begin_at(offset, None, StartCommit::Due);
        self.messages.attach(&current);
        current
    }

    fn report(&self, partition: &Partition, lost: &Lost, offset: i64) {
        let skipped = u64::try_from(lost.skipped.end - lost.skipped.start).unwrap_or(0);
        let unsettled = match lost.is_other_log() {
            true => partition.in_flight() as u64,
            false => 0,
        };
        let reason = lost.reason.label();
        let metrics = &self.parts.metrics;
        metrics.count_lost(&partition.topic, reason, skipped + unsettled);
        tracing::warn!(
            topic = partition.topic,
            partition = partition.number,
            reason,
            position = partition.read_position(),
            skipped_from = lost.skipped.start,
            skipped_to = lost.skipped.end,
            unsettled,
            offset,
            "the brokers no longer have the position: {skipped} offsets are skipped, and reading continues at {offset}"
        );
    }

    fn restart(&mut self, starts: &[StartOffset]) {
        let restarts = |partition: &Partition| {
            let mut starts = starts.iter();
            starts.any(|it| {
                it.partition.partition == partition.number && it.partition.topic == partition.topic
            })
        };
        let others = self.assignment.iter().filter(|it| !restarts(it));
        let others: Vec<_> = others
            .map(|partition| StartOffset {
                partition: partition.name(),
                offset: partition.read_position(),
                leader_epoch: None,
            })
            .collect();
        let client = &self.parts.client;
        let restarted = client.restart(starts, &others);
        if restarted.is_err() {
            let stopped = self.assignment.iter().filter(|it| restarts(it));
            self.recovery.retry(stopped.cloned());
        }
        warn_on_error("restarting partitions", restarted);
        self.recovery.note_restart(self.assignment.iter());
        self.parts.wake.notify_one();
        for start in starts {
            // The earlier assignment may have paused it.
            warn_on_error("resuming a partition", client.resume(&start.partition));
        }
    }
}

/// Explains why a consumer ends with `onOffsetLost: Fail`.
fn ends(partition: &Partition, lost: &Lost) -> String {
    let skipped = match lost.skipped.is_empty() {
        true => String::new(),
        false => format!(
            "offsets {} to {} can't be read, and ",
            lost.skipped.start,
            lost.skipped.end - 1
        ),
    };
    format!(
        "the brokers no longer have the offset {} of {} ({}): {skipped}onOffsetLost is Fail. Set the group's offsets, or choose Earliest or Latest",
        partition.read_position().unwrap_or_default(),
        partition.name(),
        lost.reason.label(),
    )
}
