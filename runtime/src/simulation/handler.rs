//! The handler of a run: it does with each delivery of a message what the scenario says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::record::{Call, Delivery, Order, Recorder, Verdict};
use super::scenario::{Answer, Attempt, Mode, OUTPUT, Scenario, Shape};
use crate::handler::produce::{Done, ProducerRecord};
use crate::handler::record::Message;
use crate::handler::{BatchHandler, Handler, HandlerError};
use penstock_crds::spec::Commit;

/// The handler beside one process.
pub(super) struct Scripted {
    pub(super) recorder: Recorder,
    pub(super) process: usize,
    pub(super) scenario: Arc<Scenario>,
}

type Given = Result<Done, HandlerError>;

impl Scripted {
    fn call(&self) -> Call {
        // One that keeps time ends by itself.
        let limit = match BatchHandler::<Value>::keeps_time(self) {
            true => Duration::MAX,
            false => self.limit(),
        };
        let order = match self.scenario.mode {
            Mode::InOrder => Order::Call,
            Mode::KeyOrdered(_) => Order::Key,
            Mode::Fast(_) => Order::None,
        };
        self.recorder.call(limit, order)
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.scenario.timeout.into())
    }

    fn begin(&self, message: &Message<'_, Value>, call: &Call) -> (Attempt, usize) {
        let (partition, offset) = (message.partition(), message.offset());
        let seq = seq(message);
        let nth = self.recorder.count(seq);
        let scripted = self.scenario.messages.get(seq);
        let attempt = scripted.and_then(|it| it.attempts.get(nth)).copied();
        let index = call.begin(Delivery {
            seq,
            partition,
            offset,
            key: message
                .key()
                .map(|key| String::from_utf8_lossy(key).into_owned()),
            process: self.process,
            epoch: message.epoch(),
            attempt: message.attempt(),
            given: self.recorder.now(),
            returned: None,
            begun: self.recorder.now(),
            ended: None,
            verdict: Verdict::Open,
        });
        let usual = Attempt {
            latency: 0,
            answer: Answer::Done,
        };
        (attempt.unwrap_or(usual), index)
    }

    /// Handles one message; `None` where the answer leaves it out.
    async fn work(&self, message: &Message<'_, Value>, call: &Call) -> Option<Given> {
        let begun = self.begin(message, call);
        self.work_on(message, begun, call).await
    }

    /// Handles a message that was begun.
    async fn work_on(
        &self,
        message: &Message<'_, Value>,
        (attempt, index): (Attempt, usize),
        call: &Call,
    ) -> Option<Given> {
        let end = |verdict| call.end(index, verdict);
        if attempt.answer == Answer::Hang {
            if !BatchHandler::<Value>::keeps_time(self) {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(self.limit()).await;
            end(Verdict::Retry);
            return Some(Err(HandlerError::retryable("the handler hangs")));
        }
        if attempt.latency > 0 {
            tokio::time::sleep(Duration::from_millis(attempt.latency.into())).await;
        }
        let (verdict, given) = match attempt.answer {
            Answer::Done => (Verdict::Done, Ok(self.done(message))),
            Answer::Retry | Answer::Hang => {
                (Verdict::Retry, Err(HandlerError::retryable("not now")))
            }
            Answer::RetryAfter(wait) => {
                let error = HandlerError::retryable("later");
                let error = error.after(Duration::from_millis(wait.into()));
                (Verdict::Retry, Err(error))
            }
            Answer::Fail => (Verdict::Fail, Err(HandlerError::permanent("never"))),
            Answer::Skip => (Verdict::Skip, Err(HandlerError::skip("not wanted"))),
            Answer::DeadLetter => {
                let error = HandlerError::dead_letter("poison");
                (Verdict::DeadLetter, Err(error))
            }
            Answer::Panic => {
                panic!("the scenario's handler panics");
            }
            Answer::Missing => {
                end(Verdict::Retry);
                let is_stream = BatchHandler::<Value>::keeps_time(self);
                // There a verdict that never comes is one after the time.
                let late = || Err(HandlerError::retryable("no verdict"));
                return is_stream.then(late);
            }
        };
        end(verdict);
        Some(given)
    }

    /// A record for each message that is handled, where records are transactional.
    fn done(&self, message: &Message<'_, Value>) -> Done {
        if self.scenario.commit != Commit::Transactional {
            return Done::default();
        }
        let mut record = ProducerRecord::new(OUTPUT, seq(message).to_string());
        record.key = message.key().map(<[u8]>::to_vec);
        record.into()
    }

    /// One after the other, up to the first that is not handled; with `skips` past those
    /// that are skipped.
    async fn in_order(
        &self,
        messages: &[&Message<'_, Value>],
        mut first: Option<(Attempt, usize)>,
        skips: bool,
        call: &Call,
    ) -> Vec<Given> {
        let mut verdicts = Vec::new();
        for message in messages {
            // What the handler has of a revoked partition is withdrawn from it.
            let partition = message.assignment();
            let withdraws = BatchHandler::<Value>::keeps_time(self);
            let revoked = || Err(HandlerError::not_attempted("its partition was revoked"));
            if withdraws && first.is_none() && partition.is_revoked() {
                verdicts.push(revoked());
                continue;
            }
            let begun = first.take().unwrap_or_else(|| self.begin(message, call));
            let given = tokio::select! {
                biased;
                given = self.work_on(message, begun, call) => given,
                () = partition.when_revoked(), if withdraws => {
                    call.end(begun.1, Verdict::CutShort);
                    verdicts.push(revoked());
                    continue;
                }
            };
            let Some(given) = given else {
                break;
            };
            let goes_on = match &given {
                Ok(_) => true,
                Err(error) => skips && !error.stops_key(),
            };
            verdicts.push(given);
            if !goes_on {
                break;
            }
        }
        verdicts
    }
}

/// The number of a message. None has none: those without can't be decoded.
fn seq(message: &Message<'_, Value>) -> usize {
    let number = message.data()["seq"].as_u64();
    number
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(usize::MAX)
}

impl Handler<Value> for Scripted {
    async fn handle(&self, message: Message<'_, Value>) -> Given {
        let call = self.call();
        let given = self.work(&message, &call).await;
        call.done();
        given.unwrap_or_else(|| Err(HandlerError::retryable("no verdict")))
    }
}

impl BatchHandler<Value> for Scripted {
    async fn handle_batch(&self, messages: &[Message<'_, Value>]) -> Vec<Given> {
        let call = self.call();
        let given = match self.scenario.mode {
            Mode::InOrder => {
                let all: Vec<_> = messages.iter().collect();
                self.in_order(&all, None, true, &call).await
            }
            Mode::KeyOrdered(_) => self.by_key(messages, &call).await,
            Mode::Fast(_) => {
                // All are begun before the first may panic: it takes the others along.
                let begun: Vec<_> = messages.iter().map(|it| self.begin(it, &call)).collect();
                let work = messages.iter().zip(begun);
                let work = work.map(|(it, begun)| self.work_on(it, begun, &call));
                let given: Vec<_> = join_all(work).await;
                let answered = given.iter().position(Option::is_none);
                if let Some(end) = answered {
                    call.leave_out_from(end);
                }
                given.into_iter().map_while(|given| given).collect()
            }
        };
        call.done();
        given
    }

    fn keeps_time(&self) -> bool {
        self.scenario.shape == Shape::Stream
    }

    fn keeps_key_order(&self) -> bool {
        self.scenario.shape == Shape::Stream
    }
}

impl Scripted {
    /// Those of one key one after the other, keys side by side.
    async fn by_key(&self, messages: &[Message<'_, Value>], call: &Call) -> Vec<Given> {
        let mut keys: BTreeMap<(i32, Vec<u8>), Vec<usize>> = BTreeMap::new();
        let mut alone = BTreeSet::new();
        for (index, message) in messages.iter().enumerate() {
            match message.key() {
                Some(key) => {
                    let key = (message.partition(), key.to_vec());
                    keys.entry(key).or_default().push(index);
                }
                None => {
                    alone.insert(index);
                }
            }
        }
        let runs: Vec<Vec<usize>> = keys
            .into_values()
            .chain(alone.into_iter().map(|index| vec![index]))
            .collect();
        // The first of each key is begun before one of them may panic.
        let first: Vec<_> = runs
            .iter()
            .map(|run| self.begin(&messages[run[0]], call))
            .collect();
        let calls = runs.iter().zip(first).map(|(run, first)| async move {
            let run: Vec<_> = run.iter().map(|index| &messages[*index]).collect();
            self.in_order(&run, Some(first), true, call).await
        });
        let mut verdicts: Vec<Option<Given>> = messages.iter().map(|_| None).collect();
        for (run, given) in runs.iter().zip(join_all(calls).await) {
            for (index, given) in run.iter().zip(given) {
                verdicts[*index] = Some(given);
            }
        }
        // What was not begun is behind one of its key that failed, and does not count.
        let missing = || Err(HandlerError::retryable("no verdict"));
        verdicts
            .into_iter()
            .map(|given| given.unwrap_or_else(missing))
            .collect()
    }
}
