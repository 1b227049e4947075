//! One partition from its assignment to its revocation.
//!
//! Every message refers to the assignment with which it came. After that is revoked, later
//! reports of handlers change nothing: a later assignment of the same partition is another
//! value, with a higher epoch.

mod commits;
mod held;

pub(crate) use commits::{CommitPoint, StartCommit};
pub(crate) use held::Held;

use std::any::Any;
use std::ffi::CString;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::commit::outbox::Outbox;
use crate::group::epochs::{Epochs, NO_EPOCH};
use crate::handler::produce::ProducerRecord;
use crate::kafka::{StartOffset, TopicId, TopicPartition, c_name};
use crate::observe::metrics::{Metrics, PartitionMetrics, TopicMetrics};
use crate::offsets::gaps::{Gaps, METADATA_LIMIT};
use crate::offsets::{Delivered, Departure, OffsetTracker};
use crate::sync::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, CancellationToken, Mutex, Notify,
    Ordering,
};
use held::RUNNING;

/// The time after a topic was created again within which the brokers refuse a position of the
/// earlier one, if they ever do.
pub(crate) const REFUSED_BY: Duration = Duration::from_secs(5);

/// Messages are delivered.
const ACTIVE: u8 = 0;
/// The partition is about to be revoked; messages that were read are still handled.
const FINISHING: u8 = 1;
/// The partition is about to be revoked; no attempt begins.
const DRAINING: u8 = 2;
/// The partition is revoked; no attempt begins, and verdicts are void.
const REVOKED: u8 = 3;

/// Keeps any client alive.
pub(crate) type Keeper = Arc<dyn Any + Send + Sync>;

/// An assigned partition. Shared by the pump and all its messages.
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) topic_c: CString,
    pub(crate) number: i32,
    /// The number of the assignment in this process; a later one is higher.
    pub(crate) epoch: u64,
    pub(crate) topic_metrics: TopicMetrics,
    pub(crate) metrics: PartitionMetrics,
    /// Is `true` if an end or an error was read last; see [`Self::set_displaced`].
    displaced: AtomicBool,
    /// The topic's id when its offset was committed, or otherwise when it was assigned, once
    /// known.
    topic_id: OnceLock<(TopicId, Instant)>,
    /// Is `true` if the position belongs to the topic with the id: its commit named it, or the
    /// position was not refused for a while after the id was looked up.
    is_identified: AtomicBool,
    state: AtomicU8,
    offsets: Mutex<OffsetTracker>,
    /// Records of messages that are handled and not committed.
    outbox: Mutex<Outbox>,
    /// Ends waits between attempts.
    draining: CancellationToken,
    /// Ends attempts: the partition is revoked.
    revoked: CancellationToken,
    /// The leader epoch of the last message; [`NO_EPOCH`] if it is not known.
    last_epoch: AtomicI32,
    /// The offset after the last message that was read with a leader epoch, or -1.
    next_read: AtomicI64,
    epochs: Mutex<Epochs>,
    /// The last committed point, as far as known.
    committed: Mutex<Option<CommitPoint>>,
    /// The point at which the log departs from an earlier owner's commit.
    departure: Mutex<Option<Departure>>,
    /// Is `true` if that point is the start of reading, which is not committed.
    is_begun_without: AtomicBool,
    /// Is `true` while a commit is sent and not answered.
    committing: AtomicBool,
    /// The highest offset that was sent in a commit.
    sent: AtomicI64,
    /// The maximum length of metadata that the brokers accept, as far as known.
    metadata_limit: AtomicUsize,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    /// The number of held messages at which reading resumes; [`RUNNING`] while it is not
    /// paused.
    resume_at: AtomicUsize,
    /// Wakes the pump when the last message in flight is settled.
    pump: Arc<Notify>,
    /// Messages point into the client's memory, so it lives as long as they do.
    _client: Option<Keeper>,
}

impl Partition {
    pub(crate) fn new(
        topic: &str,
        number: i32,
        epoch: u64,
        metrics: &Metrics,
        pump: Arc<Notify>,
        client: Option<Keeper>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            topic_c: c_name(topic),
            number,
            epoch,
            topic_metrics: metrics.topic(topic),
            metrics: metrics.partition(topic, number),
            displaced: AtomicBool::new(false),
            topic_id: OnceLock::new(),
            is_identified: AtomicBool::new(false),
            state: AtomicU8::new(ACTIVE),
            offsets: Mutex::default(),
            outbox: Mutex::default(),
            draining: CancellationToken::new(),
            revoked: CancellationToken::new(),
            last_epoch: AtomicI32::new(NO_EPOCH),
            next_read: AtomicI64::new(-1),
            epochs: Mutex::default(),
            committed: Mutex::default(),
            departure: Mutex::default(),
            is_begun_without: AtomicBool::new(false),
            committing: AtomicBool::new(false),
            sent: AtomicI64::new(i64::MIN),
            metadata_limit: AtomicUsize::new(METADATA_LIMIT),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            resume_at: AtomicUsize::new(RUNNING),
            pump,
            _client: client,
        }
    }

    /// Creates the partition of a message that no consumer has read.
    pub(crate) fn unassigned(topic: &str, number: i32) -> Self {
        #[allow(clippy::expect_used)]
        let metrics = Metrics::new("", "").expect("the series are well-formed");
        Self::new(topic, number, 0, &metrics, Arc::default(), None)
    }

    /// Continues from an earlier owner's state. If the topic has another id now, its offset
    /// belongs to a log that is gone; see `recovery`.
    pub(crate) fn resume(self, gaps: Gaps) -> Self {
        let committed = CommitPoint {
            offset: gaps.base(),
            metadata: gaps.encode(METADATA_LIMIT),
        };
        let topic_id = OnceLock::new();
        let is_identified = AtomicBool::new(gaps.topic_id().is_some());
        if let Some(id) = gaps.topic_id() {
            // The cell is new, so this is its first value.
            let _ = topic_id.set((TopicId(id), Instant::now()));
        }
        Self {
            offsets: Mutex::new(OffsetTracker::resume(gaps)),
            committed: Mutex::new(Some(committed)),
            topic_id,
            is_identified,
            ..self
        }
    }

    /// Notes the start of reading, at an offset that the group has committed or has yet to
    /// commit. `leader_epoch` is that of the message before. Returns as [`Self::note_epoch`]
    /// does.
    pub(crate) fn begin_at(
        &self,
        offset: i64,
        leader_epoch: Option<i32>,
        commit: StartCommit,
    ) -> Option<Departure> {
        let departure = self.note_epoch(offset - 1, leader_epoch);
        self.offsets.lock().reach(offset);
        let needless = commit == StartCommit::Needless;
        self.is_begun_without.store(needless, Ordering::Relaxed);
        if commit != StartCommit::Due {
            let mut committed = self.committed.lock();
            committed.get_or_insert_with(|| CommitPoint {
                offset,
                metadata: String::new(),
            });
        }
        departure
    }

    /// Notes that everything below this offset was read, with or without messages.
    pub(crate) fn reach(&self, offset: i64) {
        self.note_hole(offset);
        self.next_read.fetch_max(offset, Ordering::Relaxed);
        let idle = {
            let mut offsets = self.offsets.lock();
            offsets.reach(offset);
            offsets.in_flight() == 0
        };
        self.tell_pump(idle);
    }

    /// Returns the offset that is read next, or `None` if the client found the first offset by
    /// itself and no message has come yet.
    pub(crate) fn read_position(&self) -> Option<i64> {
        self.offsets.lock().position()
    }

    /// Returns the time of the oldest message in flight, if there is one, in milliseconds since
    /// the epoch.
    pub(crate) fn oldest_time(&self) -> Option<i64> {
        self.offsets.lock().oldest_time()
    }

    /// Notes the leader epoch of a message that was read. Returns the point at which the log
    /// departs from an earlier owner's state, if that is here.
    pub(crate) fn note_epoch(&self, offset: i64, epoch: Option<i32>) -> Option<Departure> {
        let epoch = epoch?;
        self.note_hole(offset);
        self.next_read.store(offset + 1, Ordering::Relaxed);
        // Only the pump notes epochs, and they rarely change.
        if self.last_epoch.load(Ordering::Relaxed) == epoch {
            return None;
        }
        self.last_epoch.store(epoch, Ordering::Relaxed);
        let departure = self.offsets.lock().read_epoch(offset, epoch);
        if departure.is_some() {
            *self.departure.lock() = departure;
        }
        let settled = self.committable().unwrap_or(offset);
        self.epochs.lock().note(offset, epoch, settled);
        departure
    }

    /// Notes that no message was read from the position up to this offset, if that is so: the
    /// leader epoch in between is not known.
    fn note_hole(&self, until: i64) {
        let from = self.next_read.load(Ordering::Relaxed);
        if (0..until).contains(&from) {
            self.last_epoch.store(NO_EPOCH, Ordering::Relaxed);
            let settled = self.committable().unwrap_or(from);
            self.epochs.lock().note(from, NO_EPOCH, settled);
        }
    }

    /// Returns the leader epoch of the last message before an offset, if known.
    pub(crate) fn epoch_before(&self, offset: i64) -> Option<i32> {
        self.epochs.lock().before(offset)
    }

    /// Returns the offset at which the client continues, with the epoch by which it notices
    /// that the log was truncated meanwhile.
    pub(crate) fn start_at(&self, offset: Option<i64>) -> StartOffset {
        StartOffset {
            partition: self.name(),
            offset,
            leader_epoch: offset.and_then(|offset| self.epoch_before(offset)),
        }
    }

    /// Returns the partition's name.
    pub(crate) fn name(&self) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition: self.number,
        }
    }

    /// Notes if the last event was not a message, but an end or an error: the client
    /// (librdkafka 2.12) counts it as a message, and continues after it when a pause ends.
    pub(crate) fn set_displaced(&self, displaced: bool) {
        if self.displaced.load(Ordering::Relaxed) != displaced {
            self.displaced.store(displaced, Ordering::Relaxed);
        }
    }

    /// Returns the position from which the client may have advanced by itself.
    pub(crate) fn displaced_from(&self) -> Option<i64> {
        let displaced = self.displaced.load(Ordering::Relaxed);
        displaced.then(|| self.read_position()).flatten()
    }

    /// Notes the topic's id unless one is known. Returns the first known one.
    pub(crate) fn identify(&self, id: TopicId) -> TopicId {
        let now = Instant::now();
        let (known, since) = *self.topic_id.get_or_init(|| (id, now));
        if known == id && now.duration_since(since) >= REFUSED_BY {
            self.is_identified.store(true, Ordering::Relaxed);
        }
        known
    }

    /// Notes that the position belongs to the topic with the id.
    pub(crate) fn confirm_id(&self) {
        self.is_identified.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the position certainly belongs to the topic with the id: the topic may
    /// have been created again between a commit without an id and the look-up of the id.
    pub(crate) fn is_identified(&self) -> bool {
        self.is_identified.load(Ordering::Relaxed)
    }

    /// Returns the id of the topic, once known.
    pub(crate) fn topic_id(&self) -> Option<TopicId> {
        self.topic_id.get().map(|(id, _)| *id)
    }

    /// Notes messages that were read from Kafka, by their offsets and times, and fills in the
    /// number of failed attempts at each. Returns the indices of those that an earlier owner
    /// handled.
    pub(crate) fn deliver<'a>(
        &self,
        messages: impl IntoIterator<Item = (i64, Option<i64>, &'a mut u32)>,
    ) -> Vec<usize> {
        let (mut handled, mut sent_back) = (Vec::new(), false);
        {
            let mut offsets = self.offsets.lock();
            for (place, (offset, time, failed)) in messages.into_iter().enumerate() {
                match offsets.deliver(offset, time) {
                    Delivered::New => {}
                    Delivered::SentBack => sent_back = true,
                    Delivered::AlreadyHandled => handled.push(place),
                }
                *failed = offsets.attempts(offset);
            }
        }
        if sent_back {
            *self.committed.lock() = None;
            *self.departure.lock() = None;
            self.sent.store(i64::MIN, Ordering::Relaxed);
            *self.outbox.lock() = Outbox::default();
        }
        self.topic_metrics
            .already_handled
            .inc_by(handled.len() as u64);
        handled
    }

    /// Notes that an attempt at a message failed; `made` is the number of attempts, with this
    /// one.
    pub(crate) fn fail(&self, offset: i64, made: u32) {
        self.offsets.lock().fail(offset, made);
    }

    /// Resets the attempts at a message for its next delivery.
    pub(crate) fn forget_attempts(&self, offset: i64) {
        self.offsets.lock().forget_attempts(offset);
    }

    /// Notes settled messages, by runs of their offsets.
    pub(crate) fn settle(&self, runs: impl IntoIterator<Item = Range<i64>>) {
        let idle = {
            let mut offsets = self.offsets.lock();
            runs.into_iter().for_each(|run| offsets.settle(run));
            offsets.in_flight() == 0
        };
        self.tell_pump(idle);
    }

    /// Notes the records to produce for a message, before it is settled.
    pub(crate) fn produce(&self, offset: i64, records: Vec<ProducerRecord>) {
        if !records.is_empty() {
            self.outbox.lock().add(offset, records);
        }
    }

    /// Takes the records to produce with a commit, by offset: those of all messages that the
    /// commit settles.
    pub(crate) fn take_records(&self, point: &CommitPoint) -> Vec<(i64, ProducerRecord)> {
        // Messages that do not fit into the metadata would be handled again: their records
        // wait.
        let gaps = point.gaps();
        self.outbox.lock().take(|offset| {
            offset < point.offset || gaps.as_ref().is_some_and(|gaps| gaps.is_complete(offset))
        })
    }

    /// Takes back a record that was not committed.
    pub(crate) fn put_back(&self, offset: i64, record: ProducerRecord) {
        self.outbox.lock().add(offset, vec![record]);
    }

    /// Returns the bytes of records that wait for their commit.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox.lock().bytes()
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

    /// Returns the offset that may be committed.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.offsets.lock().committable()
    }

    /// Returns the number of messages in flight from an offset on.
    pub(crate) fn in_flight_from(&self, offset: i64) -> usize {
        self.offsets.lock().in_flight_from(offset)
    }

    /// Returns the lowest offset that was delivered and is not settled.
    pub(crate) fn lowest_unsettled(&self) -> Option<i64> {
        self.offsets.lock().lowest_unsettled()
    }

    /// Returns `true` if a commit of this offset passes no unsettled message, other than
    /// `but`, which is settled by the commit itself.
    pub(crate) fn may_commit(&self, offset: i64, but: Option<i64>) -> bool {
        self.offsets.lock().may_commit(offset, but)
    }

    /// Returns `true` if the message was delivered and is neither settled nor abandoned.
    pub(crate) fn is_in_flight(&self, offset: i64) -> bool {
        self.offsets.lock().is_in_flight(offset)
    }

    /// Returns the number of messages that are delivered and unsettled.
    pub(crate) fn in_flight(&self) -> usize {
        self.offsets.lock().in_flight()
    }

    /// Returns `true` if new messages may be delivered.
    pub(crate) fn is_active(&self) -> bool {
        self.state.load(Ordering::Acquire) == ACTIVE
    }

    /// Returns `true` if an attempt at a message may begin. Every attempt asks here right
    /// before it begins, whether single or in a batch: what waits in the queue, in hand or
    /// in a lane may have been taken from there before the pump looked for it.
    pub(crate) fn may_begin(&self) -> bool {
        self.state.load(Ordering::Acquire) < DRAINING
    }

    /// Returns `true` if the partition was revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.state.load(Ordering::Acquire) == REVOKED
    }

    /// The partition is about to be revoked: no new messages are handed out. With
    /// `ends_attempts` no attempt begins any more, and waits between attempts end; right
    /// where messages come again.
    pub(crate) fn drain(&self, ends_attempts: bool) {
        if ends_attempts {
            self.state.fetch_max(DRAINING, Ordering::AcqRel);
            self.draining.cancel();
        } else {
            self.state.fetch_max(FINISHING, Ordering::AcqRel);
        }
    }

    /// Revokes the partition: running attempts end.
    pub(crate) fn revoke(&self) {
        self.state.store(REVOKED, Ordering::Release);
        self.draining.cancel();
        self.revoked.cancel();
    }

    /// Completes when waits between attempts are to end.
    pub(crate) async fn when_draining(&self) {
        self.draining.cancelled().await;
    }

    /// Completes when the partition is revoked.
    pub(crate) async fn when_revoked(&self) {
        self.revoked.cancelled().await;
    }

    fn tell_pump(&self, idle: bool) {
        if idle && !self.is_active() {
            self.pump.notify_one();
        }
    }
}
