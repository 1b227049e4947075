//! The lanes of a queue: items that leave them, follow others, or come back.

use super::{Queued, WorkQueue};
use crate::queue::lane::Lane;

impl<T: Queued> WorkQueue<T> {
    /// Returns the number of items that are held or deferred, their bytes, and the number of
    /// items so far that were held and continued.
    pub(crate) fn held(&self) -> (usize, usize, u64) {
        let state = self.state.lock();
        let (items, bytes) = state.lanes.load();
        (items, bytes, state.lanes.let_go())
    }

    /// Adds to taken items those that are held behind them, until there are `most` or the share
    /// is used up: one of each lane, then another of each, and so on. Only for callers that
    /// keep the order of items that are taken together. Returns `true` if more would fit.
    pub(crate) fn take_behind(&self, most: usize, taken: &mut Vec<T>) -> bool {
        let mut room = self.share.room(taken);
        let mut state = self.state.lock();
        let mut place = 0;
        while place < taken.len()
            && taken.len() < most
            && !room.is_used_up()
            && state.lanes.load().0 > 0
        {
            let lane = taken[place].lane();
            let next = lane.and_then(|lane| state.lanes.follow(lane, |next| room.takes(next)));
            taken.extend(next);
            place += 1;
        }
        self.tell_pump(&mut state);
        taken.len() < most && !room.is_used_up()
    }

    /// Releases taken items of these lanes that need no more work: the next item of each lane
    /// may be taken. No handler is woken, as the caller will take another item.
    pub(crate) fn leave(&self, lanes: impl IntoIterator<Item = Lane>) {
        let mut lanes = lanes.into_iter().peekable();
        if lanes.peek().is_none() {
            return;
        }
        let mut state = self.state.lock();
        for lane in lanes {
            let next = state.lanes.leave(lane);
            state.add(next);
        }
    }

    /// Releases an item as [`Self::leave`] does, if it comes again elsewhere. Later items that
    /// `may` rejects must not take its place, and are removed and returned.
    pub(crate) fn forsake(&self, lane: Lane, may: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let mut removed = Vec::new();
        while let Some(next) = state.lanes.leave(lane) {
            if may(&next) {
                state.add(Some(next));
                break;
            }
            removed.push(next);
        }
        removed
    }

    /// Takes back items that followed others, which must not have left yet: they are held
    /// behind these again, in their order. Items that `may` rejects are returned, as by
    /// [`Self::defer`], and have left.
    pub(crate) fn take_back(&self, items: Vec<T>, may: impl Fn(&T) -> bool) -> Vec<T> {
        if items.is_empty() {
            return items;
        }
        let mut state = self.state.lock();
        let mut refused = Vec::new();
        for item in items.into_iter().rev() {
            let left = match may(&item) && !state.closed {
                true => state.lanes.take_back(item),
                false => Some(item),
            };
            if let Some(item) = left {
                let next = item.lane().and_then(|lane| state.lanes.leave(lane));
                state.add(next);
                refused.push(item);
            }
        }
        refused
    }
}
