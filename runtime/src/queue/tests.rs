//! The queue's promises.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

#[derive(Debug, PartialEq)]
struct Item(usize, usize);

impl Queued for Item {
    fn weight(&self) -> usize {
        self.1
    }

    fn lane(&self) -> Option<Lane> {
        None
    }

    fn hold(&self, _: bool) {}
}

fn queue(places: usize, max_bytes: usize) -> Arc<WorkQueue<Item>> {
    Arc::new(WorkQueue::new(places, max_bytes, Arc::default()))
}

fn items(range: std::ops::Range<usize>) -> VecDeque<Item> {
    range.map(|n| Item(n, 1)).collect()
}

#[test]
fn has_one_and_a_half_places_a_handler() {
    assert_eq!([1, 2, 3, 5].map(places_for), [1, 3, 4, 7]);
}

#[tokio::test]
async fn keeps_the_order_and_holds_no_more_than_its_places() {
    let queue = queue(3, 100);
    let mut waiting = items(0..5);
    queue.put(&mut waiting);
    assert_eq!((queue.load().0, waiting.len()), (3, 2));
    assert!(!queue.has_room());
    for n in 0..3 {
        assert_eq!(queue.take().await, Some(Item(n, 1)));
    }
}

#[tokio::test]
async fn holds_no_more_than_its_bytes_but_takes_one_large_item() {
    let queue = queue(10, 100);
    let mut waiting: VecDeque<_> = [Item(0, 500), Item(1, 1)].into();
    queue.put(&mut waiting);
    assert_eq!(queue.load(), (1, 500));
    queue.take().await;
    queue.put(&mut waiting);
    assert_eq!(queue.load(), (1, 1));
    let mut heavy: VecDeque<_> = [Item(2, 100)].into();
    queue.put(&mut heavy);
    assert_eq!(heavy.len(), 1);
}

#[tokio::test]
async fn several_are_taken_together_up_to_a_number_and_their_bytes() {
    let queue = queue(100, 1000);
    let weights = [9, 1, 1, 1, 1, 30, 1, 1];
    let numbered = weights.into_iter().enumerate();
    queue.put(&mut numbered.map(|(n, weight)| Item(n, weight)).collect());
    let mut taken = Vec::new();
    while queue.load().0 > 0 {
        let mut rest = VecDeque::new();
        let first = queue.take_together(4, 12, &mut rest).await.unwrap();
        taken.push(
            [first.0]
                .into_iter()
                .chain(rest.iter().map(|it| it.0))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(taken, [vec![0, 1, 2, 3], vec![4], vec![5], vec![6, 7]]);
    assert_eq!(queue.load(), (0, 0));
}

#[tokio::test]
async fn what_is_given_back_comes_first_in_its_order_and_wakes_another() {
    let queue = queue(100, 1000);
    queue.put(&mut items(0..5));
    let mut rest = VecDeque::new();
    let first = queue.take_together(4, 1000, &mut rest).await;
    let other = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move {
            let mut taken = Vec::new();
            while let Some(item) = queue.take().await {
                taken.push(item.0);
            }
            taken
        }
    });
    while queue.state.lock().idle == 0 {
        tokio::task::yield_now().await;
    }
    let refused = queue.give_back(&mut rest, |item| item.0 != 2);
    assert!(rest.is_empty());
    assert_eq!(refused, [Item(2, 1)]);
    queue.close();
    assert_eq!(first, Some(Item(0, 1)));
    assert_eq!(other.await.unwrap(), [4, 1, 3]);
    assert_eq!(queue.load(), (0, 0));
}

#[tokio::test]
async fn every_waiting_handler_gets_going() {
    let queue = queue(8, 100);
    let takers: Vec<_> = (0..4)
        .map(|_| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                let item = queue.take().await;
                queue.pass_on();
                // Never takes another: the others must be woken without it.
                std::future::pending::<()>().await;
                item
            })
        })
        .collect();
    tokio::task::yield_now().await;
    queue.put(&mut items(0..4));
    timeout(Duration::from_secs(5), async {
        while queue.load().0 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all four items are taken");
    takers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_pump_is_told_once_half_the_places_are_free() {
    let room = Arc::new(Notify::new());
    let queue = WorkQueue::new(4, 100, Arc::clone(&room));
    let mut waiting = items(0..6);
    queue.put(&mut waiting);
    queue.take().await;
    assert!(timeout(Duration::ZERO, room.notified()).await.is_err());
    queue.take().await;
    assert!(
        timeout(Duration::from_secs(1), room.notified())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_pump_that_only_asked_for_room_is_told_too() {
    let room = Arc::new(Notify::new());
    let queue = WorkQueue::new(2, 100, Arc::clone(&room));
    queue.put(&mut items(0..2));
    assert!(!queue.has_room());
    queue.take().await;
    let told = timeout(Duration::from_secs(1), room.notified()).await;
    assert!(told.is_ok() && queue.has_room());
}

#[tokio::test]
async fn closing_lets_handlers_finish_what_is_queued_and_end() {
    let queue = queue(4, 100);
    queue.put(&mut items(0..2));
    queue.close();
    let mut late = items(9..10);
    queue.put(&mut late);
    assert_eq!(late.len(), 1);
    assert_eq!(queue.take().await, Some(Item(0, 1)));
    assert_eq!(queue.take().await, Some(Item(1, 1)));
    assert_eq!(queue.take().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_every_waiting_handler() {
    let queue = queue(4, 100);
    let takers: Vec<_> = (0..50)
        .map(|_| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.take().await })
        })
        .collect();
    tokio::task::yield_now().await;
    queue.close();
    for taker in takers {
        let taken = timeout(Duration::from_secs(5), taker).await;
        assert_eq!(taken.expect("ends").unwrap(), None);
    }
}

#[tokio::test]
async fn a_handler_that_is_given_up_while_it_waits_loses_no_wake_up() {
    let queue = queue(4, 100);
    for _ in 0..3 {
        let mut take = Box::pin(queue.take());
        assert!(timeout(Duration::ZERO, &mut take).await.is_err());
        drop(take);
    }
    let taker = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.take().await })
    };
    tokio::task::yield_now().await;
    queue.put(&mut items(7..8));
    let taken = timeout(Duration::from_secs(5), taker).await;
    assert_eq!(taken.expect("is woken").unwrap(), Some(Item(7, 1)));
}

#[test]
fn retain_takes_out_what_is_not_wanted_and_its_bytes() {
    let queue = queue(10, 100);
    queue.put(&mut items(0..6));
    let removed = queue.retain(|item| item.0 % 2 == 0);
    assert_eq!(removed, [Item(1, 1), Item(3, 1), Item(5, 1)]);
    assert_eq!(queue.load(), (3, 3));
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_reordered(
        batches in prop::collection::vec(1usize..20, 1..20),
        places in 1usize..10,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut sent, mut taken) = (0, Vec::new());
        let queue = queue(places, 1000);
        let mut waiting = VecDeque::new();
        for batch in batches {
            waiting.extend(items(sent..sent + batch));
            sent += batch;
            while !waiting.is_empty() {
                queue.put(&mut waiting);
                prop_assert!(queue.load().0 <= places);
                while queue.load().0 > places / 2 {
                    taken.push(runtime.block_on(queue.take()).unwrap().0);
                }
            }
        }
        queue.close();
        while let Some(item) = runtime.block_on(queue.take()) {
            taken.push(item.0);
        }
        prop_assert_eq!(taken, (0..sent).collect::<Vec<_>>());
    }
}
