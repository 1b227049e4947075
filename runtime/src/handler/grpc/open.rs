//! Deliveries that were sent and wait for verdicts.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::handler::produce::Done;
use crate::handler::{FailureKind, HandlerError};
use penstock_handler::v1::Range;

/// The grace after the time by which a delivery had to begin, before the runtime withdraws it:
/// the report may be on its way.
pub(super) const REPORT_GRACE: Duration = Duration::from_secs(1);

/// The maximum number of calls that are remembered as possibly still running.
const MAX_UNRETURNED: usize = 1000;

/// The handler's verdict on a delivery.
pub(super) type Verdict = Result<Done, HandlerError>;

/// The time limits of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For an attempt, from its beginning.
    pub(super) timeout: Duration,
    /// For an attempt with all its extensions.
    pub(super) max_timeout: Duration,
    /// For the wait in the handler before it begins.
    pub(super) wait: Duration,
}

/// The fate of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// The handler sent a verdict.
    Verdict(Verdict),
    /// The delivery began, and took too long.
    TimedOut,
    /// The handler ended the stream, or the delivery must not begin: it comes again as the same
    /// attempt.
    Returned(Arc<str>),
    /// The delivery did not begin in time: it comes again as the same attempt.
    NotBegun(Arc<str>),
    /// The delivery did not begin in time, and the handler has sent nothing since it was sent.
    Silent(Arc<str>),
    /// The stream broke, and no other delivery can have begun.
    Broke(Arc<str>),
    /// The stream broke, and this one had begun, as others may have.
    Suspect(Arc<str>),
    /// The stream broke, and this one had not begun, as far as the handler has reported.
    Bystander(Arc<str>),
}

impl Fate {
    /// Returns `true` if the handler had the delivery, and did not begin it.
    pub(super) fn is_unbegun(&self) -> bool {
        match self {
            Self::NotBegun(_) | Self::Silent(_) => true,
            Self::Verdict(verdict) => is_unbegun(verdict),
            _ => false,
        }
    }
}

/// Returns `true` if a verdict releases the delivery unbegun.
pub(super) fn is_unbegun(verdict: &Verdict) -> bool {
    matches!(verdict, Err(error) if error.kind() == FailureKind::NotAttempted)
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The handler ended the stream with status OK.
    InOrder,
    /// The stream broke.
    Broken(String),
}

/// The time at which a delivery began, and its deadline.
#[derive(Clone, Copy, Debug)]
struct Begun {
    since: Instant,
    until: Instant,
}

/// The overdue deliveries of a chunk, by their indices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    pub(super) timed_out: Vec<usize>,
    pub(super) not_begun: Vec<usize>,
}

/// All deliveries of a stream that wait for verdicts, as the chunks they were sent in.
pub(super) struct OpenChunks {
    limits: Limits,
    /// By the number of the first delivery of each.
    chunks: BTreeMap<u64, Chunk>,
    /// The deadlines of deliveries that were withdrawn while they ran: until then their calls
    /// may still run.
    withdrawn: Vec<Instant>,
    /// Deliveries that were withdrawn while they ran and have had no verdict since: their calls
    /// may not have returned. At most [`MAX_UNRETURNED`].
    unreturned: BTreeSet<u64>,
    has_ended: bool,
}

struct Chunk {
    fates: Vec<Option<Fate>>,
    /// Deliveries without a fate.
    open: usize,
    /// By delivery; empty before the first begins.
    begun: Vec<Option<Begun>>,
    begin_by: Instant,
    done: oneshot::Sender<Vec<Fate>>,
}

impl OpenChunks {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            chunks: BTreeMap::new(),
            withdrawn: Vec::new(),
            unreturned: BTreeSet::new(),
            has_ended: false,
        }
    }

    /// Adds deliveries that are about to be sent. With `has_begun`, they begin now. Returns
    /// `None` after the end of the stream.
    pub(super) fn add(
        &mut self,
        first_id: u64,
        count: usize,
        has_begun: bool,
        now: Instant,
    ) -> Option<oneshot::Receiver<Vec<Fate>>> {
        if self.has_ended {
            return None;
        }
        let (done, outcome) = oneshot::channel();
        let begun = self.begins(now);
        let chunk = Chunk {
            fates: vec![None; count],
            open: count,
            begun: if has_begun {
                vec![Some(begun); count]
            } else {
                Vec::new()
            },
            begin_by: now + self.limits.wait + REPORT_GRACE,
            done,
        };
        self.chunks.insert(first_id, chunk);
        Some(outcome)
    }

    fn begins(&self, now: Instant) -> Begun {
        Begun {
            since: now,
            until: now + self.limits.timeout,
        }
    }

    /// Notes that deliveries begin now. The first report on each counts.
    pub(super) fn begin(&mut self, range: &Range, now: Instant) {
        let begins = self.begins(now);
        self.each(range.first_id, range.count, |chunk, indices| {
            chunk.begun.resize(chunk.fates.len(), None);
            for begun in &mut chunk.begun[indices] {
                begun.get_or_insert(begins);
            }
        });
    }

    /// Gives deliveries that have begun more time from now on.
    pub(super) fn extend(&mut self, range: &Range, time: Duration, now: Instant) {
        let max = self.limits.max_timeout;
        // Longer than any attempt may take, without an overflow.
        let until = now + time.min(max);
        self.each(range.first_id, range.count, |chunk, indices| {
            let begun = chunk.begun.get_mut(indices).unwrap_or_default();
            for begun in begun.iter_mut().flatten() {
                if now <= begun.until {
                    begun.until = until.min(begun.since + max).max(begun.until);
                }
            }
        });
    }

    /// Takes a verdict on `count` deliveries from `first_id` on. It is ignored for deliveries
    /// without a waiting worker, for deliveries whose time is over, and for those that have a
    /// verdict.
    pub(super) fn settle(&mut self, first_id: u64, count: u64, verdict: &Verdict, now: Instant) {
        if !self.unreturned.is_empty() {
            let range = first_id..first_id.saturating_add(count);
            self.unreturned.retain(|id| !range.contains(id));
        }
        let mut done = Vec::new();
        self.each_with_id(first_id, count, |first, chunk, indices| {
            for index in indices {
                let begun = chunk.begun.get(index).copied().flatten();
                let is_late = begun.is_some_and(|begun| now > begun.until);
                if chunk.fates[index].is_none() && !is_late {
                    let verdict = match begun {
                        Some(_) => of_begun(verdict),
                        None => verdict.clone(),
                    };
                    chunk.fates[index] = Some(Fate::Verdict(verdict));
                    chunk.open -= 1;
                }
            }
            if chunk.open == 0 {
                done.push(first);
            }
        });
        for first in done {
            self.close(first);
        }
    }

    /// Returns the time at which the next delivery of a chunk may be overdue, if the chunk is
    /// still open. A delivery that begins after now has its whole time, and is not considered.
    pub(super) fn next_deadline(&self, first_id: u64, now: Instant) -> Option<Instant> {
        let chunk = self.chunks.get(&first_id)?;
        let deadlines = chunk.open().map(|index| chunk.deadline(index));
        Some(deadlines.min()?.min(now + self.limits.timeout))
    }

    /// Returns the deliveries of a chunk that are overdue now.
    pub(super) fn overdue(&self, first_id: u64, now: Instant) -> Overdue {
        let mut overdue = Overdue::default();
        let Some(chunk) = self.chunks.get(&first_id) else {
            return overdue;
        };
        for index in chunk.open().filter(|index| chunk.deadline(*index) <= now) {
            match chunk.has_begun(index) {
                true => overdue.timed_out.push(index),
                false => overdue.not_begun.push(index),
            }
        }
        overdue
    }

    /// Ends deliveries of a chunk, by their indices, that have no fate yet. Returns their
    /// numbers.
    pub(super) fn withdraw(
        &mut self,
        first_id: u64,
        indices: &[usize],
        fate: &Fate,
        now: Instant,
    ) -> Vec<Range> {
        let mut ranges = Vec::new();
        let Some(chunk) = self.chunks.get_mut(&first_id) else {
            return ranges;
        };
        for &index in indices {
            if chunk.fates[index].is_none() {
                if chunk.has_begun(index) {
                    self.withdrawn.push(now + self.limits.timeout);
                    if self.unreturned.len() < MAX_UNRETURNED {
                        self.unreturned.insert(first_id + index as u64);
                    }
                }
                chunk.fates[index] = Some(fate.clone());
                chunk.open -= 1;
                add_to(&mut ranges, first_id + index as u64);
            }
        }
        if chunk.open == 0 {
            self.close(first_id);
        }
        ranges
    }

    /// Returns `true` if a call that was withdrawn while it ran may not have returned.
    pub(super) fn has_unreturned(&self) -> bool {
        !self.unreturned.is_empty()
    }

    /// Removes a chunk without a waiting worker. Returns the numbers of the deliveries without
    /// a fate, or `None` if the chunk is closed.
    pub(super) fn remove(&mut self, first_id: u64, now: Instant) -> Option<Vec<Range>> {
        self.withdrawn.retain(|until| *until > now);
        let chunk = self.chunks.remove(&first_id)?;
        let mut ranges = Vec::new();
        for index in chunk.open() {
            let begun = chunk.begun.get(index).copied().flatten();
            self.withdrawn.extend(begun.map(|begun| begun.until));
            add_to(&mut ranges, first_id + index as u64);
        }
        Some(ranges)
    }

    /// Ends the stream: no chunk waits any longer, and none is added. Returns the time until
    /// which calls of a broken stream may still run.
    pub(super) fn end(&mut self, ended: &Ended, now: Instant) -> Option<Instant> {
        self.has_ended = true;
        self.withdrawn.retain(|until| *until > now);
        let chunks = self.chunks.values();
        let begun = chunks.flat_map(|chunk| chunk.open().filter_map(|index| chunk.begun(index)));
        let begun: Vec<_> = begun.map(|begun| begun.until).collect();
        let suspects = begun.len() + self.withdrawn.len();
        let chunks = self.chunks.values();
        let open = self.withdrawn.len() + chunks.map(|chunk| chunk.open).sum::<usize>();
        let is_explained = !self.withdrawn.is_empty();
        let until = begun.into_iter().chain(self.withdrawn.drain(..)).max();
        let mut fates = Fates::of(ended, suspects == 1 && open == 1);
        if let (true, Fate::Bystander(why)) = (is_explained, &fates.others) {
            // The handler may have died of a call that was withdrawn from it.
            fates.others = Fate::Returned(Arc::clone(why));
        }
        for chunk in self.chunks.values_mut() {
            for index in 0..chunk.fates.len() {
                if chunk.fates[index].is_none() {
                    let fate = if chunk.has_begun(index) {
                        &fates.begun
                    } else {
                        &fates.others
                    };
                    chunk.fates[index] = Some(fate.clone());
                }
            }
        }
        while let Some((first, _)) = self.chunks.first_key_value() {
            self.close(*first);
        }
        until.filter(|_| *ended != Ended::InOrder)
    }

    fn close(&mut self, first: u64) {
        if let Some(chunk) = self.chunks.remove(&first) {
            let fates = chunk.fates.into_iter().flatten().collect();
            // The worker that sent it may have left.
            let _ = chunk.done.send(fates);
        }
    }

    fn each(
        &mut self,
        first_id: u64,
        count: u64,
        mut visit: impl FnMut(&mut Chunk, ops::Range<usize>),
    ) {
        self.each_with_id(first_id, count, |_, chunk, indices| visit(chunk, indices));
    }

    /// Visits the chunks of a range of deliveries, with the indices of these.
    fn each_with_id(
        &mut self,
        first_id: u64,
        count: u64,
        mut visit: impl FnMut(u64, &mut Chunk, ops::Range<usize>),
    ) {
        let end = first_id.saturating_add(count);
        let before = self.chunks.range(..=first_id).next_back();
        let from = before.map_or(first_id, |(first, _)| *first);
        if from >= end {
            return;
        }
        for (&first, chunk) in self.chunks.range_mut(from..end) {
            let length = chunk.fates.len() as u64;
            let begin = first_id.saturating_sub(first).min(length) as usize;
            let end = (end - first).min(length) as usize;
            visit(first, chunk, begin..end);
        }
    }
}

impl Chunk {
    /// Returns the indices of the deliveries without a fate.
    fn open(&self) -> impl Iterator<Item = usize> {
        let open = |(index, fate): (usize, &Option<Fate>)| fate.is_none().then_some(index);
        self.fates.iter().enumerate().filter_map(open)
    }

    fn begun(&self, index: usize) -> Option<Begun> {
        self.begun.get(index).copied().flatten()
    }

    fn has_begun(&self, index: usize) -> bool {
        self.begun(index).is_some()
    }

    fn deadline(&self, index: usize) -> Instant {
        self.begun(index).map_or(self.begin_by, |begun| begun.until)
    }
}

/// The fates of deliveries without a verdict when a stream ends.
struct Fates {
    begun: Fate,
    others: Fate,
}

impl Fates {
    /// `is_alone` is `true` if there was one delivery, which had begun. A report may be lost
    /// with the process, so any other delivery could have begun too.
    fn of(ended: &Ended, is_alone: bool) -> Self {
        let why: Arc<str> = match ended {
            Ended::InOrder => "the handler ended the stream before the message began".into(),
            Ended::Broken(why) => format!("the stream to the handler broke: {why}").into(),
        };
        let (begun, others) = match ended {
            Ended::InOrder => (Fate::Returned(Arc::clone(&why)), Fate::Returned(why)),
            Ended::Broken(_) if is_alone => (Fate::Broke(Arc::clone(&why)), Fate::Bystander(why)),
            Ended::Broken(_) => (Fate::Suspect(Arc::clone(&why)), Fate::Bystander(why)),
        };
        Self { begun, others }
    }
}

/// Returns the verdict on a delivery that has begun, which cannot be released any more.
fn of_begun(verdict: &Verdict) -> Verdict {
    match verdict {
        Err(error) if error.kind() == FailureKind::NotAttempted => Err(HandlerError::retryable(
            format_args!("the handler released a message that it had begun: {error}"),
        )),
        verdict => verdict.clone(),
    }
}

/// Adds a number to ranges in rising order.
fn add_to(ranges: &mut Vec<Range>, id: u64) {
    match ranges.last_mut() {
        Some(range) if range.first_id + range.count == id => range.count += 1,
        _ => ranges.push(Range {
            first_id: id,
            count: 1,
        }),
    }
}
