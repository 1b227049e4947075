//! One partition from its assignment to its revocation.
//!
//! Every message refers to the assignment that it came by. Once that is given
//! up, whatever its handler still reports changes nothing: a later assignment
//! of the same partition is another value, with a higher epoch.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::kafka::{Consumer, c_name};
use crate::metrics::{Metrics, PartitionMetrics, TopicMetrics};
use crate::offsets::OffsetTracker;

const ACTIVE: u8 = 0;
const DRAINING: u8 = 1;
const REVOKED: u8 = 2;

/// No offset: Kafka's are never negative.
const UNKNOWN: i64 = -1;

/// Messages that wait for others of their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Held {
    /// Whether either is more than in `most`.
    pub(crate) fn exceeds(self, most: Self) -> bool {
        self.messages > most.messages || self.bytes > most.bytes
    }
}

/// Not paused.
const RUNNING: usize = usize::MAX;

/// An assigned partition. Shared by the pump and all its messages.
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) topic_c: CString,
    pub(crate) number: i32,
    /// Counts assignments in this process; higher is later.
    pub(crate) epoch: u64,
    pub(crate) topic_metrics: TopicMetrics,
    pub(crate) metrics: PartitionMetrics,
    state: AtomicU8,
    offsets: Mutex<OffsetTracker>,
    /// Ends waits between attempts.
    draining: CancellationToken,
    /// Ends attempts: the partition is given up.
    revoked: CancellationToken,
    /// A message has come by this assignment.
    begun: AtomicBool,
    /// Offset committed last under this assignment.
    committed: AtomicI64,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    /// Held messages at which reading may go on; [`RUNNING`] while it does.
    resume_at: AtomicUsize,
    /// Wakes the pump when the last message in flight is done.
    pump: Arc<Notify>,
    /// Messages point into the client. Absent in tests without one.
    _client: Option<Arc<Consumer>>,
}

impl Partition {
    pub(crate) fn new(
        topic: &str,
        number: i32,
        epoch: u64,
        metrics: &Metrics,
        pump: Arc<Notify>,
        client: Option<Arc<Consumer>>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            topic_c: c_name(topic),
            number,
            epoch,
            topic_metrics: metrics.topic(topic),
            metrics: metrics.partition(topic, number),
            state: AtomicU8::new(ACTIVE),
            offsets: Mutex::default(),
            draining: CancellationToken::new(),
            revoked: CancellationToken::new(),
            begun: AtomicBool::new(false),
            committed: AtomicI64::new(UNKNOWN),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            resume_at: AtomicUsize::new(RUNNING),
            pump,
            _client: client,
        }
    }

    /// Whether this is called for the first time: at the assignment's first message.
    pub(crate) fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    /// Notes a message that was taken from Kafka.
    pub(crate) fn deliver(&self, offset: i64) {
        self.offsets.lock().deliver(offset);
    }

    /// Notes a message that needs no more work.
    pub(crate) fn settle(&self, offset: i64) {
        let idle = {
            let mut offsets = self.offsets.lock();
            offsets.settle(offset);
            offsets.in_flight() == 0
        };
        self.tell_pump(idle);
    }

    /// Notes a message that will not be handled under this assignment.
    pub(crate) fn abandon(&self, offset: i64) {
        let idle = {
            let mut offsets = self.offsets.lock();
            offsets.abandon(offset);
            offsets.in_flight() == 0
        };
        self.topic_metrics.abandoned.inc();
        self.tell_pump(idle);
    }

    /// The offset that may be committed.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.offsets.lock().committable()
    }

    /// Notes what the brokers have committed.
    pub(crate) fn committed(&self, offset: i64) {
        self.committed.store(offset, Ordering::Relaxed);
        self.metrics.committed.set(offset);
    }

    /// Where a successor would begin, as far as is known: the offset committed
    /// last, or where this assignment began.
    pub(crate) fn position(&self) -> Option<i64> {
        match self.committed.load(Ordering::Relaxed) {
            UNKNOWN => self.committable(),
            offset => Some(offset),
        }
    }

    /// The offset that may be committed, unless the brokers have it.
    pub(crate) fn uncommitted(&self) -> Option<i64> {
        let committed = self.committed.load(Ordering::Relaxed);
        self.committable().filter(|offset| *offset != committed)
    }

    /// Notes that a message of this many bytes is held behind another of its key, or
    /// no longer. Wakes the pump once a paused partition may be read on.
    pub(crate) fn hold(&self, bytes: usize, held: bool) {
        if held {
            self.held.fetch_add(1, Ordering::Relaxed);
            self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
            return;
        }
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let left = self.held.fetch_sub(1, Ordering::AcqRel) - 1;
        if left == self.resume_at.load(Ordering::Acquire) {
            self.pump.notify_one();
        }
    }

    /// What is held.
    pub(crate) fn held(&self) -> Held {
        Held {
            messages: self.held.load(Ordering::Acquire),
            bytes: self.held_bytes.load(Ordering::Relaxed),
        }
    }

    /// Notes that reading pauses until half of what is held has gone; `false` if it
    /// does already.
    pub(crate) fn pause(&self) -> bool {
        let half = self.held().messages / 2;
        self.resume_at.swap(half, Ordering::AcqRel) == RUNNING
    }

    /// Whether a paused partition may be read on, which it then is.
    pub(crate) fn may_resume(&self) -> bool {
        let may = self.held().messages <= self.resume_at.load(Ordering::Acquire);
        if may {
            self.resume_at.store(RUNNING, Ordering::Release);
        }
        may
    }

    /// Messages delivered and not settled.
    pub(crate) fn in_flight(&self) -> usize {
        self.offsets.lock().in_flight()
    }

    /// Whether new messages may be handed out.
    pub(crate) fn is_active(&self) -> bool {
        self.state.load(Ordering::Acquire) == ACTIVE
    }

    /// Whether the partition was given up.
    pub(crate) fn is_revoked(&self) -> bool {
        self.state.load(Ordering::Acquire) == REVOKED
    }

    /// The partition is about to be given up: no new messages. `end_waits`
    /// gives up messages that wait for another attempt; right where they will
    /// come again.
    pub(crate) fn drain(&self, end_waits: bool) {
        self.state.fetch_max(DRAINING, Ordering::AcqRel);
        if end_waits {
            self.draining.cancel();
        }
    }

    /// The partition is given up: attempts still running are ended.
    pub(crate) fn revoke(&self) {
        self.state.store(REVOKED, Ordering::Release);
        self.draining.cancel();
        self.revoked.cancel();
    }

    /// Completes when waits between attempts are to end.
    pub(crate) async fn when_draining(&self) {
        self.draining.cancelled().await;
    }

    /// Completes when the partition is given up.
    pub(crate) async fn when_revoked(&self) {
        self.revoked.cancelled().await;
    }

    fn tell_pump(&self, idle: bool) {
        if idle && !self.is_active() {
            self.pump.notify_one();
        }
    }
}
