//! A call's messages: which are to be sent yet, and what was said of the others.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::open::{Ended, Outcome, Verdict};
use super::v1::Order;
use crate::handler::HandlerError;
use crate::produce::Done;
use crate::record::{Message, Record};

/// The state of a call.
pub(super) struct Batch<'m, T> {
    pub(super) messages: &'m [Message<'m, T>],
    /// Places of the messages that are to be sent yet.
    pub(super) rest: VecDeque<usize>,
    order: Order,
    verdicts: Vec<Verdict>,
    /// A stream ended in order under this call once.
    given_again: bool,
    /// Since when nothing of it has been sent.
    unsent_since: Instant,
}

impl<'m, T> Batch<'m, T> {
    pub(super) fn new(messages: &'m [Message<'m, T>], order: Order) -> Self {
        Self {
            messages,
            rest: (0..messages.len()).collect(),
            order,
            verdicts: messages.iter().map(|_| None).collect(),
            given_again: false,
            unsent_since: Instant::now(),
        }
    }

    /// What was said of each message. In order none counts behind the first failure.
    pub(super) fn verdicts(self) -> Vec<Result<Done, HandlerError>> {
        self.verdicts.into_iter().map_while(|it| it).collect()
    }

    /// The stream ended before more could be sent. That costs no attempt, unless it goes
    /// on like this.
    pub(super) fn unsent(&self, patience: Duration) -> Result<(), HandlerError> {
        if self.unsent_since.elapsed() < patience {
            return Ok(());
        }
        Err(HandlerError::retryable(format_args!(
            "the handler ended stream after stream for {patience:?} and took no more messages"
        )))
    }

    pub(super) fn fail_rest(&mut self, error: &HandlerError) {
        for place in self.rest.drain(..) {
            self.verdicts[place] = Some(Err(error.clone()));
        }
    }

    /// Takes what became of the messages at these places.
    pub(super) fn take(&mut self, places: &[usize], outcome: Outcome, timeout: Duration) {
        self.unsent_since = Instant::now();
        let Outcome { verdicts, ended } = outcome;
        let mut unsaid = Vec::new();
        for (place, verdict) in places.iter().zip(verdicts) {
            match verdict {
                Some(verdict) => self.verdicts[*place] = Some(verdict),
                None => unsaid.push(*place),
            }
        }
        if !unsaid.is_empty() {
            let again = self.given_again(places, &unsaid, &ended);
            for place in unsaid.into_iter().rev() {
                match again.contains(&place) {
                    true => self.rest.push_front(place),
                    false => self.verdicts[place] = Some(Err(ended.error(timeout))),
                }
            }
        }
        match self.order {
            Order::Batch if self.verdicts.iter().any(has_failed) => self.rest.clear(),
            Order::Key => self.hold_back(),
            _ => {}
        }
    }

    /// Which of the messages without a verdict have not failed, and are sent again.
    fn given_again(&mut self, places: &[usize], unsaid: &[usize], ended: &Ended) -> HashSet<usize> {
        match (ended, self.order) {
            (Ended::InOrder, _) if !self.given_again => {
                self.given_again = true;
                unsaid.iter().copied().collect()
            }
            // Those before them of their keys have used the time.
            (Ended::TimedOut, Order::Key) => {
                let mut seen = HashSet::new();
                let follows = |place: &usize| {
                    let key = key_of(self.messages[*place].record);
                    key.is_some_and(|key| !seen.insert(key))
                };
                places.iter().copied().filter(follows).collect()
            }
            _ => HashSet::new(),
        }
    }

    /// Sends nothing behind a message that was neither done nor skipped, of its key.
    fn hold_back(&mut self) {
        if self.rest.is_empty() {
            return;
        }
        let said = self.messages.iter().zip(&self.verdicts);
        let failed = said.filter(|(_, verdict)| stops_key(verdict));
        let failed: HashSet<_> = failed
            .filter_map(|(message, _)| key_of(message.record))
            .collect();
        let Self {
            messages,
            rest,
            verdicts,
            ..
        } = self;
        rest.retain(|place| {
            let key = key_of(messages[*place].record);
            let is_behind = key.is_some_and(|key| failed.contains(&key));
            if is_behind {
                let behind = HandlerError::retryable("a message before it of its key was not done");
                verdicts[*place] = Some(Err(behind));
            }
            !is_behind
        });
    }
}

fn has_failed(verdict: &Verdict) -> bool {
    matches!(verdict, Some(Err(_)))
}

fn stops_key(verdict: &Verdict) -> bool {
    matches!(verdict, Some(Err(error)) if error.stops_key())
}

/// What names the order that a message has a place in; a message without a key has none.
fn key_of(record: &Record) -> Option<(&str, i32, &[u8])> {
    Some((record.topic(), record.partition(), record.key()?))
}
