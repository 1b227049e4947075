//! The bounded queue between the pump and the handlers. It is first in, first out, except for
//! items of a lane, which wait until the one before them has left the lane.
//!
//! The number of items is bounded, as in baseplate, and so are their bytes. The pump adds many
//! messages under one lock; a handler takes one, or several together. Adding wakes one handler,
//! and a handler that begins to wait, or is slow, wakes the next while messages remain. So a
//! handler that never waits does all the work with one wake-up for many messages, and other
//! handlers all start: one wake-up for each message would cost more than such a handler's work.

pub(crate) mod lane;
mod lanes;
pub(crate) mod share;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::queue::lane::{Lane, Lanes};
use crate::queue::share::Share;
use crate::sync::{Mutex, Notify};

/// An item of the queue.
pub(crate) trait Queued {
    /// Returns the bytes that the item holds in memory.
    fn weight(&self) -> usize;

    /// Returns the item's lane, in which it may neither overtake another item nor run
    /// concurrently; `None` if it has no order.
    fn lane(&self) -> Option<Lane>;

    /// Notes that the item is held behind another of its lane, or no longer.
    fn hold(&self, held: bool);
}

/// Returns the capacity of a queue for a number of handlers, as in baseplate: 1→1, 2→3, 5→7.
pub(crate) fn places_for(handlers: usize) -> usize {
    handlers + handlers / 2
}

/// The queue. Shared by reference; see the module for how it works.
pub(crate) struct WorkQueue<T> {
    state: Mutex<State<T>>,
    /// Wakes one waiting handler.
    items: Notify,
    /// Wakes the pump. It is the pump's notification for everything that it waits for.
    room: Arc<Notify>,
    places: usize,
    max_bytes: usize,
    share: Share,
}

struct State<T> {
    /// The items that a handler may take.
    items: VecDeque<T>,
    /// The bytes of these items.
    bytes: usize,
    lanes: Lanes<T>,
    closed: bool,
    /// The number of waiting handlers.
    idle: usize,
    /// Is `true` if a handler was woken and has not run yet.
    waking: bool,
    /// Is `true` if the pump found no room and waits for it.
    pump_waits: bool,
}

impl<T: Queued> WorkQueue<T> {
    /// Creates an empty queue. `room` is notified when a full queue has room again.
    pub(crate) fn new(places: usize, max_bytes: usize, room: Arc<Notify>) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::with_capacity(places),
                bytes: 0,
                lanes: Lanes::default(),
                closed: false,
                idle: 0,
                waking: false,
                pump_waits: false,
            }),
            items: Notify::new(),
            room,
            places,
            max_bytes,
            share: Share::ALL,
        }
    }

    /// Limits the items that are taken together.
    pub(crate) fn with_share(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Moves items from the front of `items` into the queue while there is room. One item
    /// always fits an empty queue, regardless of its size.
    pub(crate) fn put(&self, items: &mut VecDeque<T>) {
        let mut state = self.state.lock();
        let before = state.items.len();
        while let Some(item) = items.front() {
            let full = state.items.len() >= self.places
                || (!state.items.is_empty() && state.bytes + item.weight() > self.max_bytes);
            if full || state.closed {
                break;
            }
            if let Some(item) = items.pop_front() {
                let ready = state.lanes.enter(item);
                state.add(ready);
            }
        }
        state.pump_waits = !items.is_empty();
        if state.items.len() > before {
            self.wake_one(&mut state);
        }
    }

    /// Takes the oldest item, and waits for one. Returns `None` once the queue is closed and
    /// empty.
    pub(crate) async fn take(&self) -> Option<T> {
        self.take_with(|_, _| {}).await
    }

    /// Takes an item as [`Self::take`] does, and puts the next ones into `rest`, up to `most`
    /// in all and as long as all of them have no more than `bytes`.
    pub(crate) async fn take_together(
        &self,
        most: usize,
        bytes: usize,
        rest: &mut VecDeque<T>,
    ) -> Option<T> {
        self.take_with(|first, state| {
            let mut taken = first.weight();
            while rest.len() + 1 < most
                && let Some(item) = state.items.pop_front_if(|it| taken + it.weight() <= bytes)
            {
                taken += item.weight();
                state.bytes -= item.weight();
                rest.push_back(item);
            }
        })
        .await
    }

    /// Takes the oldest item, and calls `more` under the same lock.
    async fn take_with(&self, mut more: impl FnMut(&T, &mut State<T>)) -> Option<T> {
        loop {
            let _idle = {
                let mut state = self.state.lock();
                if let Some(item) = state.items.pop_front() {
                    state.bytes -= item.weight();
                    more(&item, &mut state);
                    self.tell_pump(&mut state);
                    return Some(item);
                }
                if state.closed {
                    return None;
                }
                state.idle += 1;
                self.tell_pump(&mut state);
                Idle { queue: self }
            };
            self.items.notified().await;
        }
    }

    /// Puts items without a lane back to the front, and wakes another handler if there is an
    /// item: the caller will not take it soon. Returns the items that `may` rejects: `retain`
    /// may have looked for them already.
    pub(crate) fn give_back(&self, items: &mut VecDeque<T>, may: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let mut refused = Vec::new();
        while let Some(item) = items.pop_back() {
            debug_assert!(item.lane().is_none(), "an item in hand has no lane");
            if may(&item) {
                state.bytes += item.weight();
                state.items.push_front(item);
            } else {
                refused.push(item);
            }
        }
        self.wake_one(&mut state);
        refused
    }

    /// Wakes another handler if there is an item. A handler that will not take it soon calls
    /// this.
    pub(crate) fn pass_on(&self) {
        self.wake_one(&mut self.state.lock());
    }

    /// Takes up to `most` more items without waiting, within the share. Returns `true` if more
    /// fit.
    pub(crate) fn take_more(&self, most: usize, into: &mut Vec<T>) -> bool {
        let mut state = self.state.lock();
        let before = into.len();
        let has_room = self.share.fill(most, &mut state.items, into);
        state.bytes -= into[before..].iter().map(Queued::weight).sum::<usize>();
        self.tell_pump(&mut state);
        has_room
    }

    /// Takes an item back until it is due, and keeps its lane for it. Returns it if the queue
    /// is closed or `may` rejects it, as it must once `retain` has looked for such items.
    pub(crate) fn defer(
        &self,
        item: T,
        due: Instant,
        may: impl FnOnce(&T) -> bool,
    ) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed || !may(&item) {
            return Err(item);
        }
        state.lanes.defer(item, due);
        // The pump keeps the time.
        self.room.notify_one();
        Ok(())
    }

    /// Lets handlers take the items that are due. Returns the time of the next one.
    pub(crate) fn release_due(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let before = state.items.len();
        while let Some(item) = state.lanes.take_due(now) {
            state.bytes += item.weight();
            state.items.push_front(item);
        }
        if state.items.len() > before {
            self.wake_one(&mut state);
        }
        state.lanes.next_due()
    }

    /// Removes every item that `keep` rejects, oldest first except for held ones.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut state = self.state.lock();
        let items = std::mem::take(&mut state.items);
        let (kept, removed): (VecDeque<T>, VecDeque<T>) = items.into_iter().partition(&mut keep);
        let mut removed = Vec::from(removed);
        state.bytes = kept.iter().map(Queued::weight).sum();
        state.items = kept;
        let (held, next) = state.lanes.retain(keep);
        for lane in removed.iter().filter_map(|item| item.lane()) {
            let next = state.lanes.leave(lane);
            state.add(next);
        }
        next.into_iter().for_each(|item| state.add(Some(item)));
        removed.extend(held);
        self.wake_one(&mut state);
        self.tell_pump(&mut state);
        removed
    }

    /// Lets handlers end once the queue is empty; nothing can be added.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.items.notify_waiters();
        // For a handler that checked before the close and waits only now.
        self.items.notify_one();
    }

    /// Returns the number of items, with those that are held or deferred, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        let (held, bytes) = state.lanes.load();
        (state.items.len() + held, state.bytes + bytes)
    }

    /// Returns `true` if another item might fit. If not, the pump is notified once one might.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = state.items.len() < self.places
            && (state.items.is_empty() || state.bytes < self.max_bytes)
            && Self::wants_more(&state, self.places);
        state.pump_waits = !has_room;
        has_room
    }

    /// Returns `true` if more items would help: there are fewer than `most`, or the items wait
    /// for their lanes and leave handlers idle.
    fn wants_more(state: &State<T>, most: usize) -> bool {
        state.items.len() + state.lanes.load().0 < most || state.items.len() < state.idle
    }

    /// Wakes a waiting handler, if there is an item.
    fn wake_one(&self, state: &mut State<T>) {
        if !state.items.is_empty() && state.idle > 0 && !state.waking {
            state.waking = true;
            self.items.notify_one();
        }
    }

    /// To wake the pump for each free place would cost a task switch for each message; half of
    /// the queue keeps the handlers busy until the pump runs.
    fn tell_pump(&self, state: &mut State<T>) {
        let half = self.places / 2;
        if state.pump_waits && state.items.len() <= half && Self::wants_more(state, half + 1) {
            state.pump_waits = false;
            self.room.notify_one();
        }
    }
}

impl<T: Queued> State<T> {
    fn add(&mut self, item: Option<T>) {
        self.bytes += item.as_ref().map_or(0, Queued::weight);
        self.items.extend(item);
    }
}

/// A waiting handler. It is no longer counted when it wakes or is dropped.
struct Idle<'a, T: Queued> {
    queue: &'a WorkQueue<T>,
}

impl<T: Queued> Drop for Idle<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.idle -= 1;
        state.waking = false;
        if state.closed {
            // Each one that ends lets the next one end.
            self.queue.items.notify_one();
        }
    }
}
