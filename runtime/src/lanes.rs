//! Lanes: items of one lane leave in their order, and never two at once, but for those
//! that are taken together by who keeps their order.
//!
//! A lane exists only while one of its items is on its way: ready, with a handler,
//! or waiting for another attempt. What comes meanwhile is held behind it. So the
//! memory is bounded by the items, however many lanes there have been.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use tokio::time::Instant;

use crate::queue::Queued;

/// Names a lane. Two keys may share one, if rarely: they are then in order too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane(u64);

/// Gives each key of each partition its lane. What it gives is its own: another
/// one gives other lanes.
#[derive(Default)]
pub(crate) struct LaneFinder(RandomState);

impl LaneFinder {
    /// The lane of a key. The same key in two assignments of a partition has the
    /// same lane: what is left of the earlier one goes first.
    pub(crate) fn find(&self, topic: &str, partition: i32, key: &[u8]) -> Lane {
        Lane(self.0.hash_one((topic, partition, key)))
    }
}

/// A lane in use.
struct Busy<T> {
    /// Items on their way: one, or several that were taken together.
    out: usize,
    /// What is held behind them.
    behind: VecDeque<T>,
}

/// The lanes in use.
pub(crate) struct Lanes<T> {
    busy: HashMap<Lane, Busy<T>, RandomState>,
    /// Items that wait for another attempt, by when they are due and in which order
    /// they came. Their lanes are busy.
    deferred: BTreeMap<(Instant, u64), T>,
    deferrals: u64,
    held: usize,
    bytes: usize,
    /// Items that were held and are no longer.
    let_go: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            busy: HashMap::default(),
            deferred: BTreeMap::new(),
            deferrals: 0,
            held: 0,
            bytes: 0,
            let_go: 0,
        }
    }
}

impl<T: Queued> Lanes<T> {
    /// The item, if its lane is free, which it then takes; if not, it is held.
    pub(crate) fn enter(&mut self, item: T) -> Option<T> {
        let Some(lane) = item.lane() else {
            return Some(item);
        };
        match self.busy.get_mut(&lane) {
            Some(busy) => {
                item.hold(true);
                self.held += 1;
                self.bytes += item.weight();
                busy.behind.push_back(item);
                None
            }
            None => {
                let behind = VecDeque::new();
                self.busy.insert(lane, Busy { out: 1, behind });
                Some(item)
            }
        }
    }

    /// Lets an item that was on its way go; the next of its lane, if it was the last.
    pub(crate) fn leave(&mut self, lane: Lane) -> Option<T> {
        let busy = self.busy.get_mut(&lane)?;
        busy.out -= 1;
        if busy.out > 0 {
            return None;
        }
        let next = self.follow(lane, |_| true);
        if next.is_none() {
            self.busy.remove(&lane);
        }
        next
    }

    /// The item behind those that are on their way, to go along with them if it `may`.
    pub(crate) fn follow(&mut self, lane: Lane, may: impl FnOnce(&T) -> bool) -> Option<T> {
        let busy = self.busy.get_mut(&lane)?;
        let next = busy.behind.pop_front_if(|next| may(next))?;
        busy.out += 1;
        next.hold(false);
        self.let_go += 1;
        self.held -= 1;
        self.bytes -= next.weight();
        Some(next)
    }

    /// Holds an item that followed another behind that again, before all others that
    /// are held. Given back if it is alone.
    pub(crate) fn take_back(&mut self, item: T) -> Option<T> {
        let busy = item.lane().and_then(|lane| self.busy.get_mut(&lane));
        let Some(busy) = busy.filter(|busy| busy.out > 1) else {
            return Some(item);
        };
        busy.out -= 1;
        item.hold(true);
        self.held += 1;
        self.bytes += item.weight();
        busy.behind.push_front(item);
        None
    }

    /// Keeps an item, and its lane, until it is due.
    pub(crate) fn defer(&mut self, item: T, due: Instant) {
        self.deferrals += 1;
        self.bytes += item.weight();
        self.deferred.insert((due, self.deferrals), item);
    }

    /// An item that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<T> {
        let first = self.deferred.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let item = first.remove();
        self.bytes -= item.weight();
        Some(item)
    }

    /// When the next item is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.deferred.keys().next().map(|(due, _)| *due)
    }

    /// Takes out what `keep` does not want, in no order; what may go in the place of
    /// those comes second.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> (Vec<T>, Vec<T>) {
        let mut removed = Vec::new();
        for Busy { behind, .. } in self.busy.values_mut() {
            let before = behind.len();
            for item in std::mem::take(behind) {
                match keep(&item) {
                    true => behind.push_back(item),
                    false => removed.push(item),
                }
            }
            self.held -= before - behind.len();
        }
        for item in &removed {
            item.hold(false);
            self.bytes -= item.weight();
        }
        let due: Vec<_> = self
            .deferred
            .extract_if(.., |_, item| !keep(item))
            .map(|(_, item)| item)
            .collect();
        let mut next = Vec::new();
        for item in due {
            self.bytes -= item.weight();
            next.extend(item.lane().and_then(|lane| self.leave(lane)));
            removed.push(item);
        }
        (removed, next)
    }

    /// Number of items so far that were held and went on.
    pub(crate) fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Number of items that are held or deferred, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.held + self.deferred.len(), self.bytes)
    }
}
