//! What goes back to the runtime: verdicts and credits, gathered until it is sent.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use tonic::Status;

use crate::handler::grpc::v1::verdict::Outcome;
use crate::handler::grpc::v1::{self, DeadLetter, Fail, FromHandler, Release, Retry, Skip, Verdict};
use crate::handler::{FailureKind, HandlerError};
use crate::produce::{Done, ProducerRecord};

/// Gathers answers.
#[derive(Default)]
pub(super) struct Answers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    credits: u32,
    /// Numbers of messages that are done, and produce nothing.
    done: Vec<u64>,
    /// What is said of others.
    verdicts: Vec<Verdict>,
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
            match verdict {
                Ok(done) if done.produce.is_empty() => next.done.push(id),
                verdict => next.verdicts.push(on_run(&[id], verdict)),
            }
        });
    }

    /// Ends the stream once everything is sent.
    pub(super) fn end(&self) {
        self.add(|next| next.ended = true);
    }

    fn add(&self, add: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        add(&mut state);
        if let Some(sender) = state.sender.take() {
            drop(state);
            sender.wake();
        }
    }
}

impl State {
    /// Takes all there is to say; nothing if there is nothing.
    fn take(&mut self) -> Option<FromHandler> {
        // Whatever there is to say grants a credit.
        let credits = mem::take(&mut self.credits);
        (credits > 0).then(|| {
            let mut verdicts = mem::take(&mut self.verdicts);
            verdicts.extend(done(&mut self.done));
            FromHandler {
                verdicts,
                credits,
                ..FromHandler::default()
            }
        })
    }
}

/// Verdicts on messages that are done, one for those whose numbers follow each other.
fn done(ids: &mut Vec<u64>) -> Vec<Verdict> {
    ids.sort_unstable();
    let runs = ids.chunk_by(|id, next| id + 1 == *next);
    let verdicts = runs.map(|run| on_run(run, Ok(Done::default()))).collect();
    ids.clear();
    verdicts
}

/// The verdict on messages whose numbers follow each other.
fn on_run(ids: &[u64], verdict: Result<Done, HandlerError>) -> Verdict {
    Verdict {
        first_id: ids[0],
        count: ids.len() as u64,
        outcome: Some(outcome(verdict)),
    }
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
        FailureKind::NotAttempted => Outcome::Release(Release {
            reason,
            delay_ms: 0,
        }),
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
pub(super) struct AnswerStream {
    answers: Arc<Answers>,
    /// There was something to say at the last look.
    let_others: bool,
}

impl AnswerStream {
    pub(super) fn new(answers: Arc<Answers>) -> Self {
        Self {
            answers,
            let_others: false,
        }
    }
}

impl Stream for AnswerStream {
    type Item = Result<FromHandler, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answers = Arc::clone(&self.answers);
        let mut state = answers.state.lock();
        if state.credits > 0 && !mem::replace(&mut self.let_others, true) {
            // The other lanes that are at work first: what is done of a batch is then one
            // verdict, not one for each message of the lane that was the fastest.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.let_others = false;
        if let Some(next) = state.take() {
            return Poll::Ready(Some(Ok(next)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn numbers_that_follow_each_other_have_one_verdict_in_whichever_order_they_end() {
        let answers = Arc::new(Answers::default());
        let mut stream = AnswerStream::new(Arc::clone(&answers));
        assert!(stream.next().now_or_never().is_none());
        for id in [7, 3, 5, 6] {
            answers.settle(id, Ok(Done::default()));
        }
        answers.settle(4, Err(HandlerError::skip("not ours")));
        let said = stream.next().await.unwrap().unwrap();
        assert_eq!(said.credits, 5);
        let mut ranges: Vec<_> = said
            .verdicts
            .iter()
            .map(|it| (it.first_id, it.count))
            .collect();
        ranges.sort_unstable();
        assert_eq!(ranges, [(3, 1), (4, 1), (5, 3)]);
        assert!(stream.next().now_or_never().is_none());
        answers.grant(2);
        answers.end();
        assert_eq!(stream.next().await.unwrap().unwrap().credits, 2);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn lanes_that_are_at_work_are_waited_for_once() {
        let answers = Arc::new(Answers::default());
        let mut stream = AnswerStream::new(Arc::clone(&answers));
        answers.settle(1, Ok(Done::default()));
        assert!(stream.next().now_or_never().is_none());
        answers.settle(2, Ok(Done::default()));
        let said = stream.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((said.verdicts[0].first_id, said.verdicts[0].count), (1, 2));
    }
}
