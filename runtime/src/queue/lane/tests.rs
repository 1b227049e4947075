//! Items through a queue, in their lanes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::queue::WorkQueue;
use crate::queue::share::Share;

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
    queue.leave([Lane(1)]);
    assert_eq!(take(&queue), [1]);
    queue.leave([Lane(2)]);
    assert!(take(&queue).is_empty());
    queue.leave([Lane(1)]);
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
    queue.leave([Lane(1)]);
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

#[test]
fn those_behind_are_taken_along_in_turns_and_the_lane_waits_for_all() {
    let (queue, held) = filled(&[Some(1), Some(1), Some(1), Some(2), Some(2), None, Some(1)]);
    let mut taken = Vec::new();
    queue.take_more(usize::MAX, &mut taken);
    queue.take_behind(6, &mut taken);
    let numbers: Vec<_> = taken.iter().map(|item| item.number).collect();
    assert_eq!(
        numbers,
        [0, 3, 5, 1, 4, 2],
        "one of each lane, then another"
    );
    assert_eq!((*held.lock(), queue.load()), (1, (1, 1)));
    queue.leave([Lane(1), Lane(1), Lane(2)]);
    assert!(take(&queue).is_empty());
    queue.leave([Lane(1), Lane(2)]);
    assert_eq!(take(&queue), [6]);
    queue.leave([Lane(1)]);
    assert_eq!((*held.lock(), queue.load()), (0, (0, 0)));
}

#[test]
fn no_more_than_the_share_is_taken_along() {
    let (queue, held) = filled(&[Some(1), Some(1), Some(1), Some(1), Some(2)]);
    // Four with what a handler keeps of each.
    let queue = queue.with_share(Share::of(2_100, 1));
    let mut taken = Vec::new();
    assert!(queue.take_more(9, &mut taken));
    assert!(!queue.take_behind(9, &mut taken));
    let numbers: Vec<_> = taken.iter().map(|item| item.number).collect();
    assert_eq!(numbers, [0, 4, 1, 2]);
    assert_eq!((*held.lock(), queue.load()), (1, (1, 1)));
    queue.leave([Lane(1), Lane(1), Lane(1)]);
    assert_eq!(take(&queue), [3]);
}

#[test]
fn what_is_taken_back_waits_behind_those_that_it_followed() {
    let (queue, held) = filled(&[Some(1); 5]);
    let mut taken = Vec::new();
    queue.take_more(usize::MAX, &mut taken);
    queue.take_behind(4, &mut taken);
    let behind = taken.split_off(2);
    assert!(queue.take_back(behind, |_| true).is_empty());
    assert_eq!((*held.lock(), queue.load()), (3, (3, 3)));
    queue.leave([Lane(1)]);
    let due = Instant::now();
    queue.defer(taken.remove(1), due, |_| true).unwrap();
    assert!(take(&queue).is_empty());
    queue.release_due(due);
    for number in 1..5 {
        assert_eq!(take(&queue), [number]);
        queue.leave([Lane(1)]);
    }
    assert_eq!((*held.lock(), queue.load()), (0, (0, 0)));
}

#[test]
fn what_may_not_be_taken_back_is_given_back_and_has_left() {
    let (queue, held) = filled(&[Some(1); 4]);
    let mut taken = Vec::new();
    queue.take_more(usize::MAX, &mut taken);
    queue.take_behind(3, &mut taken);
    let behind = taken.split_off(1);
    let refused = queue.take_back(behind, |item| item.number != 1);
    let refused: Vec<_> = refused.iter().map(|item| item.number).collect();
    assert_eq!(refused, [1]);
    queue.leave([Lane(1)]);
    assert_eq!(take(&queue), [2]);
    queue.leave([Lane(1)]);
    assert_eq!(take(&queue), [3]);
    assert_eq!(*held.lock(), 0);
}

#[test]
fn nothing_goes_in_the_place_of_an_item_that_comes_again_elsewhere() {
    let (queue, held) = filled(&[Some(1); 4]);
    assert_eq!(take(&queue), [0]);
    let removed = queue.forsake(Lane(1), |item| item.number == 3);
    let removed: Vec<_> = removed.iter().map(|item| item.number).collect();
    assert_eq!(removed, [1, 2]);
    assert_eq!(take(&queue), [3]);
    assert_eq!((*held.lock(), queue.load()), (0, (0, 0)));
}

/// What becomes of an item.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Done,
    /// Those behind it come again, and it does not.
    GivenUp,
    /// It comes again after so many seconds.
    Deferred(u64),
}

/// What is done with a queue.
#[derive(Clone, Debug)]
enum Step {
    Put(Option<u64>),
    /// So many that are ready, and more behind them up to so many.
    Take(usize, usize),
    /// The work on a batch ends, with these fates of its items in turns.
    End(prop::sample::Index, Vec<Fate>),
    Pass(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Done),
        1 => Just(Fate::GivenUp),
        1 => (0u64..9).prop_map(Fate::Deferred),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = (
        any::<prop::sample::Index>(),
        prop::collection::vec(fate(), 1..6),
    );
    prop_oneof![
        8 => prop::option::weighted(0.8, 0u64..4).prop_map(Step::Put),
        4 => (1usize..4, 0usize..10).prop_map(|(ready, most)| Step::Take(ready, most)),
        4 => end.prop_map(|(which, fates)| Step::End(which, fates)),
        1 => (0u64..5).prop_map(Step::Pass),
    ]
}

/// A queue, and who works on what it holds.
struct Scene {
    queue: WorkQueue<Item>,
    now: Instant,
    batches: Vec<Vec<Item>>,
    done: Vec<Item>,
}

impl Scene {
    fn take(&mut self, ready: usize, most: usize) {
        let mut taken = Vec::new();
        self.queue.take_more(ready, &mut taken);
        self.queue.take_behind(most, &mut taken);
        for item in taken.iter().filter(|item| item.lane.is_some()) {
            let mut others = self.batches.iter().flatten();
            let is_beside = others.any(|other| other.lane == item.lane);
            assert!(!is_beside, "a lane in two batches at once");
        }
        self.batches
            .extend(Some(taken).filter(|taken| !taken.is_empty()));
    }

    /// As a handler that keeps the order does.
    fn end(&mut self, which: usize, fates: &[Fate]) {
        let (mut stopped, mut lanes) = (Vec::new(), Vec::new());
        let (mut behind, mut deferred) = (Vec::new(), Vec::new());
        let batch = self.batches.remove(which).into_iter();
        for (item, fate) in batch.zip(fates.iter().cycle()) {
            if item.lane.is_some() && stopped.contains(&item.lane) {
                behind.push(item);
                continue;
            }
            if !matches!(fate, Fate::Done) {
                stopped.push(item.lane);
            }
            match fate {
                Fate::Deferred(wait) => deferred.push((item, *wait)),
                Fate::Done | Fate::GivenUp => {
                    lanes.extend(item.lane());
                    self.finish(item);
                }
            }
        }
        assert!(self.queue.take_back(behind, |_| true).is_empty());
        self.queue.leave(lanes);
        for (item, wait) in deferred {
            let due = self.now + Duration::from_secs(wait);
            assert!(self.queue.defer(item, due, |_| true).is_ok());
        }
    }

    fn finish(&mut self, item: Item) {
        let mut before = self.done.iter().filter(|other| other.lane == item.lane);
        let is_overtaken = before.any(|other| other.number > item.number);
        assert!(
            item.lane.is_none() || !is_overtaken,
            "a later one of the lane was done before"
        );
        self.done.push(item);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.queue.release_due(self.now);
    }
}

proptest! {
    /// Whatever is done: those of a lane come in their order and never in two batches at
    /// once, and in the end all have come and are done with once.
    #[test]
    fn lanes_keep_order_for_every_history(steps in prop::collection::vec(step(), 1..200)) {
        let held = Arc::<Mutex<isize>>::default();
        let mut put = 0;
        let mut scene = Scene {
            queue: WorkQueue::new(10_000, 10_000, Arc::new(Notify::new())),
            now: Instant::now(),
            batches: Vec::new(),
            done: Vec::new(),
        };
        for step in steps {
            match step {
                Step::Put(lane) => {
                    let held = Arc::clone(&held);
                    let mut item = VecDeque::from([Item { number: put, lane, held }]);
                    scene.queue.put(&mut item);
                    put += 1;
                }
                Step::Take(ready, most) => scene.take(ready, most),
                Step::End(which, fates) if !scene.batches.is_empty() => {
                    scene.end(which.index(scene.batches.len()), &fates);
                }
                Step::Pass(seconds) => scene.pass(seconds),
                Step::End(..) => {}
            }
        }
        // Each round ends at least one item, or makes one ready.
        for _ in 0..2 * put {
            scene.pass(9);
            scene.take(1, 3);
            while !scene.batches.is_empty() {
                scene.end(0, &[Fate::Done]);
            }
        }
        let mut numbers: Vec<_> = scene.done.iter().map(|item| item.number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..put).collect::<Vec<_>>());
        prop_assert_eq!((scene.queue.load(), *held.lock()), ((0, 0), 0));
    }
}
