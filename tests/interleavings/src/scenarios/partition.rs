//! The state of a partition: its drain, its held messages, its commits and its outbox.

use std::collections::BTreeSet;
use std::iter::once;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::future::block_on;
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread::JoinHandle;

use super::{Consumer, join, spawn};
use crate::check::check;
use crate::group::partition::{CommitPoint, Partition};
use crate::handler::produce::ProducerRecord;
use crate::observe::metrics::Metrics;
use crate::offsets::gaps::Gaps;
use crate::queue::Queued as _;
use crate::sync::Notify;

pub(crate) fn nothing_begins_after_a_drain_and_the_pump_is_woken() {
    check(|| {
        let consumer = Consumer::new(4, 100);
        let messages: Vec<_> = (0..4)
            .map(|offset| consumer.read((1, offset), None))
            .collect();
        let mut messages = messages.into_iter();
        let handlers = [0, 1].map(|handler| {
            let own: Vec<_> = messages.by_ref().take(2).collect();
            spawn(&consumer, move |consumer| {
                for message in own {
                    consumer.attempt_or_abandon(message, handler);
                }
            })
        });
        let partition = &consumer.partitions[1];
        partition.drain(true);
        consumer.log().drained.insert(1);
        while partition.in_flight() > 0 {
            block_on(consumer.wake.notified());
        }
        consumer.log().revoked.insert(1);
        partition.revoke();
        join(handlers);
        consumer.assert_all_left((0..4).map(|offset| (1, offset)));
    });
}

pub(crate) fn a_wait_between_attempts_ends_after_the_drain_is_decided() {
    check(|| {
        let consumer = Consumer::new(4, 100);
        let waits = [(); 2].map(|()| {
            spawn(&consumer, |consumer| {
                let partition = &consumer.partitions[1];
                block_on(partition.when_draining());
                assert!(!partition.may_begin(), "an attempt follows the wait");
                block_on(partition.when_revoked());
                assert!(partition.is_revoked(), "an attempt is ended too soon");
            })
        });
        let partition = &consumer.partitions[1];
        partition.drain(true);
        partition.revoke();
        join(waits);
    });
}

pub(crate) fn what_is_held_returns_to_zero_and_wakes_the_pump() {
    check(|| {
        let consumer = Consumer::new(4, 100);
        let messages: Vec<_> = (0..4)
            .map(|offset| consumer.read((1, offset), None))
            .collect();
        messages.iter().for_each(|it| it.hold(true));
        let mut messages = messages.into_iter();
        let handlers = [(); 2].map(|()| {
            let own: Vec<_> = messages.by_ref().take(2).collect();
            spawn(&consumer, move |consumer| {
                for message in own {
                    message.hold(false);
                    consumer.settle(message);
                }
            })
        });
        let partition = &consumer.partitions[1];
        assert!(partition.pause(), "it was not paused");
        // As the runtime's pump, which looks again only when it is woken.
        block_on(consumer.wake.notified());
        while !partition.may_resume() {
            block_on(consumer.wake.notified());
        }
        assert!(partition.held().messages <= 2);
        join(handlers);
        consumer.assert_all_left((0..4).map(|offset| (1, offset)));
    });
}

/// The number of messages in the scenarios of commits.
const MESSAGES: i64 = 4;

/// A partition whose messages are settled while it is committed, and the group's side.
struct Group {
    partition: Partition,
    wake: Arc<Notify>,
    /// Wakes the brokers.
    sent: Notify,
    log: Mutex<GroupLog>,
}

/// As [`Log`](super::Log), no lock that shuttle switches at.
#[derive(Default)]
struct GroupLog {
    settled: BTreeSet<i64>,
    /// Commits that the brokers have not answered.
    unanswered: Vec<CommitPoint>,
    /// Answers that the pump has not taken.
    answers: Vec<(CommitPoint, Answer)>,
    /// The offset that the brokers have.
    applied: i64,
    refusals: usize,
    /// The pump knows that all is committed.
    is_over: bool,
}

/// What the brokers answer to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Committed,
    Refused,
    /// They have applied it, which the pump does not learn.
    Lost,
}

impl Group {
    /// All messages delivered, none settled.
    fn new() -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let partition = Partition::new("t", 0, 1, &Metrics, Arc::clone(&wake), None);
        let mut failed = [0; MESSAGES as usize];
        partition.deliver(
            (0..)
                .zip(&mut failed)
                .map(|(offset, failed)| (offset, None, failed)),
        );
        Arc::new(Self {
            partition,
            wake,
            sent: Notify::new(),
            log: Mutex::default(),
        })
    }

    fn log(&self) -> MutexGuard<'_, GroupLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two handlers that settle messages out of their order, with a record for each.
    fn handlers(group: &Arc<Self>) -> [JoinHandle<()>; 2] {
        [[3, 0], [1, 2]].map(|offsets| {
            spawn(group, move |group| {
                for offset in offsets {
                    group
                        .partition
                        .produce(offset, vec![ProducerRecord(offset)]);
                    group.log().settled.insert(offset);
                    group.partition.settle(once(offset..offset + 1));
                    group.wake.notify_one();
                }
            })
        })
    }

    /// Answers commits, the latest first: an answer says which commit it is of.
    fn answer(&self, answers: &[Answer]) {
        loop {
            let answer = answers[thread_rng().gen_range(0..answers.len())];
            let mut log = self.log();
            let Some(point) = log.unanswered.pop() else {
                if log.is_over {
                    return;
                }
                drop(log);
                block_on(self.sent.notified());
                continue;
            };
            log.refusals += usize::from(answer != Answer::Committed);
            let answer = if log.refusals > 3 {
                Answer::Committed
            } else {
                answer
            };
            if answer != Answer::Refused {
                assert!(
                    log.applied <= point.offset,
                    "the group goes back to {point:?}"
                );
                log.applied = point.offset;
            }
            log.answers.push((point, answer));
            drop(log);
            self.wake.notify_one();
        }
    }

    /// Commits until the brokers have all. `take` takes what goes along with a commit, and
    /// `end` learns how that ended.
    fn pump<R>(
        &self,
        mut take: impl FnMut(&CommitPoint) -> R,
        mut end: impl FnMut(R, Answer, &CommitPoint),
    ) {
        let partition = &self.partition;
        let (mut sent, mut known) = (Vec::new(), None);
        while known < Some(MESSAGES) || !sent.is_empty() {
            let answers = std::mem::take(&mut self.log().answers);
            let is_news = !answers.is_empty();
            for (point, answer) in answers {
                partition.commit_ended();
                let place = sent.iter().position(|(of, _)| *of == point);
                let (_, taken) = sent.remove(place.unwrap_or_default());
                end(taken, answer, &point);
                if answer == Answer::Committed {
                    assert!(
                        known <= Some(point.offset),
                        "an older commit follows: {point:?}"
                    );
                    known = Some(point.offset);
                    partition.committed(point);
                }
            }
            if !partition.is_committing()
                && let Some(point) = partition.uncommitted()
            {
                self.assert_settled(&point);
                partition.commit_sent(point.offset);
                sent.push((point.clone(), take(&point)));
                self.log().unanswered.push(point);
                self.sent.notify_one();
            } else if !is_news {
                block_on(self.wake.notified());
            }
        }
        self.log().is_over = true;
        self.sent.notify_one();
    }

    /// A commit says of no message that it is settled before it is.
    fn assert_settled(&self, point: &CommitPoint) {
        let log = self.log();
        let is_settled = |offset: i64| log.settled.contains(&offset);
        assert!(
            (0..point.offset).all(is_settled),
            "{point:?} passes a message"
        );
        let gaps = Gaps::decode(point.metadata.as_bytes(), point.offset)
            .ok()
            .flatten();
        let is_said = |offset| gaps.as_ref().is_some_and(|gaps| gaps.is_complete(offset));
        let beyond = point.offset..MESSAGES;
        assert!(
            beyond
                .into_iter()
                .all(|offset| !is_said(offset) || is_settled(offset))
        );
    }
}

pub(crate) fn one_commit_follows_another_and_none_goes_back() {
    check(|| {
        let group = Group::new();
        let handlers = Group::handlers(&group);
        let answers = [Answer::Committed, Answer::Refused, Answer::Lost];
        let brokers = spawn(&group, move |group| group.answer(&answers));
        group.pump(|_| (), |(), _, _| {});
        join(handlers.into_iter().chain([brokers]));
    });
}

pub(crate) fn each_record_is_committed_once_with_its_message() {
    check(|| {
        let group = Group::new();
        let handlers = Group::handlers(&group);
        // A transaction that is not known to be committed is known to be aborted.
        let answers = [Answer::Committed, Answer::Refused];
        let brokers = spawn(&group, move |group| group.answer(&answers));
        let mut committed = Vec::new();
        group.pump(
            |point| group.partition.take_records(point),
            |records, answer, point| match answer {
                Answer::Committed => {
                    committed.extend(records.into_iter().map(|(offset, _)| offset));
                    let has_all = (0..point.offset).all(|offset| committed.contains(&offset));
                    assert!(has_all, "{point:?} has records left behind");
                }
                Answer::Refused | Answer::Lost => {
                    for (offset, record) in records {
                        group.partition.put_back(offset, record);
                    }
                }
            },
        );
        join(handlers.into_iter().chain([brokers]));
        committed.sort_unstable();
        assert_eq!(committed, (0..MESSAGES).collect::<Vec<_>>());
        assert_eq!(group.partition.outbox_bytes(), 0);
    });
}
