//! Answers to the runtime: verdicts, credits and reports of beginnings, gathered until they are
//! sent.

use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

use crate::flow::Flow;
use crate::v1::verdict::Outcome;
use crate::v1::{
    self, DeadLetter, Fail, FromHandler, Range, Release, Retry, Skip, Verdict, Welcome,
};
use crate::{Done, FailureKind, HandlerError, ProducerRecord};

/// The size at which an answer is full. gRPC's default limit is 4 MiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// No delivery: none has this number.
const NONE: u64 = 0;

/// Gathers answers.
pub(crate) struct Answers {
    /// The delivery that each lane is handling. The lane sets it, and clears it under the lock
    /// with the verdict, so that no report follows a verdict.
    current: Box<[AtomicU64]>,
    state: Mutex<State>,
    /// Notified whenever answers were taken for sending, and when no more are taken.
    taken: Notify,
}

struct State {
    welcome: Option<Welcome>,
    flow: Flow,
    /// Is `true` if there is an answer to send.
    is_due: bool,
    /// The delivery that was reported last, for each lane.
    reported: Vec<u64>,
    /// Numbers of messages that are done, and produce nothing.
    done: Vec<u64>,
    /// Verdicts on other messages.
    verdicts: Vec<Verdict>,
    /// The number of times that answers were taken to be sent.
    takes: u64,
    /// Is `true` if no more answers are taken.
    is_gone: bool,
    sender: Option<Waker>,
    ended: Option<Result<(), Status>>,
}

impl Answers {
    /// Creates the answers of this number of lanes, which together take at most `window`
    /// messages. The first answer is the welcome.
    pub(crate) fn new(lanes: usize, window: u32, welcome: Welcome) -> Self {
        Self {
            current: (0..lanes).map(|_| AtomicU64::new(NONE)).collect(),
            state: Mutex::new(State {
                welcome: Some(welcome),
                flow: Flow::new(lanes, window),
                is_due: false,
                reported: vec![NONE; lanes],
                done: Vec::new(),
                verdicts: Vec::new(),
                takes: 0,
                is_gone: false,
                sender: None,
                ended: None,
            }),
            taken: Notify::new(),
        }
    }

    pub(crate) fn lanes(&self) -> usize {
        self.current.len()
    }

    /// Grants the first credits.
    pub(crate) fn open(&self) {
        self.add(|next| next.is_due = true);
    }

    /// Notes that a lane begins a message. The next answer reports it, if the lane still
    /// handles it.
    pub(crate) fn begin(&self, lane: usize, id: u64) {
        self.current[lane].store(id, Ordering::Release);
    }

    /// Reports the messages that have begun, soon.
    pub(crate) fn report_begun(&self) {
        self.add(|next| next.is_due = true);
    }

    /// Reports as [`Self::report_begun`] does, if a message has begun since the last report.
    pub(crate) fn report_news(&self) {
        let mut state = self.state.lock();
        let mut lanes = self.current.iter().zip(&state.reported);
        let is_news = |(current, reported): (&AtomicU64, &u64)| {
            let current = current.load(Ordering::Acquire);
            current != NONE && current != *reported
        };
        if lanes.any(is_news) {
            state.is_due = true;
            if let Some(sender) = state.sender.take() {
                drop(state);
                sender.wake();
            }
        }
    }

    /// Adds a lane's verdict on a message.
    pub(crate) fn settle(&self, lane: usize, id: u64, verdict: Result<Done, HandlerError>) {
        self.end_of(lane, |next| match verdict {
            Ok(done) if done.produce.is_empty() => next.done.push(id),
            verdict => next.verdicts.push(on_run(&[id], verdict)),
        });
    }

    /// Waits until the verdict on a lane's last message was sent, if its beginning was
    /// reported. The time of the message runs until then, and the lane's next call may block
    /// the thread that would send the verdict.
    pub(crate) async fn leave(&self, lane: usize, id: u64) {
        let (was_reported, takes) = {
            let state = self.state.lock();
            (state.reported[lane] == id, state.takes)
        };
        if !was_reported {
            return;
        }
        loop {
            let mut taken = pin!(self.taken.notified());
            taken.as_mut().enable();
            {
                let state = self.state.lock();
                if state.is_gone || state.takes > takes || !state.is_due {
                    break;
                }
            }
            taken.await;
        }
        // The connection's own turn.
        tokio::task::yield_now().await;
    }

    /// Notes that a lane's message is void, and has no verdict.
    pub(crate) fn void(&self, lane: usize) {
        self.end_of(lane, |_| {});
    }

    fn end_of(&self, lane: usize, add: impl FnOnce(&mut State)) {
        self.add(|next| {
            self.current[lane].store(NONE, Ordering::Release);
            next.flow.ended();
            next.is_due = true;
            add(next);
        });
    }

    /// Ends the stream once everything is sent.
    pub(crate) fn end(&self, status: Result<(), Status>) {
        self.add(|next| _ = next.ended.get_or_insert(status));
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
    /// Takes the next answer, with verdicts for at most one message.
    fn take(&mut self, current: &[AtomicU64], now: Instant) -> FromHandler {
        let begun = self.take_begun(current);
        self.verdicts.extend(done(&mut self.done));
        let verdicts = take_fill(&mut self.verdicts);
        self.is_due = !self.verdicts.is_empty();
        FromHandler {
            welcome: self.welcome.take(),
            begun,
            verdicts,
            credits: self.flow.grant(now),
            extensions: Vec::new(),
        }
    }

    fn take_begun(&mut self, current: &[AtomicU64]) -> Vec<Range> {
        let mut begun = Vec::new();
        for (current, reported) in current.iter().zip(&mut self.reported) {
            let id = current.load(Ordering::Acquire);
            if id != NONE && id != *reported {
                *reported = id;
                begun.push(Range {
                    first_id: id,
                    count: 1,
                });
            }
        }
        begun
    }
}

/// Takes verdicts from the front that fit into one message, at least one.
fn take_fill(verdicts: &mut Vec<Verdict>) -> Vec<Verdict> {
    let mut bytes = 0;
    let too_many = verdicts.iter().position(|verdict| {
        let is_first = bytes == 0;
        bytes += verdict.encoded_len() + 8;
        bytes > MAX_ANSWER_BYTES && !is_first
    });
    match too_many {
        Some(index) => {
            let rest = verdicts.split_off(index);
            mem::replace(verdicts, rest)
        }
        None => mem::take(verdicts),
    }
}

/// Returns the verdicts on handled messages, one for each run of consecutive numbers.
fn done(ids: &mut Vec<u64>) -> Vec<Verdict> {
    ids.sort_unstable();
    let runs = ids.chunk_by(|id, next| id + 1 == *next);
    let verdicts = runs.map(|run| on_run(run, Ok(Done::default()))).collect();
    ids.clear();
    verdicts
}

/// Returns the verdict on messages with consecutive numbers.
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
pub(crate) struct AnswerStream {
    answers: Arc<Answers>,
    /// Is `true` if there was an answer at the last poll.
    let_others: bool,
}

impl AnswerStream {
    pub(crate) fn new(answers: Arc<Answers>) -> Self {
        Self {
            answers,
            let_others: false,
        }
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.answers.state.lock().is_gone = true;
        self.answers.taken.notify_waiters();
    }
}

impl Stream for AnswerStream {
    type Item = Result<FromHandler, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answers = Arc::clone(&self.answers);
        let mut state = answers.state.lock();
        if state.is_due && !mem::replace(&mut self.let_others, true) {
            // The other busy lanes run first: the messages of a batch then have one verdict,
            // and not one for each message of the fastest lane.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.let_others = false;
        if state.is_due {
            let next = state.take(&answers.current, Instant::now());
            state.takes += 1;
            answers.taken.notify_waiters();
            if next != FromHandler::default() {
                return Poll::Ready(Some(Ok(next)));
            }
        }
        match state.ended.take() {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(status)) => {
                // The next poll ends the stream.
                state.ended = Some(Ok(()));
                return Poll::Ready(Some(Err(status)));
            }
            None => {}
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

    /// Answers of four lanes, past the welcome.
    async fn opened() -> (Arc<Answers>, AnswerStream) {
        let welcome = Welcome {
            version: 2,
            ..Welcome::default()
        };
        let answers = Arc::new(Answers::new(4, 100, welcome.clone()));
        let mut stream = AnswerStream::new(Arc::clone(&answers));
        answers.open();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!((first.welcome, first.credits), (Some(welcome), 8));
        (answers, stream)
    }

    #[tokio::test]
    async fn numbers_that_follow_each_other_have_one_verdict_in_whichever_order_they_end() {
        let (answers, mut stream) = opened().await;
        assert!(stream.next().now_or_never().is_none());
        for id in [7, 3, 5, 6] {
            answers.settle(0, id, Ok(Done::default()));
        }
        answers.settle(1, 4, Err(HandlerError::skip("not ours")));
        let said = stream.next().await.unwrap().unwrap();
        assert!(said.credits >= 5);
        let mut ranges: Vec<_> = said
            .verdicts
            .iter()
            .map(|it| (it.first_id, it.count))
            .collect();
        ranges.sort_unstable();
        assert_eq!(ranges, [(3, 1), (4, 1), (5, 3)]);
        assert!(stream.next().now_or_never().is_none());
        answers.settle(0, 9, Ok(Done::default()));
        answers.end(Ok(()));
        assert_eq!(stream.next().await.unwrap().unwrap().verdicts.len(), 1);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn lanes_that_are_at_work_are_waited_for_once() {
        let (answers, mut stream) = opened().await;
        answers.settle(0, 1, Ok(Done::default()));
        assert!(stream.next().now_or_never().is_none());
        answers.settle(1, 2, Ok(Done::default()));
        let said = stream.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((said.verdicts[0].first_id, said.verdicts[0].count), (1, 2));
    }

    #[tokio::test]
    async fn what_is_at_work_is_reported_once_and_never_after_its_verdict() {
        let (answers, mut stream) = opened().await;
        answers.begin(0, 1);
        answers.begin(1, 2);
        answers.begin(2, 3);
        answers.settle(2, 3, Ok(Done::default()));
        let said = stream.next().await.unwrap().unwrap();
        let begun: Vec<_> = said.begun.iter().map(|range| range.first_id).collect();
        assert_eq!(begun, [1, 2], "3 has ended");
        answers.report_begun();
        answers.report_news();
        for _ in 0..3 {
            assert!(stream.next().now_or_never().is_none(), "there is no news");
        }
        answers.settle(0, 1, Ok(Done::default()));
        answers.begin(0, 4);
        let said = stream.next().await.unwrap().unwrap();
        assert_eq!((said.begun[0].first_id, said.begun.len()), (4, 1));
        // Of a call that blocks its thread there is no word but this.
        answers.begin(3, 9);
        answers.report_news();
        let said = stream.next().await.unwrap().unwrap();
        assert_eq!((said.begun[0].first_id, said.begun.len()), (9, 1));
    }

    #[tokio::test]
    async fn a_verdict_on_what_was_reported_leaves_before_its_lane_continues() {
        let (answers, mut stream) = opened().await;
        let reported = |id| {
            answers.begin(0, id);
            answers.report_begun();
        };
        reported(1);
        assert_eq!(stream.next().await.unwrap().unwrap().begun.len(), 1);
        answers.settle(0, 1, Ok(Done::default()));
        let mut leaves = pin!(answers.leave(0, 1));
        assert!(leaves.as_mut().now_or_never().is_none());
        assert_eq!(stream.next().await.unwrap().unwrap().verdicts.len(), 1);
        leaves.await;
        // The time of what was not reported has not begun for the runtime.
        answers.begin(0, 2);
        answers.settle(0, 2, Ok(Done::default()));
        assert!(answers.leave(0, 2).now_or_never().is_some());
        // Nobody takes the answers of a stream that is lost.
        reported(3);
        assert_eq!(stream.next().await.unwrap().unwrap().begun.len(), 1);
        answers.settle(0, 3, Ok(Done::default()));
        drop(stream);
        answers.leave(0, 3).await;
    }

    #[tokio::test]
    async fn answers_are_cut_at_a_mebibyte() {
        let (answers, mut stream) = opened().await;
        for id in 1..=5 {
            let record = ProducerRecord::new("out", vec![0; 400 << 10]);
            answers.settle(0, id, Ok(record.into()));
        }
        let long = ProducerRecord::new("out", vec![0; 3 << 20]);
        answers.settle(0, 6, Ok(long.into()));
        answers.settle(0, 8, Ok(Done::default()));
        answers.end(Ok(()));
        let mut seen = Vec::new();
        while let Some(said) = stream.next().await {
            let said = said.unwrap();
            assert!(said.encoded_len() < 2 << 20 || said.verdicts.len() == 1);
            seen.push(said.verdicts.len());
        }
        assert_eq!(seen, [2, 2, 1, 1, 1]);
    }

    #[tokio::test]
    async fn a_refusal_is_the_end_of_the_stream() {
        let (answers, mut stream) = opened().await;
        answers.end(Err(Status::failed_precondition("no")));
        answers.end(Ok(()));
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none());
    }
}
