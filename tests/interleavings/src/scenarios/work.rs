//! The handlers of a scenario: the runtime's calls of the queue and the partition, in the
//! runtime's order.

use std::collections::{BTreeMap, VecDeque};

use shuttle::future::block_on;
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread;
use tokio::time::Instant;

use super::{Consumer, Message};
use crate::queue::lane::Lane;

/// How an attempt at a message ended.
enum Ended {
    Settled,
    /// It waits for another attempt.
    Again,
}

/// Takes one message after the other, until the queue is closed and empty.
pub(super) fn one_by_one(consumer: &Consumer, handler: usize) {
    while let Some(message) = block_on(consumer.queue.take()) {
        if !consumer.accept(&message, handler) {
            consumer.refuse(message);
            continue;
        }
        let ended = consumer.attempt(&message);
        consumer.put_down(&message);
        match ended {
            Ended::Settled => {
                let lane = message.lane;
                consumer.settle(message);
                consumer.queue.leave(lane);
            }
            Ended::Again => consumer.defer(message),
        }
    }
}

/// Takes up to three messages together, begins with the first, and gives the others back.
pub(super) fn with_a_reserve(consumer: &Consumer, handler: usize) {
    let mut rest = VecDeque::new();
    while let Some(message) = block_on(consumer.queue.take_together(3, 100, &mut rest)) {
        let refused = consumer.queue.give_back(&mut rest, Message::may_begin);
        for message in refused {
            consumer.abandon(message);
        }
        if consumer.accept(&message, handler) {
            consumer.attempt(&message);
            consumer.settle(message);
        } else {
            consumer.refuse(message);
        }
    }
}

/// Takes batches with several messages of a key, and gives those back that are behind one
/// which waits for another attempt.
pub(super) fn in_runs(consumer: &Consumer, handler: usize) {
    while let Some(first) = block_on(consumer.queue.take()) {
        let mut batch = vec![first];
        if consumer.queue.take_more(1, &mut batch) {
            consumer.queue.take_behind(4, &mut batch);
        }
        let (begun, refused): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|message| consumer.accept(message, handler));
        if !refused.is_empty() {
            refused.into_iter().for_each(|it| consumer.refuse(it));
            consumer.queue.pass_on();
        }
        handle_run(consumer, begun);
        consumer.queue.pass_on();
    }
}

fn handle_run(consumer: &Consumer, batch: Vec<Message>) {
    let (mut behind, mut again, mut left) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (place, message) in batch.into_iter().enumerate() {
        let is_behind = again
            .values()
            .any(|before: &Message| before.lane == message.lane);
        if is_behind {
            behind.push(message);
            continue;
        }
        match consumer.attempt(&message) {
            Ended::Settled => {
                left.extend(message.lane);
                consumer.settle(message);
            }
            Ended::Again => {
                again.insert(place, message);
            }
        }
    }
    let refused = consumer.queue.take_back(behind, Message::may_begin);
    refused.into_iter().for_each(|it| consumer.abandon(it));
    // Until here no message of these keys may be with another handler.
    for lane in left
        .iter()
        .copied()
        .chain(again.values().filter_map(|it| it.lane))
    {
        consumer.log().at_work.remove(&lane);
    }
    consumer.queue.leave(left);
    again.into_values().for_each(|it| consumer.defer(it));
}

impl Consumer {
    /// Returns `true` if an attempt at a message may begin, which was just taken.
    fn accept(&self, message: &Message, handler: usize) -> bool {
        let (index, _) = message.id();
        self.pick_up(message, handler);
        let was_drained = self.log().drained.contains(&index);
        let may = message.may_begin();
        assert!(
            !may || !was_drained,
            "{:?} begins although its partition drains",
            message.id()
        );
        may
    }

    /// Handles a message that is in hand, or leaves it to the next owner.
    pub(super) fn attempt_or_abandon(&self, message: Message, handler: usize) {
        if self.accept(&message, handler) {
            self.attempt(&message);
            self.settle(message);
        } else {
            self.abandon(message);
        }
    }

    /// Makes an attempt, which ends before its partition is given up.
    fn attempt(&self, message: &Message) -> Ended {
        thread::yield_now();
        let (index, _) = message.id();
        assert!(
            !self.log().revoked.contains(&index),
            "{:?} outlives its partition",
            message.id()
        );
        let fails = message.lane.is_some() && message.failed == 0 && thread_rng().gen_bool(0.3);
        if fails { Ended::Again } else { Ended::Settled }
    }

    /// No other handler has a message of the same key.
    fn pick_up(&self, message: &Message, handler: usize) {
        if let Some(lane) = message.lane {
            let other = self.log().at_work.insert(lane, handler);
            let is_free = other.is_none_or(|other| other == handler);
            assert!(is_free, "two handlers have messages of one key");
        }
    }

    fn put_down(&self, message: &Message) {
        if let Some(lane) = message.lane {
            self.log().at_work.remove(&lane);
        }
    }

    fn defer(&self, message: Message) {
        let failed = message.failed + 1;
        let message = Message { failed, ..message };
        if let Err(message) = self
            .queue
            .defer(message, Instant::now(), Message::may_begin)
        {
            self.refuse(message);
        }
    }

    /// Abandons a message and what may not go in its place, as the runtime's workers do.
    fn refuse(&self, message: Message) {
        self.put_down(&message);
        let lane: Option<Lane> = message.lane;
        self.abandon(message);
        let behind = lane.map(|lane| self.queue.forsake(lane, Message::may_begin));
        behind.into_iter().flatten().for_each(|it| self.abandon(it));
    }
}
