//! The lanes in which messages are handled, one after the other in each. A key has one lane, so
//! that its messages keep their order; and all messages of a batch with one key lie in one
//! share.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{FutureExt as _, poll};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::answers::Answers;
use crate::message::{Head, Waiting};
use crate::v1::{Order, Range};
use crate::{Delivered, Done, Handle, HandlerError};

/// A batch at work.
pub(crate) struct BatchState {
    head: Head,
    /// Deliveries that the runtime has withdrawn.
    void: Mutex<Vec<Range>>,
    /// Is `true` if there are any; readable without the lock.
    has_void: AtomicBool,
    changed: Notify,
}

impl BatchState {
    fn new(head: Head) -> Self {
        Self {
            head,
            void: Mutex::default(),
            has_void: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Voids deliveries, some of which may be of other batches.
    pub(crate) fn cancel(&self, range: Range) {
        self.void.lock().push(range);
        self.has_void.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn is_void(&self, id: u64) -> bool {
        let is_in = |range: &Range| {
            let behind = id.checked_sub(range.first_id);
            behind.is_some_and(|behind| behind < range.count)
        };
        self.has_void.load(Ordering::Acquire) && self.void.lock().iter().any(is_in)
    }

    /// Completes when a delivery is void.
    async fn when_void(&self, id: u64) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_void(id) {
                return;
            }
            changed.await;
        }
    }
}

/// Messages of one batch for one lane.
struct Share {
    batch: Arc<BatchState>,
    messages: Vec<Waiting>,
}

/// The lanes of one stream.
pub(crate) struct Lanes {
    lanes: Vec<mpsc::UnboundedSender<Share>>,
    tasks: JoinSet<()>,
    /// The lane of the next message without a key.
    next: usize,
}

impl Lanes {
    /// Starts the lanes. After `stop` they begin no message, and release the waiting ones.
    pub(crate) fn start<H: Handle>(
        order: Order,
        handler: &Arc<H>,
        answers: &Arc<Answers>,
        stop: &CancellationToken,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let lanes = (0..answers.lanes()).map(|number| {
            let (lane, shares) = mpsc::unbounded_channel();
            let lane_at_work = Lane {
                number,
                order,
                handler: Arc::clone(handler),
                answers: Arc::clone(answers),
                stop: stop.clone(),
            };
            tasks.spawn(lane_at_work.work(shares));
            lane
        });
        Self {
            lanes: lanes.collect(),
            tasks,
            next: 0,
        }
    }

    /// Distributes the messages of a batch to the lanes.
    pub(crate) fn give(
        &mut self,
        head: Head,
        messages: impl Iterator<Item = Waiting>,
    ) -> Arc<BatchState> {
        let batch = Arc::new(BatchState::new(head));
        let mut shares: Vec<Vec<_>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for message in messages {
            let lane = self.lane_of(&message);
            shares[lane].push(message);
        }
        for (lane, messages) in self.lanes.iter().zip(shares) {
            if !messages.is_empty() {
                let batch = Arc::clone(&batch);
                // A lane ends early only when all do.
                let _ = lane.send(Share { batch, messages });
            }
        }
        batch
    }

    fn lane_of(&mut self, message: &Waiting) -> usize {
        match message.key() {
            Some(key) if self.lanes.len() > 1 => {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                (hasher.finish() % self.lanes.len() as u64) as usize
            }
            _ => {
                self.next = (self.next + 1) % self.lanes.len();
                self.next
            }
        }
    }

    /// Waits until every lane has ended.
    pub(crate) async fn finish(mut self) {
        self.lanes.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Lane<H> {
    number: usize,
    order: Order,
    handler: Arc<H>,
    answers: Arc<Answers>,
    stop: CancellationToken,
}

impl<H: Handle> Lane<H> {
    async fn work(self, mut shares: mpsc::UnboundedReceiver<Share>) {
        while let Some(Share { batch, messages }) = shares.recv().await {
            let mut stopped = Stopped::default();
            for message in messages {
                self.handle(&batch, message, &mut stopped).await;
            }
        }
    }

    /// Handles a message, or releases it. No error or panic of the handler ends the lane.
    async fn handle(&self, batch: &BatchState, message: Waiting, stopped: &mut Stopped) {
        let id = message.id;
        if batch.is_void(id) {
            self.answers.void(self.number);
            return;
        }
        let now = SystemTime::now();
        let message = Delivered::of(&batch.head, message, now);
        let place = Place::of(&message, self.order);
        if let Some(why) = self.hinders(batch, place.as_ref(), stopped, now) {
            // Later messages in its order must not begin either.
            stopped.extend(place);
            let released = HandlerError::not_attempted(why);
            self.answers.settle(self.number, id, Err(released));
            return;
        }
        self.answers.begin(self.number, id);
        let verdict = self.call(message, batch, id).await;
        let continues = match &verdict {
            Some(Ok(_)) => true,
            Some(Err(error)) => !error.stops_key(),
            None => false,
        };
        if !continues {
            stopped.extend(place);
        }
        match verdict {
            Some(verdict) => {
                self.answers.settle(self.number, id, verdict);
                self.answers.leave(self.number, id).await;
            }
            None => self.answers.void(self.number),
        }
    }

    /// Returns the reason that a message must not begin, if there is one.
    fn hinders(
        &self,
        batch: &BatchState,
        place: Option<&Place>,
        stopped: &Stopped,
        now: SystemTime,
    ) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("the handler stops");
        }
        if place.is_some_and(|place| stopped.contains(place)) {
            return Some("an earlier message of its order was not handled");
        }
        (!batch.head.may_begin(now)).then_some("the handler could not begin it in time")
    }

    /// Returns the handler's verdict; `None` once the message is void.
    async fn call(
        &self,
        message: Delivered,
        batch: &BatchState,
        id: u64,
    ) -> Option<Result<Done, HandlerError>> {
        verdict(async {
            let mut call = pin!(self.handler.handle(message));
            // Many calls are ready at the first poll, and need no cancellation.
            if let Poll::Ready(verdict) = poll!(&mut call) {
                return Some(verdict);
            }
            self.answers.report_begun();
            tokio::select! {
                biased;
                verdict = call => Some(verdict),
                () = batch.when_void(id) => None,
            }
        })
        .await
    }
}

/// Returns the verdict of a call, which may panic: while it is made, at one of its steps, and
/// while it is dropped halfway. `None` is a call that was dropped.
pub(crate) async fn verdict(
    call: impl Future<Output = Option<Result<Done, HandlerError>>>,
) -> Option<Result<Done, HandlerError>> {
    let panicked = |_| Some(Err(HandlerError::retryable("the handler panicked")));
    let call = pin!(AssertUnwindSafe(call).catch_unwind());
    let verdict = call.await.unwrap_or_else(panicked)?;
    Some(verdict.map_err(began))
}

/// The error of a call: what has begun can't be released.
fn began(error: HandlerError) -> HandlerError {
    use crate::FailureKind::NotAttempted;
    match error.kind() {
        NotAttempted => HandlerError::retryable(error.reason()),
        _ => error,
    }
}

/// The orders of a share in which no more messages are handled.
type Stopped = HashSet<Place>;

/// The order that a message of a share belongs to.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    /// All messages of the batch.
    Batch,
    /// The messages with one key.
    Key(Arc<str>, i32, Bytes),
}

impl Place {
    fn of(message: &Delivered, order: Order) -> Option<Self> {
        match order {
            Order::Unspecified => None,
            Order::Batch => Some(Self::Batch),
            Order::Key => {
                let (topic, key) = (Arc::clone(&message.topic), message.key.clone()?);
                Some(Self::Key(topic, message.partition, key))
            }
        }
    }
}
