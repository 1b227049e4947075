//! Where messages are handled: some lanes, in each one message after the other. A key
//! has its lane, so that its messages keep their order.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::{Delivered, Handle};
use crate::handler::HandlerError;

/// What the messages of a batch share.
pub(super) struct BatchState {
    /// Its messages are void.
    pub(super) void: CancellationToken,
    /// What follows a message that is not done must not be handled.
    in_order: bool,
    failed: AtomicBool,
}

/// Messages of one batch for one lane.
struct Share {
    batch: Arc<BatchState>,
    messages: Vec<(u64, Delivered)>,
}

/// The lanes of one stream.
pub(super) struct Lanes {
    lanes: Vec<mpsc::UnboundedSender<Share>>,
    tasks: JoinSet<()>,
    /// Where the next message without a key goes.
    next: usize,
    in_order: bool,
}

impl Lanes {
    /// Starts them. With `stop` they end after the message that they are at.
    pub(super) fn start<H: Handle>(
        count: usize,
        in_order: bool,
        handler: &Arc<H>,
        answers: &Arc<Answers>,
        stop: &CancellationToken,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let lanes = (0..count).map(|_| {
            let (lane, shares) = mpsc::unbounded_channel();
            let lane_at_work = Lane {
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
            in_order,
        }
    }

    /// Shares out the messages of a batch.
    pub(super) fn give(&mut self, messages: Vec<(u64, Delivered)>) -> Arc<BatchState> {
        let batch = Arc::new(BatchState {
            void: CancellationToken::new(),
            in_order: self.in_order,
            failed: AtomicBool::new(false),
        });
        let mut shares: Vec<Vec<_>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for (id, message) in messages {
            let lane = self.lane_of(&message);
            shares[lane].push((id, message));
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

    fn lane_of(&mut self, message: &Delivered) -> usize {
        match &message.key {
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
    handler: Arc<H>,
    answers: Arc<Answers>,
    stop: CancellationToken,
}

impl<H: Handle> Lane<H> {
    async fn work(self, mut shares: mpsc::UnboundedReceiver<Share>) {
        while let Some(share) = shares.recv().await {
            for (id, message) in share.messages {
                if self.stop.is_cancelled() {
                    return;
                }
                self.handle(id, message, &share.batch).await;
            }
        }
    }

    async fn handle(&self, id: u64, message: Delivered, batch: &BatchState) {
        if batch.in_order && batch.failed.load(Ordering::Relaxed) {
            let behind = HandlerError::retryable("a message before it in the batch was not done");
            self.answers.settle(id, Err(behind));
            return;
        }
        let call = AssertUnwindSafe(self.handler.handle(message)).catch_unwind();
        match batch.void.run_until_cancelled(call).await {
            None => self.answers.grant(1),
            Some(outcome) => {
                let verdict = outcome
                    .unwrap_or_else(|_| Err(HandlerError::retryable("the handler panicked")));
                if verdict.is_err() {
                    batch.failed.store(true, Ordering::Relaxed);
                }
                self.answers.settle(id, verdict);
            }
        }
    }
}
