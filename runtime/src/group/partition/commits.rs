//! The offset of a partition that may be committed, and the offset that the brokers have.

use std::sync::atomic::Ordering;

use super::Partition;
use crate::commit::strategy::Strategy;
use crate::offsets::gaps::Gaps;

/// The content of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitPoint {
    /// All messages before it are settled.
    pub(crate) offset: i64,
    /// The state beyond the offset, as text; may be empty. See [`Gaps`].
    pub(crate) metadata: String,
}

impl CommitPoint {
    /// Returns the content of the text, or `None` if it is empty.
    pub(super) fn gaps(&self) -> Option<Gaps> {
        Gaps::decode(self.metadata.as_bytes(), self.offset).unwrap_or(None)
    }

    /// Returns the state of messages in the text, or `None` if there is none.
    fn known(&self) -> Option<Gaps> {
        of_messages(self.gaps()?)
    }
}

/// Returns the state of messages without the topic and the epoch, or `None` if there is none.
fn of_messages(gaps: Gaps) -> Option<Gaps> {
    let gaps = gaps.with_topic_id(None).with_leader_epoch(None);
    Some(gaps).filter(|gaps| !gaps.is_empty())
}

/// The commit of the offset at which a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartCommit {
    /// The offset is committed.
    Made,
    /// The offset must be committed before a message of the partition is handled.
    Due,
    /// The group has no offset, and begins there without one too.
    Needless,
}

impl Partition {
    /// Returns the point that may be committed now, or `None` before the first message.
    pub(crate) fn commit_point(&self) -> Option<CommitPoint> {
        let offsets = self.offsets.lock();
        let offset = offsets.committable()?;
        let gaps = offsets.gaps(offset);
        drop(offsets);
        Some(self.point(gaps))
    }

    /// Returns the commit of this offset, without further state.
    pub(crate) fn point_at(&self, offset: i64) -> CommitPoint {
        self.point(Gaps::new(offset, offset, [], []))
    }

    /// Returns the point that may be committed once a message in flight is settled too, as in
    /// InOrder mode. Returns `None` if an earlier message is unsettled, or if the message is
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

    /// Returns the remaining work of a log that was truncated to `end`: the offset from which
    /// messages come again, and the state beyond. Returns `None` if no message below is open.
    /// Messages that transactions have not committed have no records yet, so they are open.
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

    /// Returns the part of a committed text that is valid for the current log.
    fn believed(&self, point: &CommitPoint) -> Option<Gaps> {
        let gaps = point.gaps()?;
        let departure = *self.departure.lock();
        Some(match departure {
            Some(departure) => departure.keep(gaps),
            None => gaps,
        })
    }

    /// Returns the point that may be committed, if it is more than the brokers have. While a
    /// commit is sent, the brokers' state is about to change.
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

    /// Returns `true` if the brokers need the text of a point whose offset they have.
    fn says_more(&self, point: &CommitPoint, known: &CommitPoint) -> bool {
        if point.metadata == known.metadata {
            return false;
        }
        let id = |point: &CommitPoint| point.gaps().and_then(|gaps| gaps.topic_id());
        let is_needed = !self.is_begun_without.load(Ordering::Relaxed);
        let names_topic = is_needed && id(point).is_some() && id(point) != id(known);
        names_topic || point.known() != self.believed(known).and_then(of_messages)
    }

    /// Returns `true` if the pump must commit by itself. If others commit messages, it only
    /// commits the rest: attempts in InOrder mode, a position that was reached without a
    /// message, and the id of the topic to which the committed offset belongs.
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

    /// Notes a point that the brokers have committed.
    pub(crate) fn committed(&self, point: CommitPoint) {
        self.metrics.committed.set(point.offset);
        *self.committed.lock() = Some(point);
        self.is_begun_without.store(false, Ordering::Relaxed);
    }

    /// Notes that a commit is sent. Commits are sent one after the other, so that none
    /// overtakes another; and a later one is never lower, because the brokers may have applied
    /// this one even if its answer is lost.
    pub(crate) fn commit_sent(&self, offset: i64) {
        self.sent.fetch_max(offset, Ordering::Relaxed);
        self.committing.store(true, Ordering::Relaxed);
    }

    /// Notes that a commit is answered, or will have no answer.
    pub(crate) fn commit_ended(&self) {
        self.committing.store(false, Ordering::Relaxed);
    }

    /// Returns `true` while a commit is sent and not answered.
    pub(crate) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Relaxed)
    }

    /// Notes that the brokers refused metadata of this length as too long. Metadata that they
    /// accepted must still fit, unless it was as long: it names messages whose records may be
    /// committed.
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

    /// Returns the position at which the next owner would begin, as far as known: the last
    /// committed offset, or the start of this assignment.
    pub(crate) fn position(&self) -> Option<i64> {
        let committed = self.committed.lock().as_ref().map(|point| point.offset);
        committed.or_else(|| self.committable())
    }
}

// One range is intended.
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use std::iter::once;
    use std::sync::Arc;

    use super::*;
    use crate::group::partition::Partition;
    use crate::observe::metrics::Metrics;

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
