//! What a run leaves behind, for the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not ended.
    Open,
    /// The handler handled the message.
    Done,
    /// The handler asked for another attempt, or gave no verdict.
    Retry,
    /// The handler failed for good.
    Fail,
    /// The handler asked to skip the message.
    Skip,
    /// The handler asked to dead-letter the message.
    DeadLetter,
    /// The handler panicked.
    Panic,
    /// The call was cancelled by its time limit.
    TimedOut,
    /// The call failed as a whole, and the message was behind another in its order: whatever
    /// the handler did with it does not count, and it comes again.
    Void,
    /// The call was cancelled by a revocation, a stop, a freeze or a kill.
    CutShort,
}

/// One message, given once to a handler that began it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The number of the message.
    pub seq: usize,
    /// The partition of [`TOPIC`](super::TOPIC).
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key, if any.
    pub key: Option<String>,
    /// Number of the process, from 0; a member that is started again is another one.
    pub process: usize,
    /// The epoch of the assignment, within the process.
    pub epoch: u64,
    /// The attempt that the message names, from 1.
    pub attempt: u32,
    /// When the call that brought it was made, from the beginning of the run.
    pub given: Duration,
    /// When that call ended.
    pub returned: Option<Duration>,
    /// When the handler began it.
    pub begun: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// How it ended.
    pub verdict: Verdict,
}

/// Something that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It was started.
    Started,
    /// It was told to stop.
    Stopping,
    /// It ended: in order, or with this error.
    Ended(Option<String>),
    /// It was killed.
    Killed,
    /// It was frozen.
    Frozen,
    /// It goes on.
    Thawed,
}

/// Takes down what happens. Times are those of the simulated clock.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Inner>);

struct Inner {
    origin: Instant,
    deliveries: Mutex<Vec<Delivery>>,
    counts: Mutex<BTreeMap<usize, usize>>,
    processes: Mutex<Vec<(Duration, usize, Happened)>>,
}

/// Which messages of a call have an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    None,
    /// All of them.
    Call,
    /// Those of one key.
    Key,
}

/// A call of the handler that is going on, with the deliveries that it began. Their
/// verdicts reach the runtime when the call returns, so one that is cancelled, or panics,
/// takes back those that had ended.
pub(super) struct Call {
    recorder: Recorder,
    since: Instant,
    limit: Duration,
    order: Order,
    indices: Mutex<Vec<usize>>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            deliveries: Mutex::default(),
            counts: Mutex::default(),
            processes: Mutex::default(),
        }))
    }

    /// Time since the beginning of the run.
    pub(super) fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// Returns which delivery of the message this is, from 0, and counts it.
    pub(super) fn count(&self, seq: usize) -> usize {
        let mut counts = self.0.counts.lock();
        let count = counts.entry(seq).or_default();
        *count += 1;
        *count - 1
    }

    /// Takes down that a call begins now, which the runtime gives at most this long.
    pub(super) fn call(&self, limit: Duration, order: Order) -> Call {
        Call {
            recorder: self.clone(),
            since: Instant::now(),
            limit,
            order,
            indices: Mutex::default(),
        }
    }

    /// Ends everything that a process has begun: it is frozen or gone.
    pub(super) fn cut_short(&self, process: usize) {
        let now = self.now();
        for delivery in self.0.deliveries.lock().iter_mut() {
            if delivery.process == process && delivery.verdict == Verdict::Open {
                delivery.verdict = Verdict::CutShort;
                delivery.ended = Some(now);
            }
        }
    }

    pub(super) fn note(&self, process: usize, happened: Happened) {
        let entry = (self.now(), process, happened);
        self.0.processes.lock().push(entry);
    }

    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        self.0.deliveries.lock().clone()
    }

    pub(super) fn processes(&self) -> Vec<(Duration, usize, Happened)> {
        self.0.processes.lock().clone()
    }
}

impl Call {
    /// Takes down that a delivery begins now, and returns its index.
    pub(super) fn begin(&self, mut delivery: Delivery) -> usize {
        delivery.given = delivery.begun.saturating_sub(self.since.elapsed());
        let mut deliveries = self.recorder.0.deliveries.lock();
        deliveries.push(delivery);
        let index = deliveries.len() - 1;
        self.indices.lock().push(index);
        index
    }

    /// Takes down that a delivery ended.
    pub(super) fn end(&self, index: usize, verdict: Verdict) {
        let now = self.recorder.now();
        let delivery = &mut self.recorder.0.deliveries.lock()[index];
        if delivery.verdict == Verdict::Open {
            delivery.verdict = verdict;
            delivery.ended = Some(now);
        }
    }

    /// The call's answer ends before its message at an index: those from there on have no
    /// verdict.
    pub(super) fn leave_out_from(&self, index: usize) {
        let mut deliveries = self.recorder.0.deliveries.lock();
        for index in self.indices.lock().iter().skip(index) {
            deliveries[*index].verdict = Verdict::Retry;
        }
    }

    /// The call returns: its verdicts stand.
    pub(super) fn done(self) {
        let now = self.recorder.now();
        let mut deliveries = self.recorder.0.deliveries.lock();
        for index in self.indices.lock().drain(..) {
            deliveries[index].returned = Some(now);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let timed_out = self.since.elapsed() >= self.limit;
        let verdict = match (std::thread::panicking(), timed_out) {
            (true, _) => Verdict::Panic,
            (false, true) => Verdict::TimedOut,
            (false, false) => Verdict::CutShort,
        };
        let now = self.recorder.now();
        let mut deliveries = self.recorder.0.deliveries.lock();
        let mut first = BTreeSet::new();
        for index in self.indices.lock().drain(..) {
            let delivery = &mut deliveries[index];
            let lane = match self.order {
                Order::None => None,
                Order::Call => Some(None),
                Order::Key => delivery
                    .key
                    .clone()
                    .map(|key| Some((delivery.partition, key))),
            };
            let is_behind = lane.is_some_and(|lane| !first.insert(lane));
            if is_behind {
                delivery.verdict = Verdict::Void;
            } else if delivery.verdict != Verdict::CutShort {
                // Unless a kill has ended it before.
                delivery.verdict = verdict;
            }
            delivery.ended.get_or_insert(now);
            delivery.returned = Some(now);
        }
    }
}
