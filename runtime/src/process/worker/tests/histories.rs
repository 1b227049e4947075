//! What holds while partitions drain and are revoked, held to random histories: of
//! verdicts that take their time, of drains, and of revocations in the midst of calls.
//!
//! The truth is kept by [`World`], which knows all and does nothing clever. It sees each
//! attempt begin and end, each commit, and each drain before the partition hears of it.

mod story;
mod world;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::queue::lane::LaneFinder;
use story::{Mode, Planned, Story, ms, story};
use world::{Call, World};

/// Virtual time after which a history must have come to its end.
const LIMIT: Duration = Duration::from_secs(600);

/// A handler that plays its part of the stories, one message a call or several.
struct Actor {
    world: Arc<Mutex<World>>,
}

impl Actor {
    async fn act(&self, call: Call) -> Vec<Result<Done, HandlerError>> {
        let takes = self.world.lock().begin(&call);
        let mut stage = Stage {
            world: &self.world,
            call: Some(call),
        };
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let call = stage.call.take().unwrap();
        let verdicts = self.world.lock().end(&call);
        let verdicts = verdicts.into_iter();
        verdicts.map(|verdict| verdict.map(Into::into)).collect()
    }
}

/// A call that was not played to its end when this is dropped.
struct Stage<'a> {
    world: &'a Mutex<World>,
    call: Option<Call>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.world.lock().cut(&call);
        }
    }
}

fn seen(message: &Message<'_, Value>) -> (usize, i64, u32) {
    let partition = usize::try_from(message.partition()).unwrap();
    (partition, message.offset(), message.attempt())
}

impl Handler<Value> for Actor {
    async fn handle(&self, message: Message<'_, Value>) -> Result<Done, HandlerError> {
        self.act(vec![seen(&message)]).await.pop().unwrap()
    }
}

impl BatchHandler<Value> for Actor {
    async fn handle_batch(
        &self,
        messages: &[Message<'_, Value>],
    ) -> Vec<Result<Done, HandlerError>> {
        self.act(messages.iter().map(seen).collect()).await
    }

    fn keeps_key_order(&self) -> bool {
        true
    }
}

/// Answers commits as the pump does, by and by.
async fn commit(world: Arc<Mutex<World>>, mut requests: mpsc::UnboundedReceiver<CommitRequest>) {
    while let Some(CommitRequest {
        partition,
        message,
        reply,
    }) = requests.recv().await
    {
        tokio::time::sleep(ms(1)).await;
        let result = world.lock().commit(&partition, message);
        let _ = reply.send(result);
    }
}

/// Does as the pump: fills the queue, keeps the time of deferred messages, drains and
/// revokes, and closes the queue once nothing is left.
async fn pump(
    world: Arc<Mutex<World>>,
    queue: Arc<WorkQueue<Delivery>>,
    mut read: VecDeque<Delivery>,
) {
    let began = Instant::now();
    loop {
        let swept = world.lock().advance(began.elapsed());
        if !swept.is_empty() {
            let keep = |delivery: &Delivery| match delivery {
                Delivery::Message(job) => !swept.contains(&job.record.partition()),
                Delivery::Error(_) => true,
            };
            let mut dropped = queue.retain(keep);
            let (kept, more) = read.into_iter().partition(keep);
            read = kept;
            dropped.extend::<VecDeque<_>>(more);
            dropped.into_iter().for_each(Delivery::abandon);
        }
        queue.release_due(Instant::now());
        queue.put(&mut read);
        let is_over = read.is_empty() && world.lock().is_idle();
        if is_over || began.elapsed() > LIMIT {
            return queue.close();
        }
        tokio::time::sleep(ms(1)).await;
    }
}

/// Delivers all messages of the stories, by turns.
fn read(fixture: &Fixture<Actor>, stories: &[Story], mode: Mode) -> VecDeque<Delivery> {
    let lanes = LaneFinder::default();
    let world = fixture.shared.handler.world.lock();
    let longest = stories.iter().map(|story| story.messages.len()).max();
    let mut read = VecDeque::new();
    for offset in 0..longest.unwrap_or(0) {
        for (number, story) in stories.iter().enumerate() {
            let Some(Planned { fate, key, .. }) = story.messages.get(offset) else {
                continue;
            };
            let partition = world.partition(number);
            let offset = i64::try_from(offset).unwrap();
            let mut delivery = fixture.message_of(partition, offset, fate.payload());
            if let (Delivery::Message(job), Mode::KeyOrdered) = (&mut delivery, mode) {
                job.lane = Some(lanes.find("orders", partition.number, &[*key]));
            }
            read.push_back(delivery);
        }
    }
    read
}

/// Plays stories to their end, and returns what was wrong.
async fn play(mode: Mode, stories: &[Story], workers: usize, batch: Option<usize>) -> Vec<String> {
    let fixture = fixture("", story::policy(), |_| Ok(()));
    let metrics = fixture.shared.metrics.clone();
    let world = Arc::new(Mutex::new(World::new(mode, stories, &metrics)));
    let actor = Actor {
        world: Arc::clone(&world),
    };
    let mut fixture = fixture.with_handler(actor);
    fixture.shared.defers = mode == Mode::KeyOrdered;
    fixture.shared.in_order = mode == Mode::InOrder;
    if mode == Mode::InOrder {
        let (committer, requests) = Committer::new(Arc::default());
        tokio::spawn(commit(Arc::clone(&world), requests));
        fixture.shared.committer = Some(committer);
    }
    let queue = Arc::new(WorkQueue::new(8, usize::MAX, Arc::default()));
    let read = read(&fixture, stories, mode);
    let workers = if mode == Mode::InOrder { 1 } else { workers };
    let shared = Arc::new(fixture.shared);
    let progress = Progress::new(workers);
    let workers: Vec<_> = (0..workers)
        .map(|number| {
            let seat = Seat {
                queue: Arc::clone(&queue),
                busy: Busy::new(Arc::clone(&progress), number),
            };
            let shared = Arc::clone(&shared);
            match batch {
                Some(most) => tokio::spawn(work_in_batches(shared, seat, most)),
                None => tokio::spawn(work(shared, seat)),
            }
        })
        .collect();
    pump(Arc::clone(&world), queue, read).await;
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    world.lock().finish()
}

proptest! {
    /// No attempt begins once its partition drains; attempts are at least their back-off
    /// apart; no commit passes an unsettled message; a call is cut only when all its
    /// partitions are revoked; orders are kept; and every message is settled, or
    /// abandoned with its partition.
    #[test]
    fn every_history_keeps_the_promises(
        mode in story::mode(),
        stories in prop::collection::vec(story(), 1..4),
        workers in 1usize..4,
        batch in prop::option::of(1usize..9),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let wrong = runtime.block_on(play(mode, &stories, workers, batch));
        prop_assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
