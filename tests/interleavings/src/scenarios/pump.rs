//! The pump of a scenario: the steps of the runtime's, without Kafka.

use std::collections::VecDeque;

use shuttle::future::block_on;
use tokio::time::Instant;

use super::{Consumer, Id, Message, WEIGHT};

/// A pump and what it has still to do.
pub(super) struct Pump<'a> {
    consumer: &'a Consumer,
    /// Messages that are not read, by their keys.
    unread: VecDeque<(Id, Option<&'static str>)>,
    pending: VecDeque<Message>,
    /// The second partition is revoked once no more messages than this are unread.
    revoke_at: Option<usize>,
    is_revoking: bool,
    is_stopping: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        consumer: &'a Consumer,
        messages: impl IntoIterator<Item = (Id, Option<&'static str>)>,
        revoke_at: Option<usize>,
    ) -> Self {
        Self {
            consumer,
            unread: messages.into_iter().collect(),
            pending: VecDeque::new(),
            revoke_at,
            is_revoking: false,
            is_stopping: false,
        }
    }

    /// Pumps until every message is settled, or was abandoned at the revocation. Waits
    /// without a limit, so that only wake-ups let it continue.
    pub(super) fn run(mut self) {
        loop {
            self.consumer.queue.release_due(Instant::now());
            let has_read = self.read();
            let has_put = self.put();
            let revoked = self.advance_revocation();
            if self.is_at_end() {
                break;
            }
            if !has_read && !has_put && !revoked {
                block_on(self.consumer.wake.notified());
            }
        }
    }

    /// Reads up to two messages where there is room. Returns `true` if any was read.
    fn read(&mut self) -> bool {
        if !self.pending.is_empty() || self.unread.is_empty() || !self.consumer.queue.has_room() {
            return false;
        }
        for _ in 0..2 {
            let next = self.unread.pop_front();
            let read = next.map(|(id, key)| self.consumer.read(id, key));
            self.pending.extend(read);
        }
        true
    }

    /// Returns `true` if all that was read is in the queue now, so that there may be more.
    fn put(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        self.consumer.queue.put(&mut self.pending);
        self.pending.is_empty()
    }

    /// Returns `true` if there was anything to do.
    fn advance_revocation(&mut self) -> bool {
        let consumer = self.consumer;
        let partition = &consumer.partitions[1];
        if self.is_revoking {
            if partition.in_flight() > 0 {
                return false;
            }
            self.is_revoking = false;
            consumer.log().revoked.insert(1);
            partition.revoke();
            return true;
        }
        if self.revoke_at.is_none_or(|at| self.unread.len() > at) {
            return false;
        }
        self.revoke_at = None;
        self.is_revoking = true;
        partition.drain(true);
        consumer.log().drained.insert(1);
        let keep = |message: &Message| message.id().0 != 1;
        let mut dropped = consumer.queue.retain(keep);
        let pending = std::mem::take(&mut self.pending);
        let (kept, more): (VecDeque<_>, VecDeque<_>) = pending.into_iter().partition(keep);
        self.pending = kept;
        dropped.extend(more);
        for message in dropped {
            consumer.abandon(message);
        }
        self.unread.retain(|((index, _), _)| *index != 1);
        true
    }

    /// Once everything is read, waits for what is in flight as at an orderly revocation.
    fn is_at_end(&mut self) -> bool {
        let is_read = self.unread.is_empty() && self.pending.is_empty();
        if !is_read || self.is_revoking || self.revoke_at.is_some() {
            return false;
        }
        if !self.is_stopping {
            self.is_stopping = true;
            for partition in &self.consumer.partitions {
                partition.drain(false);
            }
        }
        self.consumer
            .partitions
            .iter()
            .all(|it| it.in_flight() == 0)
    }
}

/// The queue's bounds hold, whoever looks and whenever. Not for what handlers have given
/// back or wait for, which has left its places.
pub(super) fn assert_bounded(consumer: &Consumer, places: usize, bytes: usize) {
    let (messages, weight) = consumer.queue.load();
    assert!(messages <= places, "{messages} messages");
    assert!(weight <= bytes.max(WEIGHT), "{weight} bytes");
}
