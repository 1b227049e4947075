//! Lanes: items of one lane leave in their order, and never two concurrently, except for items
//! that a caller takes together and keeps in order.
//!
//! A lane exists only while one of its items is ready, with a handler, or waiting for another
//! attempt. Later items are held behind it. So the items bound the memory, regardless of the
//! number of lanes so far.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use tokio::time::Instant;

use crate::queue::Queued;

/// The identity of a lane. Two keys may share one, if rarely: then they are in order too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane(u64);

/// Finds the lane of each key of each partition. Another finder returns other lanes.
#[derive(Default)]
pub(crate) struct LaneFinder(RandomState);

impl LaneFinder {
    /// Returns the lane of a key. The same key in two assignments of a partition has the same
    /// lane: remaining items of the earlier one go first.
    pub(crate) fn find(&self, topic: &str, partition: i32, key: &[u8]) -> Lane {
        Lane(self.0.hash_one((topic, partition, key)))
    }
}

/// A lane in use.
struct Busy<T> {
    /// The number of items that have entered and not left: one, or several that were taken
    /// together.
    out: usize,
    /// The items that are held behind them.
    behind: VecDeque<T>,
}

/// The lanes in use.
pub(crate) struct Lanes<T> {
    busy: HashMap<Lane, Busy<T>, RandomState>,
    /// Items that wait for another attempt, by due time and order of arrival. Their lanes are
    /// busy.
    deferred: BTreeMap<(Instant, u64), T>,
    deferrals: u64,
    held: usize,
    bytes: usize,
    /// The number of items that were held and are no longer.
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
    /// Returns the item if its lane is free, and occupies the lane; otherwise holds it.
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

    /// Notes that an item has left. Returns the next item of its lane, if it was the last one
    /// out.
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

    /// Takes the next item of a busy lane, to follow those that are out, if it `may`.
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

    /// Holds an item that followed another behind that one again, before all held items.
    /// Returns it if it is alone.
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

    /// Takes an item that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<T> {
        let first = self.deferred.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let item = first.remove();
        self.bytes -= item.weight();
        Some(item)
    }

    /// Returns the time at which the next item is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.deferred.keys().next().map(|(due, _)| *due)
    }

    /// Removes the items that `keep` rejects, in no order. The second part of the result are
    /// the items that may take their place.
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

    /// Returns the number of items so far that were held and continued.
    pub(crate) fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Returns the number of items that are held or deferred, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.held + self.deferred.len(), self.bytes)
    }
}
