//! The scenarios, and the consumer that they play: a queue, its partitions, and a record of
//! what became of each message.

pub(crate) mod lanes;
pub(crate) mod partition;
mod pump;
pub(crate) mod queue;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::once;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::thread::{self, JoinHandle};

use crate::group::partition::Partition;
use crate::observe::metrics::Metrics;
use crate::queue::lane::{Lane, LaneFinder};
use crate::queue::{Queued, WorkQueue};
use crate::sync::Notify;

/// What each message weighs.
const WEIGHT: usize = 10;

/// A message of a partition.
pub(crate) struct Message {
    partition: Arc<Partition>,
    offset: i64,
    lane: Option<Lane>,
    /// Attempts that failed.
    failed: u32,
}

impl Message {
    fn may_begin(&self) -> bool {
        self.partition.may_begin()
    }

    fn id(&self) -> Id {
        (self.partition.epoch as usize, self.offset)
    }
}

impl Queued for Message {
    fn weight(&self) -> usize {
        WEIGHT
    }

    fn lane(&self) -> Option<Lane> {
        self.lane
    }

    fn hold(&self, held: bool) {
        self.partition.hold(WEIGHT, held);
    }
}

/// Names a message: the index of its partition's assignment, which is its epoch, and its
/// offset.
type Id = (usize, i64);

/// How a message left the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Settled,
    Abandoned,
}

/// What has happened. Its lock is not one that shuttle switches at, so a note is one step
/// with the operation that follows it.
#[derive(Default)]
struct Log {
    left: BTreeMap<Id, Left>,
    /// Assignments whose drain has been decided.
    drained: BTreeSet<usize>,
    /// Assignments that were given up.
    revoked: BTreeSet<usize>,
    /// The handler that has messages of a lane.
    at_work: HashMap<Lane, usize>,
    /// The last message of a lane that was settled, in each assignment.
    last_settled: HashMap<(usize, Lane), i64>,
    /// The first message of a lane that comes again.
    first_abandoned: HashMap<(usize, Lane), i64>,
}

/// What the threads of a scenario share.
pub(crate) struct Consumer {
    queue: WorkQueue<Message>,
    wake: Arc<Notify>,
    /// Two partitions, and the second once more as it is assigned after its revocation.
    partitions: Vec<Arc<Partition>>,
    lanes: LaneFinder,
    log: Mutex<Log>,
}

impl Consumer {
    /// A consumer whose queue has these bounds.
    fn new(places: usize, bytes: usize) -> Arc<Self> {
        let wake = Arc::new(Notify::new());
        let partitions = [0, 1, 1].into_iter().zip(0..).map(|(number, epoch)| {
            let wake = Arc::clone(&wake);
            Arc::new(Partition::new("t", number, epoch, &Metrics, wake, None))
        });
        Arc::new(Self {
            partitions: partitions.collect(),
            queue: WorkQueue::new(places, bytes, Arc::clone(&wake)),
            wake,
            lanes: LaneFinder::default(),
            log: Mutex::default(),
        })
    }

    /// A message as the pump reads it; of a key, if it has a lane.
    fn read(&self, (index, offset): Id, key: Option<&str>) -> Message {
        let partition = Arc::clone(&self.partitions[index]);
        let lane = key.map(|key| self.lanes.find("t", partition.number, key.as_bytes()));
        let mut failed = 0;
        partition.deliver([(offset, None, &mut failed)]);
        Message {
            partition,
            offset,
            lane,
            failed,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // An assertion may fail under it.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, message: Message) {
        self.note_left(&message, Left::Settled);
        let next = message.offset + 1;
        message.partition.settle(once(message.offset..next));
    }

    fn abandon(&self, message: Message) {
        self.note_left(&message, Left::Abandoned);
        message.partition.abandon(message.offset);
    }

    fn note_left(&self, message: &Message, how: Left) {
        let mut log = self.log();
        let before = log.left.insert(message.id(), how);
        assert_eq!(before, None, "{:?} has left twice", message.id());
        let Some(lane) = message.lane else {
            return;
        };
        let (lane, offset) = ((message.id().0, lane), message.offset);
        if how == Left::Abandoned {
            let first = log.first_abandoned.entry(lane).or_insert(offset);
            *first = offset.min(*first);
        } else {
            let last = log.last_settled.insert(lane, offset);
            assert!(last < Some(offset), "a key went back to {:?}", message.id());
        }
        let last = log.last_settled.get(&lane).copied();
        let first = log.first_abandoned.get(&lane).copied();
        let is_kept = last.is_none_or(|last| first.is_none_or(|first| last < first));
        assert!(
            is_kept,
            "a message that comes again was passed: {:?}",
            message.id()
        );
    }

    /// Nothing is left anywhere, and each of these messages has left once: by being settled
    /// if its partition was not revoked.
    fn assert_all_left(&self, messages: impl IntoIterator<Item = Id>) {
        let log = self.log();
        for id in messages {
            let left = log.left.get(&id).copied();
            assert!(left.is_some(), "{id:?} is lost");
            let is_revoked = log.revoked.contains(&id.0);
            assert!(
                is_revoked || left == Some(Left::Settled),
                "{id:?}: {left:?}"
            );
        }
        drop(log);
        assert_eq!(self.queue.load(), (0, 0));
        for partition in &self.partitions {
            assert_eq!(partition.in_flight(), 0);
            assert_eq!((partition.held().messages, partition.held().bytes), (0, 0));
        }
    }
}

/// Starts a thread with what it shares.
fn spawn<S: Send + Sync + 'static>(
    shared: &Arc<S>,
    body: impl FnOnce(&S) + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

/// Waits for threads to end.
fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        assert!(thread.join().is_ok(), "a thread panicked");
    }
}
