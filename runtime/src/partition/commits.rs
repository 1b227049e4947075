//! What of a partition may be committed, and what the brokers have.

use std::sync::atomic::Ordering;

use super::Partition;
use crate::gaps::Gaps;
use crate::strategy::Strategy;

/// What a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitPoint {
    /// All before it needs no more work.
    pub(crate) offset: i64,
    /// What is known beyond, as text; perhaps empty. See [`Gaps`].
    pub(crate) metadata: String,
}

impl CommitPoint {
    /// What the text says; `None` where that is nothing.
    pub(super) fn gaps(&self) -> Option<Gaps> {
        Gaps::decode(self.metadata.as_bytes(), self.offset).unwrap_or(None)
    }

    /// What the text says of messages; `None` where that is nothing.
    fn known(&self) -> Option<Gaps> {
        of_messages(self.gaps()?)
    }
}

/// Returns what is known of messages, whatever the topic and the epoch; `None` where that is
/// nothing.
fn of_messages(gaps: Gaps) -> Option<Gaps> {
    let gaps = gaps.with_topic_id(None).with_leader_epoch(None);
    Some(gaps).filter(|gaps| !gaps.is_empty())
}

/// Whether the offset at which a partition begins is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartCommit {
    /// The group has it.
    Made,
    /// It is to be committed before anything of the partition is handled.
    Due,
    /// The group has none, and begins there without one too.
    Needless,
}

impl Partition {
    /// What may be committed now. Absent before the first message.
    pub(crate) fn commit_point(&self) -> Option<CommitPoint> {
        let offsets = self.offsets.lock();
        let offset = offsets.committable()?;
        let gaps = offsets.gaps(offset);
        drop(offsets);
        Some(self.point(gaps))
    }

    /// Returns the commit of this offset, of which nothing more is known.
    pub(crate) fn point_at(&self, offset: i64) -> CommitPoint {
        self.point(Gaps::new(offset, offset, [], []))
    }

    /// Returns what may be committed once a message in flight is settled too, as happens
    /// in InOrder mode. `None` if an earlier message is unsettled, or if the message is
    /// not in flight.
    pub(crate) fn commit_point_behind(&self, message: i64) -> Option<CommitPoint> {
        let offsets = self.offsets.lock();
        let offset = offsets.committable_behind(message)?;
        let gaps = if offsets.knows_more() {
            offsets.gaps(offset)
        } else {
            Gaps::new(offset, offset, [], [])
        };
        drop(offsets);
        Some(self.point(gaps))
    }

    /// Returns what is still to be done of a log that was truncated to `end`: from where on
    /// messages come again, and what is known beyond. `None` if nothing below is open.
    /// What transactions have not committed has no records yet, so there it is open.
    pub(crate) fn left_before(&self, end: i64, strategy: Strategy) -> Option<Gaps> {
        let committed = match strategy {
            Strategy::Transaction => self.committed.lock().clone(),
            _ => None,
        };
        let point = committed.or_else(|| self.commit_point())?;
        let nothing = || Gaps::new(point.offset, point.offset, [], []);
        let gaps = self.believed(&point).unwrap_or_else(nothing);
        (point.offset < end).then(|| gaps.until(end))
    }

    fn point(&self, gaps: Gaps) -> CommitPoint {
        let gaps = gaps.with_topic_id(self.topic_id().map(|id| id.0));
        let limit = self.metadata_limit.load(Ordering::Relaxed);
        let known = || {
            let committed = self.committed.lock();
            committed.as_ref().and_then(|point| self.believed(point))
        };
        CommitPoint {
            offset: gaps.base(),
            metadata: gaps.encode_after(limit, known),
        }
    }

    /// Returns what a committed text says of the log that is read here.
    fn believed(&self, point: &CommitPoint) -> Option<Gaps> {
        let gaps = point.gaps()?;
        let departure = *self.departure.lock();
        Some(match departure {
            Some(departure) => departure.keep(gaps),
            None => gaps,
        })
    }

    /// What may be committed and is more than the brokers have. While a commit is on its way,
    /// what they have is about to be another.
    pub(crate) fn uncommitted(&self) -> Option<CommitPoint> {
        let point = self.commit_point()?;
        let committed = self.committed.lock();
        let is_news = committed.as_ref().is_none_or(|known| {
            point.offset > known.offset
                || (point.offset == known.offset
                    && (self.is_committing() || self.says_more(&point, known)))
        });
        let is_beyond_sent = point.offset >= self.sent.load(Ordering::Relaxed);
        (is_news && is_beyond_sent).then_some(point)
    }

    /// Returns `true` if the brokers are to know the text of a point, of which they have the
    /// offset.
    fn says_more(&self, point: &CommitPoint, known: &CommitPoint) -> bool {
        if point.metadata == known.metadata {
            return false;
        }
        let id = |point: &CommitPoint| point.gaps().and_then(|gaps| gaps.topic_id());
        let is_needed = !self.is_begun_without.load(Ordering::Relaxed);
        let names_topic = is_needed && id(point).is_some() && id(point) != id(known);
        names_topic || point.known() != self.believed(known).and_then(of_messages)
    }

    /// Whether the pump has something to commit by itself. Where others commit messages,
    /// it has only what they do not say: attempts in order, a position that was reached
    /// without a message, and which topic the committed offset is of.
    pub(crate) fn needs_commit(&self, strategy: Strategy) -> bool {
        let concerned = match strategy {
            Strategy::Read => self.offsets.lock().is_at_reached(),
            Strategy::Handled | Strategy::Transaction => true,
            Strategy::EachMessage => {
                let committed = self.committed.lock();
                let told = committed.as_ref().is_some_and(|it| it.known().is_some());
                let at = committed.as_ref().map(|it| it.offset);
                drop(committed);
                let offsets = self.offsets.lock();
                let stands = at.is_some() && offsets.committable() == at;
                told || stands
                    || self.is_committing()
                    || offsets.knows_more()
                    || offsets.is_at_reached()
            }
        };
        concerned && self.uncommitted().is_some()
    }

    /// Notes what the brokers have committed.
    pub(crate) fn committed(&self, point: CommitPoint) {
        self.metrics.committed.set(point.offset);
        *self.committed.lock() = Some(point);
        self.is_begun_without.store(false, Ordering::Relaxed);
    }

    /// Notes that a commit is sent. One is sent after the other, so that none overtakes
    /// another; and what follows is no lower, for the brokers may have applied this one
    /// even if its answer is lost.
    pub(crate) fn commit_sent(&self, offset: i64) {
        self.sent.fetch_max(offset, Ordering::Relaxed);
        self.committing.store(true, Ordering::Relaxed);
    }

    /// Notes that a commit is answered, or will not be.
    pub(crate) fn commit_ended(&self) {
        self.committing.store(false, Ordering::Relaxed);
    }

    /// Whether a commit is with the brokers.
    pub(crate) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Relaxed)
    }

    /// Notes that the brokers found metadata of this length too long. What they have taken
    /// has room, unless it was as long: it names messages whose records may be committed.
    pub(crate) fn shorten_metadata(&self, refused: usize) {
        let committed = self.committed.lock();
        let taken = committed.as_ref().map_or(0, |point| point.metadata.len());
        let has_room = if taken < refused { taken } else { 0 };
        let limit = self.metadata_limit.load(Ordering::Relaxed);
        let limit = limit.min((refused / 2).max(has_room));
        self.metadata_limit.store(limit, Ordering::Relaxed);
        tracing::warn!(
            topic = self.topic,
            partition = self.number,
            limit,
            "the brokers refuse commit metadata of this length, and the runtime shortens it; raise offset.metadata.max.bytes of the brokers to its default"
        );
    }

    /// Where a successor would begin, as far as is known: the offset committed
    /// last, or where this assignment began.
    pub(crate) fn position(&self) -> Option<i64> {
        let committed = self.committed.lock().as_ref().map(|point| point.offset);
        committed.or_else(|| self.committable())
    }
}

// One range is what is meant.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use std::iter::once;
    use std::sync::Arc;

    use super::*;
    use crate::metrics::Metrics;
    use crate::partition::Partition;

    /// What an earlier owner committed speaks of messages that are gone: none of it counts
    /// as known to the brokers, though the texts differ by nothing but the epoch.
    #[test]
    fn what_is_settled_behind_a_departure_is_committed_again() {
        let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
        let known = Gaps::new(5, 9, [5..6], []).with_leader_epoch(Some(3));
        let partition = Partition::new("orders", 0, 1, &metrics, Arc::default(), None);
        let partition = partition.resume(known.clone());
        assert_eq!(partition.begin_at(5, Some(2), StartCommit::Made), None);
        assert_eq!(partition.note_epoch(5, Some(3)), None);
        let departure = partition.note_epoch(6, Some(4)).unwrap();
        assert_eq!((departure.offset, departure.unsettled), (6, 0));
        let mut failed = [0; 4];
        let messages = (5..9).zip(&mut failed);
        let handled = partition.deliver(messages.map(|(offset, failed)| (offset, None, failed)));
        assert!(handled.is_empty(), "{handled:?}");
        // Of a log that is truncated once more, nothing of the first is left.
        let left = partition.left_before(8, Strategy::Transaction).unwrap();
        assert_eq!(left, Gaps::new(5, 5, [], []));
        partition.settle(once(6..9));
        let point = partition.uncommitted().unwrap();
        let expected = known.with_leader_epoch(Some(4));
        assert_eq!(point.gaps(), Some(expected));
        partition.committed(point);
        assert_eq!(partition.uncommitted(), None);
    }

    #[test]
    fn what_the_brokers_have_taken_has_room_after_a_refusal() {
        let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
        let partition = Partition::new("orders", 0, 1, &metrics, Arc::default(), None);
        let taken = CommitPoint {
            offset: 0,
            metadata: "x".repeat(26),
        };
        partition.committed(taken);
        let limit = || partition.metadata_limit.load(Ordering::Relaxed);
        // Several that were sent before the first answer.
        for _ in 0..3 {
            partition.shorten_metadata(60);
            assert_eq!(limit(), 30);
        }
        partition.shorten_metadata(30);
        assert_eq!(limit(), 26);
        partition.shorten_metadata(26);
        assert_eq!(limit(), 13);
    }

    #[test]
    fn where_the_client_reads_on_has_the_epoch_of_the_message_before() {
        let metrics = Metrics::new("", "kafka_consumer.test").unwrap();
        let partition = Partition::new("orders", 0, 1, &metrics, Arc::default(), None);
        partition.note_epoch(4, Some(3));
        partition.note_epoch(5, Some(7));
        for (offset, epoch) in [(6, Some(7)), (5, Some(3)), (4, None)] {
            assert_eq!(partition.start_at(Some(offset)).leader_epoch, epoch);
        }
        assert_eq!(partition.start_at(None).leader_epoch, None);
    }
}
