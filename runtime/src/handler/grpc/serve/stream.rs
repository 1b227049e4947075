//! One stream, from hello to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::answers::{AnswerStream, Answers};
use super::lanes::{BatchState, Lanes};
use super::{Handle, Settings, message};
use crate::handler::grpc::v1::from_runtime::Message;
use crate::handler::grpc::v1::{Batch, Cancel, FromRuntime, Hello, Order};

/// Longest wait for the runtime to take the end of a stream.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Serves a stream; gives what to send.
pub(super) fn start<H: Handle>(
    incoming: Streaming<FromRuntime>,
    handler: Arc<H>,
    settings: Settings,
    stop: CancellationToken,
) -> AnswerStream {
    let answers = Arc::new(Answers::default());
    let stream = AnswerStream::new(Arc::clone(&answers));
    tokio::spawn(async move {
        if let Ok(Some(mut open)) =
            OpenStream::greet(incoming, &handler, settings, &answers, &stop).await
        {
            // Whatever ends it, who is at work is let finish.
            let _ = open.read(&stop).await;
            open.lanes.finish().await;
            answers.end();
            drain(open.incoming).await;
        }
        answers.end();
    });
    stream
}

/// Reads on until the runtime has taken the end and ends its half. Were the connection
/// closed on it while it sends, it would find that broken rather than ended.
async fn drain(mut incoming: Streaming<FromRuntime>) {
    let read = async { while let Ok(Some(_)) = incoming.message().await {} };
    // Nothing depends on it but whether an attempt counts.
    let _ = tokio::time::timeout(DRAIN_LIMIT, read).await;
}

struct OpenStream {
    incoming: Streaming<FromRuntime>,
    lanes: Lanes,
    group: Arc<str>,
    /// Batches that may still be at work, by their first number.
    batches: BTreeMap<u64, Weak<BatchState>>,
}

impl OpenStream {
    /// Waits for hello, and grants the first credits. Nothing if the stream ends first.
    async fn greet<H: Handle>(
        mut incoming: Streaming<FromRuntime>,
        handler: &Arc<H>,
        settings: Settings,
        answers: &Arc<Answers>,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, Status> {
        let Some(first) = incoming.message().await? else {
            return Ok(None);
        };
        let hello = match first.message {
            Some(Message::Hello(hello)) => hello,
            _ => Hello::default(),
        };
        let count = match hello.order() {
            Order::Batch => 1,
            Order::Key | Order::Unspecified => settings.concurrency,
        };
        answers.grant(settings.window);
        Ok(Some(Self {
            incoming,
            lanes: Lanes::start(count, hello.order(), handler, answers, stop),
            group: hello.group.into(),
            batches: BTreeMap::new(),
        }))
    }

    async fn read(&mut self, stop: &CancellationToken) -> Result<(), Status> {
        while let Some(next) = stop.run_until_cancelled(self.incoming.message()).await {
            let next = match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(status) => {
                    // Nobody hears a verdict any more.
                    self.void(0, u64::MAX);
                    return Err(status);
                }
            };
            match next.message {
                Some(Message::Batch(batch)) => self.begin(batch),
                Some(Message::Cancel(cancel)) => self.cancel(&cancel),
                // Of a later version.
                Some(Message::Hello(_)) | None => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, batch: Batch) {
        self.batches.retain(|_, batch| batch.strong_count() > 0);
        let first_id = batch.first_id;
        let (head, messages) = message::split(&self.group, batch);
        let batch = self.lanes.give(head, messages);
        self.batches.insert(first_id, Arc::downgrade(&batch));
    }

    /// What is named of a batch is all of it that has no verdict.
    fn cancel(&mut self, cancel: &Cancel) {
        for range in &cancel.deliveries {
            self.void(range.first_id, range.count);
        }
    }

    fn void(&mut self, first_id: u64, count: u64) {
        let before = self.batches.range(..=first_id).next_back();
        let from = before.map_or(first_id, |(first, _)| *first);
        for (_, batch) in self.batches.range(from..first_id.saturating_add(count)) {
            if let Some(batch) = batch.upgrade() {
                batch.void.cancel();
            }
        }
    }
}
