//! Where messages are handled: some lanes, in each one message after the other. A key
//! has its lane, so that its messages keep their order; and all that a batch has of a key
//! lies in one share.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::{FutureExt as _, poll};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::message::{Head, Waiting};
use super::{Delivered, Handle};
use crate::handler::HandlerError;
use crate::handler::grpc::v1::Order;
use crate::produce::Done;

/// A batch at work.
pub(super) struct BatchState {
    head: Head,
    /// Its messages are void.
    pub(super) void: CancellationToken,
}

/// Messages of one batch for one lane.
struct Share {
    batch: Arc<BatchState>,
    messages: Vec<Waiting>,
}

/// The lanes of one stream.
pub(super) struct Lanes {
    lanes: Vec<mpsc::UnboundedSender<Share>>,
    tasks: JoinSet<()>,
    /// Where the next message without a key goes.
    next: usize,
}

impl Lanes {
    /// Starts them. With `stop` they end after the message that they are at.
    pub(super) fn start<H: Handle>(
        count: usize,
        order: Order,
        handler: &Arc<H>,
        answers: &Arc<Answers>,
        stop: &CancellationToken,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let lanes = (0..count).map(|_| {
            let (lane, shares) = mpsc::unbounded_channel();
            let lane_at_work = Lane {
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

    /// Shares out the messages of a batch.
    pub(super) fn give(
        &mut self,
        head: Head,
        messages: impl Iterator<Item = Waiting>,
    ) -> Arc<BatchState> {
        let batch = Arc::new(BatchState {
            head,
            void: CancellationToken::new(),
        });
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
    pub(super) async fn finish(mut self) {
        self.lanes.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Lane<H> {
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
                if self.stop.is_cancelled() {
                    return;
                }
                let id = message.id;
                if batch.void.is_cancelled() {
                    self.answers.grant(1);
                    continue;
                }
                let message = Delivered::of(&batch.head, message);
                let place = Place::of(&message, self.order);
                if place.as_ref().is_some_and(|place| stopped.contains(place)) {
                    let behind = HandlerError::retryable(BEHIND);
                    self.answers.settle(id, Err(behind));
                    continue;
                }
                // Where it is, for it is large: what follows has a reference.
                let call = pin!(self.handler.handle(message));
                let Some(verdict) = verdict(call, &batch.void).await else {
                    self.answers.grant(1);
                    continue;
                };
                if let (Err(error), Some(place)) = (&verdict, place)
                    && place.stops_at(error)
                {
                    stopped.insert(place);
                }
                self.answers.settle(id, verdict);
            }
        }
    }
}

/// What the handler says; nothing once the message is void.
async fn verdict(
    call: Pin<&mut impl Future<Output = Result<Done, HandlerError>>>,
    void: &CancellationToken,
) -> Option<Result<Done, HandlerError>> {
    let mut call = AssertUnwindSafe(call).catch_unwind();
    // Many are done at once, and need not listen.
    let outcome = match poll!(&mut call) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => void.run_until_cancelled(call).await?,
    };
    Some(outcome.unwrap_or_else(|_| Err(HandlerError::retryable("the handler panicked"))))
}

/// What is said of a message that was not begun.
const BEHIND: &str = "a message before it was not done";

/// Places of a share behind which nothing more is handled.
type Stopped = HashSet<Place>;

/// Which messages of a share are in order with each other.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    /// All.
    Batch,
    /// Those with a key.
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

    /// Whether what follows a message that was not done must not be handled.
    fn stops_at(&self, error: &HandlerError) -> bool {
        match self {
            Self::Batch => true,
            Self::Key(..) => error.stops_key(),
        }
    }
}
