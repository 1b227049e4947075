//! The queue: nothing is lost or handed out twice, its bounds hold, and every waiting
//! handler and the pump are woken.

use std::collections::VecDeque;

use shuttle::future::{self, block_on};
use shuttle::rand::{Rng as _, thread_rng};

use super::pump::{Pump, assert_bounded};
use super::work::{one_by_one, with_a_reserve};
use super::{Consumer, Id, join, spawn};
use crate::check::check;

/// Messages of both partitions, by turns.
fn by_turns(each: i64) -> impl Iterator<Item = Id> {
    (0..each).flat_map(|offset| [(0, offset), (1, offset)])
}

pub(crate) fn every_message_leaves_once_past_a_revocation_and_a_close() {
    check(|| {
        let consumer = Consumer::new(3, 30);
        let handlers =
            [0, 1].map(|handler| spawn(&consumer, move |it| with_a_reserve(it, handler)));
        Pump::new(&consumer, by_turns(4).map(|id| (id, None)), Some(3)).run();
        consumer.queue.close();
        join(handlers);
        let read = consumer.partitions[1].read_position().unwrap_or(0);
        let is_read = |(index, offset): &Id| *index != 1 || *offset < read;
        consumer.assert_all_left(by_turns(4).filter(is_read));
    });
}

pub(crate) fn every_handler_that_waits_is_woken() {
    check(|| {
        let consumer = Consumer::new(2, 100);
        // Each takes one message only: the others must be woken without it.
        let handlers = [0; 3].map(|_| {
            spawn(&consumer, |consumer| {
                let message = block_on(consumer.queue.take());
                consumer.queue.pass_on();
                message.into_iter().for_each(|it| consumer.settle(it));
            })
        });
        let messages = (0..3).map(|offset| ((0, offset), None));
        Pump::new(&consumer, messages, None).run();
        consumer.queue.close();
        join(handlers);
        consumer.assert_all_left((0..3).map(|offset| (0, offset)));
    });
}

pub(crate) fn a_handler_that_is_given_up_loses_no_wake_up() {
    check(|| {
        let consumer = Consumer::new(2, 100);
        let take = || {
            let consumer = consumer.clone();
            future::spawn(async move {
                let message = consumer.queue.take().await;
                consumer.queue.pass_on();
                message.into_iter().for_each(|it| consumer.settle(it));
            })
        };
        let (given_up, stays) = (take(), take());
        let put = |offset| {
            let mut pending: VecDeque<_> = [consumer.read((0, offset), None)].into();
            consumer.queue.put(&mut pending);
        };
        put(0);
        given_up.abort();
        if block_on(given_up).is_ok() {
            put(1);
        }
        assert!(block_on(stays).is_ok());
        assert_eq!(consumer.queue.load(), (0, 0));
    });
}

pub(crate) fn a_close_ends_every_handler() {
    check(|| {
        let consumer = Consumer::new(3, 100);
        let handlers = [0, 1, 2].map(|handler| spawn(&consumer, move |it| one_by_one(it, handler)));
        let mut pending: VecDeque<_> = [consumer.read((0, 0), None)].into();
        consumer.queue.put(&mut pending);
        consumer.queue.close();
        join(handlers);
        consumer.assert_all_left([(0, 0)]);
    });
}

pub(crate) fn places_and_bytes_are_bounds_while_handlers_take() {
    check(|| {
        // Either bound is the one that is met.
        let (places, bytes) = if thread_rng().gen_bool(0.5) {
            (2, 100)
        } else {
            (5, 25)
        };
        let consumer = Consumer::new(places, bytes);
        let handlers = [0, 1].map(|handler| spawn(&consumer, move |it| one_by_one(it, handler)));
        let page = spawn(&consumer, move |consumer| {
            for _ in 0..4 {
                assert_bounded(consumer, places, bytes);
            }
        });
        let messages = (0..6).map(|offset| ((0, offset), None));
        Pump::new(&consumer, messages, None).run();
        consumer.queue.close();
        join(handlers.into_iter().chain([page]));
        consumer.assert_all_left((0..6).map(|offset| (0, offset)));
    });
}
