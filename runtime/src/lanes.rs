//! Lanes: items of one lane leave in their order, and never two at once.
//!
//! A lane exists only while one of its items is on its way: ready, with a handler,
//! or waiting for another attempt. What comes meanwhile is held behind it. So the
//! memory is bounded by the items, however many lanes there have been.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::time::Instant;

use foldhash::fast::RandomState;

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

/// The lanes in use.
pub(crate) struct Lanes<T> {
    /// What is held in each lane, behind the item that is on its way.
    busy: HashMap<Lane, VecDeque<T>, RandomState>,
    /// Items that wait for another attempt, by when they are due and in which order
    /// they came. Their lanes are busy.
    deferred: BTreeMap<(Instant, u64), T>,
    deferrals: u64,
    held: usize,
    bytes: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            busy: HashMap::default(),
            deferred: BTreeMap::new(),
            deferrals: 0,
            held: 0,
            bytes: 0,
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
            Some(behind) => {
                item.hold(true);
                self.held += 1;
                self.bytes += item.weight();
                behind.push_back(item);
                None
            }
            None => {
                self.busy.insert(lane, VecDeque::new());
                Some(item)
            }
        }
    }

    /// Lets the item that was on its way go; the next of its lane.
    pub(crate) fn leave(&mut self, lane: Lane) -> Option<T> {
        let behind = self.busy.get_mut(&lane)?;
        match behind.pop_front() {
            Some(next) => {
                self.let_go(&next);
                Some(next)
            }
            None => {
                self.busy.remove(&lane);
                None
            }
        }
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
        for behind in self.busy.values_mut() {
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

    /// Number of items that are held or deferred, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.held + self.deferred.len(), self.bytes)
    }

    fn let_go(&mut self, item: &T) {
        item.hold(false);
        self.held -= 1;
        self.bytes -= item.weight();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tokio::sync::Notify;

    use super::*;
    use crate::queue::WorkQueue;

    #[derive(Clone, Debug)]
    struct Item {
        number: usize,
        lane: Option<u64>,
        held: Arc<Mutex<isize>>,
    }

    impl Queued for Item {
        fn weight(&self) -> usize {
            1
        }

        fn lane(&self) -> Option<Lane> {
            self.lane.map(Lane)
        }

        fn hold(&self, held: bool) {
            *self.held.lock() += if held { 1 } else { -1 };
        }
    }

    /// A queue with room for all, and the items in it: each of the lane given.
    fn filled(lanes: &[Option<u64>]) -> (WorkQueue<Item>, Arc<Mutex<isize>>) {
        let held = Arc::default();
        let queue = WorkQueue::new(lanes.len(), lanes.len(), Arc::new(Notify::new()));
        let items = lanes.iter().enumerate().map(|(number, lane)| Item {
            number,
            lane: *lane,
            held: Arc::clone(&held),
        });
        queue.put(&mut items.collect());
        (queue, held)
    }

    /// Items of one lane.
    fn items(numbers: std::ops::Range<usize>, lane: Option<u64>) -> VecDeque<Item> {
        let held = Arc::default();
        numbers
            .map(|number| Item {
                number,
                lane,
                held: Arc::clone(&held),
            })
            .collect()
    }

    fn take(queue: &WorkQueue<Item>) -> Vec<usize> {
        let mut taken = Vec::new();
        queue.take_more(usize::MAX, &mut taken);
        taken.into_iter().map(|item| item.number).collect()
    }

    #[test]
    fn an_item_waits_until_the_one_before_it_has_left_its_lane() {
        let (queue, held) = filled(&[Some(1), Some(1), Some(2), None, None, Some(1)]);
        assert_eq!(take(&queue), [0, 2, 3, 4]);
        assert_eq!((*held.lock(), queue.load()), (2, (2, 2)));
        queue.leave(Some(Lane(1)));
        assert_eq!(take(&queue), [1]);
        queue.leave(Some(Lane(2)));
        assert!(take(&queue).is_empty());
        queue.leave(Some(Lane(1)));
        assert_eq!(take(&queue), [5]);
        assert_eq!((*held.lock(), queue.load()), (0, (0, 0)));
    }

    #[test]
    fn a_deferred_item_keeps_its_lane_until_it_is_due_and_others_go_on() {
        let (queue, _) = filled(&[Some(1), Some(1), Some(2)]);
        let mut taken = Vec::new();
        queue.take_more(1, &mut taken);
        let now = Instant::now();
        let due = now + Duration::from_secs(1);
        queue.defer(taken.remove(0), due, |_| true).unwrap();
        assert_eq!(take(&queue), [2]);
        assert_eq!(queue.release_due(now), Some(due));
        assert!(take(&queue).is_empty());
        assert_eq!(queue.release_due(due), None);
        assert_eq!(take(&queue), [0], "the first of its lane comes first again");
        queue.leave(Some(Lane(1)));
        assert_eq!(take(&queue), [1]);
    }

    #[tokio::test]
    async fn more_is_wanted_only_while_lanes_leave_handlers_idle() {
        let (queue, _) = filled(&[Some(1), Some(1), Some(2), Some(2)]);
        assert!(!queue.has_room(), "as many wait as there are places");
        assert_eq!(take(&queue), [0, 2]);
        queue.put(&mut items(4..6, Some(1)));
        assert!(!queue.has_room(), "and still do, if in lanes");
        let mut idle = Box::pin(queue.take());
        assert!(futures_util::poll!(&mut idle).is_pending());
        assert!(queue.has_room(), "a handler has nothing to take");
    }

    #[test]
    fn an_item_that_may_not_be_deferred_is_given_back() {
        let (queue, _) = filled(&[Some(1), Some(2)]);
        let mut taken = Vec::new();
        queue.take_more(2, &mut taken);
        let due = Instant::now();
        assert!(queue.defer(taken.remove(0), due, |_| false).is_err());
        queue.close();
        assert!(queue.defer(taken.remove(0), due, |_| true).is_err());
    }

    #[test]
    fn what_is_taken_out_lets_those_behind_it_go() {
        let (queue, held) = filled(&[Some(1), Some(1), Some(1), Some(2), Some(2)]);
        let mut taken = Vec::new();
        queue.take_more(1, &mut taken);
        let due = Instant::now();
        queue.defer(taken.remove(0), due, |_| true).unwrap();
        let mut removed: Vec<_> = queue.retain(|item| item.number % 2 == 1);
        removed.sort_by_key(|item| item.number);
        let removed: Vec<_> = removed.iter().map(|item| item.number).collect();
        assert_eq!(removed, [0, 2, 4]);
        let mut left = take(&queue);
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
        assert_eq!(*held.lock(), 0);
        assert_eq!(queue.release_due(due), None);
    }

    /// What is done with a queue.
    #[derive(Clone, Debug)]
    enum Step {
        Put(Option<u64>),
        Take,
        /// The item that was taken as so manieth is done with.
        Leave(prop::sample::Index),
        LeaveOldest,
        Defer(prop::sample::Index, u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::option::weighted(0.8, 0u64..4).prop_map(Step::Put),
            4 => Just(Step::Take),
            3 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => (any::<prop::sample::Index>(), 0u64..9).prop_map(|(which, wait)| Step::Defer(which, wait)),
            1 => (0u64..5).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whatever is done: those of a lane come in their order and one at a time,
        /// and in the end all have come, each as often as it was put or deferred.
        #[test]
        fn lanes_keep_order_for_every_history(steps in prop::collection::vec(step(), 1..200)) {
            let queue = WorkQueue::new(10_000, 10_000, Arc::new(Notify::new()));
            let held = Arc::<Mutex<isize>>::default();
            let origin = Instant::now();
            let (mut now, mut put, mut done) = (origin, 0, Vec::new());
            let mut out: Vec<Item> = Vec::new();
            let end = (0..10_000).flat_map(|_| {
                [Step::Take, Step::LeaveOldest, Step::Pass(9)]
            });
            for (number, step) in steps.iter().cloned().chain(end).enumerate() {
                if number >= steps.len() && done.len() == put {
                    break;
                }
                match step {
                    Step::Put(lane) => {
                        let held = Arc::clone(&held);
                        let mut item = VecDeque::from([Item { number: put, lane, held }]);
                        queue.put(&mut item);
                        put += 1;
                    }
                    Step::Take => {
                        let mut taken = Vec::new();
                        queue.take_more(1, &mut taken);
                        for item in taken {
                            let beside = out.iter().any(|other| other.lane.is_some() && other.lane == item.lane);
                            prop_assert!(!beside, "two of a lane at once");
                            let overtaken = done.iter().any(|other: &Item| {
                                other.lane.is_some() && other.lane == item.lane && other.number > item.number
                            });
                            prop_assert!(!overtaken, "a later one of the lane was done before");
                            out.push(item);
                        }
                    }
                    Step::Leave(which) if !out.is_empty() => {
                        let item = out.remove(which.index(out.len()));
                        queue.leave(item.lane());
                        done.push(item);
                    }
                    Step::LeaveOldest if !out.is_empty() => {
                        let item = out.remove(0);
                        queue.leave(item.lane());
                        done.push(item);
                    }
                    Step::Defer(which, wait) if !out.is_empty() => {
                        let item = out.remove(which.index(out.len()));
                        let due = now + Duration::from_secs(wait);
                        prop_assert!(queue.defer(item, due, |_| true).is_ok());
                    }
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        queue.release_due(now);
                    }
                    Step::Leave(_) | Step::LeaveOldest | Step::Defer(..) => {}
                }
            }
            let mut numbers: Vec<_> = done.iter().map(|item| item.number).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..put).collect::<Vec<_>>());
            prop_assert_eq!((queue.load(), *held.lock()), ((0, 0), 0));
        }
    }
}
