//! Restarts partitions whose position the brokers refuse.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use super::Pump;
use crate::group::partition::{Keeper, Partition, StartCommit};
use crate::group::positions::{Incarnation, Lost, Reason, Resumption};
use crate::group::rebalance::warn_on_error;
use crate::group::recovery::Found;
use crate::kafka::{Client, Fetcher as _, StartOffset};
use crate::observe::metrics::Metrics;
use crate::offsets::Departure;
use crate::offsets::gaps::Gaps;
use crate::program::end_code::EndCode;

impl<C: Client> Pump<C> {
    /// Continues partitions whose position the brokers refuse, after the decision.
    pub(super) fn advance_recovery(&mut self) {
        for partition in self.recovery.unattached(&self.assignment) {
            self.messages.attach(partition);
        }
        self.recovery.take_ids(&self.assignment);
        // librdkafka would take a restart for the answer to a rebalance.
        if self.joining.is_some() || self.revocation.is_some() || self.stopped.is_some() {
            return;
        }
        let mut found = std::mem::take(&mut self.undecided);
        found.retain(|(partition, _)| partition.is_active() && self.assignment.has(partition));
        found.extend(self.recovery.advance(&self.parts.client, &self.assignment));
        let mut starts = Vec::new();
        for (partition, found) in found {
            match found {
                // The result of its transaction decides which messages come again; and a commit
                // of the earlier log must not reach the brokers after the new start.
                Found::Resumed(ref resumption, _)
                    if resumption.is_of_other_log() && partition.is_committing() =>
                {
                    self.undecided.push((partition, found));
                }
                // The position was not lost, and reading has continued meanwhile.
                Found::Resumed(resumption, _)
                    if resumption.lost.is_none()
                        && partition.read_position() != Some(resumption.offset) => {}
                Found::Resumed(resumption, incarnation) => {
                    starts.push(self.resume(&partition, &resumption, incarnation));
                }
                Found::Begun(beginning) => {
                    if let Some(text) = beginning.refused {
                        self.fail(
                            EndCode::OffsetMissing,
                            RDKafkaErrorCode::AutoOffsetReset,
                            text,
                        );
                        continue;
                    }
                    for start in &beginning.starts {
                        self.begin(&partition, start, beginning.commit_of(&start.partition));
                    }
                    starts.extend(beginning.starts);
                }
                Found::Refused(lost) => {
                    let text = ends(&partition, &lost);
                    self.fail(EndCode::OffsetLost, RDKafkaErrorCode::AutoOffsetReset, text);
                }
            }
        }
        if !starts.is_empty() {
            self.restart(&starts);
        }
    }

    /// Notes the start of a partition, and requests its commit if that is due.
    pub(super) fn begin(
        &mut self,
        partition: &Arc<Partition>,
        start: &StartOffset,
        commit: StartCommit,
    ) {
        if let Some(offset) = start.offset {
            let departure = partition.begin_at(offset, start.leader_epoch, commit);
            departure.inspect(|it| report_departure(&self.parts.metrics, partition, it));
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
        let mut offset = resumption.offset;
        if let Some(lost) = &resumption.lost {
            // Unsettled messages from the part of the log that remains are not lost.
            let strategy = self.parts.strategy;
            let left = lost
                .kept
                .and_then(|end| partition.left_before(end, strategy));
            if let Some(left) = &left {
                offset = left.base();
            }
            self.report(partition, lost, offset);
            let current = if lost.is_other_log() {
                self.begin_again(partition, offset, left)
            } else {
                partition.reach(offset);
                Arc::clone(partition)
            };
            if let (Incarnation::Same, Some(id)) = (incarnation, partition.topic_id()) {
                current.identify(id);
                current.confirm_id();
            }
            self.pins.pin(&mut self.parts.commits, &current);
        }
        // Other partitions of the topic were created again too.
        if incarnation != Incarnation::Same {
            self.recovery.compare_soon();
        }
        // No epoch is known of another log, or of messages that were not read from this one.
        let lost = resumption.lost.as_ref();
        let was_read = lost.is_none_or(|lost| lost.kept.is_some_and(|end| offset <= end));
        let mut start = partition.start_at(Some(offset));
        start.leader_epoch = start.leader_epoch.filter(|_| was_read);
        start
    }

    /// Gives a partition a new assignment: messages of the earlier log that are in flight
    /// must not settle those of this log that have the same offsets.
    fn begin_again(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
        left: Option<Gaps>,
    ) -> Arc<Partition> {
        partition.revoke();
        let client: Keeper = Arc::clone(&self.parts.client) as Keeper;
        let current = self.assignment.replace(partition, left, &client);
        self.drop_queued(|record| record.assignment().is_revoked());
        self.parts.commits.drop_revoked();
        let _ = current.begin_at(offset, None, StartCommit::Due);
        self.messages.attach(&current);
        current
    }

    fn report(&self, partition: &Partition, lost: &Lost, offset: i64) {
        // If messages come again, reading continues after them, and nothing is skipped.
        let skipped_to = match lost.kept.is_some_and(|end| offset < end) {
            true => lost.skipped.start,
            false => lost.skipped.end,
        };
        let skipped = u64::try_from(skipped_to - lost.skipped.start).unwrap_or(0);
        let unsettled = match (lost.is_other_log(), lost.kept) {
            (true, Some(end)) => partition.in_flight_from(end) as u64,
            (true, None) => partition.in_flight() as u64,
            (false, _) => 0,
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
            skipped_to,
            skipped,
            unsettled,
            offset,
            "the brokers no longer have the position; the runtime continues at this offset"
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
            .map(|partition| partition.start_at(partition.read_position()))
            .collect();
        let client = &self.parts.client;
        let restarted = client.restart(starts, &others);
        if restarted.is_err() {
            let stopped = self.assignment.iter().filter(|it| restarts(it));
            self.recovery.retry(stopped.cloned());
        }
        let names = starts.iter().map(|start| &start.partition);
        warn_on_error("restarting partitions", names, restarted);
        self.recovery.note_restart(self.assignment.iter());
        self.parts.wake.notify_one();
        for start in starts {
            // The earlier assignment may have paused it.
            let partition = &start.partition;
            warn_on_error(
                "resuming a partition",
                [partition],
                client.resume(partition),
            );
        }
    }
}

/// Counts and logs a truncation of the log before this owner began, below messages that an
/// earlier owner had read.
pub(super) fn report_departure(metrics: &Metrics, partition: &Partition, departure: &Departure) {
    let (reason, offset) = (Reason::Truncation.label(), departure.offset);
    metrics.count_lost(&partition.topic, reason, departure.unsettled);
    tracing::warn!(
        topic = partition.topic,
        partition = partition.number,
        reason,
        unsettled = departure.unsettled,
        departs_at = offset,
        "the log was truncated while no consumer read it; the commit metadata is ignored from this offset on"
    );
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
