//! Assignments and revocations by the group.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::Pump;
use crate::group::partition::Keeper;
use crate::group::rebalance::{self, Revocation};
use crate::group::start::{Beginning, Joining};
use crate::kafka::{Client, Fetcher as _, TopicPartition};
use crate::program::end_code::EndCode;

impl<C: Client> Pump<C> {
    /// Looks up the start offsets. librdkafka reports no other change until the assignment is
    /// confirmed.
    pub(super) fn join(&mut self, partitions: Vec<TopicPartition>) {
        let parts = &self.parts;
        self.joining = Some(Joining::start(
            &parts.client,
            partitions,
            parts.policy,
            parts.strategy,
            parts.stop.clone(),
            Arc::clone(&parts.wake),
        ));
    }

    pub(super) fn advance_joining(&mut self) {
        if let Some(mut joining) = self.joining.take() {
            if let Some(text) = joining.overdue() {
                let code = RDKafkaErrorCode::UnstableOffsetCommit;
                self.fail(EndCode::TransactionStuck, code, text);
            }
            match joining.beginning() {
                Some(beginning) => self.assign(beginning),
                None => self.joining = Some(joining),
            }
        }
    }

    pub(super) fn assign(&mut self, mut beginning: Beginning) {
        if let Some(text) = beginning.refused.take() {
            self.fail(
                EndCode::OffsetMissing,
                RDKafkaErrorCode::AutoOffsetReset,
                text,
            );
        }
        let client: Keeper = Arc::clone(&self.parts.client) as Keeper;
        let starts = std::mem::take(&mut beginning.starts);
        let named: Vec<_> = starts.iter().map(|start| start.partition.clone()).collect();
        let inherited = std::mem::take(&mut beginning.inherited);
        let added = self.assignment.add(&named, inherited, Some(&client));
        for (partition, start) in added.iter().zip(&starts) {
            self.begin(partition, start, beginning.commit_of(&start.partition));
            self.messages.attach(partition);
            if self.stopped.is_some() {
                partition.drain(self.parts.strategy.redelivers());
            }
        }
        // A cooperative rebalance has paused the other partitions, and the answer to it
        // resumes them.
        rebalance::put_back(&*self.parts.client, self.assignment.iter());
        rebalance::confirm(&*self.parts.client, &starts);
        self.recovery.compare_soon();
        self.parts.progress.set_assigned(true);
    }

    pub(super) fn revoke(&mut self, partitions: &[TopicPartition], lost: bool) {
        // librdkafka waits for an answer before it asks again; if it ever does not, the earlier
        // question is answered first.
        if let Some(earlier) = self.revocation.take() {
            self.give_up(earlier);
        }
        let removed = self.assignment.remove(partitions);
        let redelivers = self.parts.strategy.redelivers();
        for partition in &removed {
            partition.drain(redelivers);
        }
        if redelivers {
            self.drop_queued(|record| !record.assignment().is_active());
        }
        // Lost partitions already have other owners: only messages that would be lost
        // permanently are still worth finishing. And without handlers nothing finishes.
        let limit = match (lost && redelivers) || self.last_commit.is_some() {
            true => Duration::ZERO,
            false => self.parts.drain_limit,
        };
        self.revocation = Some(Revocation::new(partitions.to_vec(), removed, lost, limit));
    }

    /// Releases revoked partitions once they have no message in flight, and their handled
    /// messages are committed.
    pub(super) fn advance_revocation(&mut self) {
        let left = self.left_to_stop();
        let parts = &mut self.parts;
        let revocation = self.revocation.take_if(|revocation| {
            revocation.advance(&*parts.client, &mut parts.commits, parts.strategy, left)
        });
        if let Some(revocation) = revocation {
            self.give_up(revocation);
        }
    }

    fn give_up(&mut self, revocation: Revocation) {
        rebalance::put_back(&*self.parts.client, self.assignment.iter());
        revocation.complete(&*self.parts.client, &self.parts.metrics);
        self.parts.commits.drop_revoked();
    }
}
