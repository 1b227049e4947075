//! The lanes of the queue: messages of a key are in order and never out together, and a key
//! is free exactly while none of its messages is out.

use super::pump::Pump;
use super::work::{in_runs, one_by_one};
use super::{Consumer, Id, join, spawn};
use crate::check::check;

type Keyed = (Id, Option<&'static str>);

/// Messages of two keys in each partition.
fn of_two_keys(each: i64) -> impl Iterator<Item = Keyed> + Clone {
    let keys = ["a", "a", "b", "a"].map(Some).into_iter().cycle();
    let ids = (0..each).flat_map(|offset| [(0, offset), (1, offset)]);
    ids.zip(keys)
}

pub(crate) fn messages_of_a_key_are_in_order_and_never_out_together() {
    check(|| {
        let consumer = Consumer::new(3, 100);
        let handlers = [0, 1].map(|handler| spawn(&consumer, move |it| one_by_one(it, handler)));
        Pump::new(&consumer, of_two_keys(3), None).run();
        consumer.queue.close();
        join(handlers);
        consumer.assert_all_left(of_two_keys(3).map(|(id, _)| id));
    });
}

pub(crate) fn messages_that_went_along_come_back_in_their_order() {
    check(|| {
        let consumer = Consumer::new(4, 100);
        let handlers = [0, 1].map(|handler| spawn(&consumer, move |it| in_runs(it, handler)));
        Pump::new(&consumer, of_two_keys(4), None).run();
        consumer.queue.close();
        join(handlers);
        consumer.assert_all_left(of_two_keys(4).map(|(id, _)| id));
    });
}

pub(crate) fn a_revocation_leaves_no_key_taken() {
    check(|| {
        let consumer = Consumer::new(4, 100);
        let handlers = [0, 1].map(|handler| spawn(&consumer, move |it| in_runs(it, handler)));
        Pump::new(&consumer, of_two_keys(4), Some(2)).run();
        let read = consumer.partitions[1].read_position().unwrap_or(0);
        // The partition is assigned again, with messages of the same keys. One whose key
        // is still taken would not be handled.
        let next = [
            ((2, 0), Some("a")),
            ((2, 1), Some("b")),
            ((0, 4), Some("a")),
        ];
        Pump::new(&consumer, next, None).run();
        consumer.queue.close();
        join(handlers);
        let ids = of_two_keys(4).chain(next).map(|(id, _)| id);
        consumer.assert_all_left(ids.filter(|(index, offset)| *index != 1 || *offset < read));
    });
}
