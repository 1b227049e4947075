//! What goes back to the runtime: verdicts and credits, gathered until it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use tonic::Status;

use crate::handler::grpc::v1::verdict::Outcome;
use crate::handler::grpc::v1::{self, DeadLetter, Fail, FromHandler, Retry, Skip, Verdict};
use crate::handler::{FailureKind, HandlerError};
use crate::produce::{Done, ProducerRecord};

/// Gathers answers.
#[derive(Default)]
pub(super) struct Answers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: FromHandler,
    sender: Option<Waker>,
    ended: bool,
}

impl Answers {
    /// Grants credits.
    pub(super) fn grant(&self, credits: u32) {
        self.add(|next| next.credits += credits);
    }

    /// Gives a verdict, and the message's credit anew.
    pub(super) fn settle(&self, id: u64, verdict: Result<Done, HandlerError>) {
        self.add(|next| {
            next.credits += 1;
            match (&verdict, next.verdicts.last_mut()) {
                (Ok(done), Some(last)) if done.produce.is_empty() && continues(last, id) => {
                    last.count += 1;
                }
                _ => next.verdicts.push(Verdict {
                    first_id: id,
                    count: 1,
                    outcome: Some(outcome(verdict)),
                }),
            }
        });
    }

    /// Ends the stream once everything is sent.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.wake();
    }

    fn add(&self, add: impl FnOnce(&mut FromHandler)) {
        add(&mut self.state.lock().next);
        self.wake();
    }

    fn wake(&self) {
        let sender = self.state.lock().sender.take();
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

/// Whether a verdict is done and ends just before this number.
fn continues(verdict: &Verdict, id: u64) -> bool {
    let done = matches!(&verdict.outcome, Some(Outcome::Done(done)) if done.produce.is_empty());
    done && verdict.first_id + verdict.count == id
}

fn outcome(verdict: Result<Done, HandlerError>) -> Outcome {
    let error = match verdict {
        Ok(done) => {
            let produce = done.produce.into_iter().map(record).collect();
            return Outcome::Done(v1::Done { produce });
        }
        Err(error) => error,
    };
    let reason = error.reason().to_owned();
    match error.kind() {
        FailureKind::Retryable => Outcome::Retry(Retry {
            reason,
            delay_ms: error.retry_after().map_or(0, |wait| {
                u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
            }),
        }),
        FailureKind::Permanent => Outcome::Fail(Fail { reason }),
        FailureKind::Skip => Outcome::Skip(Skip { reason }),
        FailureKind::DeadLetter => Outcome::DeadLetter(DeadLetter { reason }),
    }
}

fn record(record: ProducerRecord) -> v1::Record {
    let headers = record.headers.into_iter();
    v1::Record {
        topic: record.topic,
        partition: record.partition,
        key: record.key.map(Into::into),
        value: record.payload.map(Into::into),
        headers: headers
            .map(|(name, value)| v1::Header {
                name,
                value: value.map(Into::into),
            })
            .collect(),
        timestamp_ms: record.timestamp,
    }
}

/// The answers as the stream that is sent.
pub(super) struct AnswerStream(pub(super) Arc<Answers>);

impl Stream for AnswerStream {
    type Item = Result<FromHandler, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        if state.next != FromHandler::default() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut state.next))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}
