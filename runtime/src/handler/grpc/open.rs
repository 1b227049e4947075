//! Deliveries that wait for verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::v1::Range;
use crate::handler::HandlerError;
use crate::produce::Done;

/// What the handler said of a delivery; nothing yet.
pub(super) type Verdict = Option<Result<Done, HandlerError>>;

/// What became of a chunk.
#[derive(Debug)]
pub(super) struct Outcome {
    /// For each delivery what was said of it.
    pub(super) verdicts: Vec<Verdict>,
    /// Why nothing more will be said.
    pub(super) ended: Ended,
}

/// Why deliveries wait no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is a verdict on each.
    Said,
    /// The time is over.
    TimedOut,
    /// The handler ended the stream with status OK.
    InOrder,
    /// The stream broke.
    Broken(String),
}

impl Ended {
    /// What it means for a delivery without a verdict.
    pub(super) fn error(&self, timeout: Duration) -> HandlerError {
        HandlerError::retryable(match self {
            Self::Said => "the handler gave no verdict".to_owned(),
            Self::TimedOut => format!("the handler took longer than {timeout:?}"),
            Self::InOrder => "the handler ended the stream and gave no verdict".to_owned(),
            Self::Broken(why) => format!("the stream to the handler broke: {why}"),
        })
    }
}

/// All deliveries of a stream that wait for verdicts, as the chunks they were sent in.
#[derive(Default)]
pub(super) struct OpenChunks {
    /// By the number of the first delivery of each.
    chunks: BTreeMap<u64, Chunk>,
    ended: Option<Ended>,
}

struct Chunk {
    verdicts: Vec<Verdict>,
    /// Deliveries without a verdict.
    unsaid: usize,
    deadline: Instant,
    done: oneshot::Sender<Outcome>,
}

impl OpenChunks {
    /// Adds deliveries that are about to be sent; `None` once the stream has ended.
    pub(super) fn add(
        &mut self,
        first_id: u64,
        count: usize,
        deadline: Instant,
    ) -> Option<oneshot::Receiver<Outcome>> {
        if self.ended.is_some() {
            return None;
        }
        let (done, outcome) = oneshot::channel();
        let chunk = Chunk {
            verdicts: (0..count).map(|_| None).collect(),
            unsaid: count,
            deadline,
            done,
        };
        self.chunks.insert(first_id, chunk);
        Some(outcome)
    }

    /// Takes a verdict on `count` deliveries from `first_id` on. What it says of those
    /// that nobody waits for, of which it comes too late, or that have a verdict
    /// already, changes nothing.
    pub(super) fn settle(
        &mut self,
        first_id: u64,
        count: u64,
        verdict: &Result<Done, HandlerError>,
        now: Instant,
    ) {
        let end = first_id.saturating_add(count);
        let before = self.chunks.range(..=first_id).next_back();
        let from = before.map_or(first_id, |(first, _)| *first);
        let mut said = Vec::new();
        for (&first, chunk) in self.chunks.range_mut(from..end) {
            if now > chunk.deadline {
                continue;
            }
            let length = chunk.verdicts.len() as u64;
            let begin = first_id.saturating_sub(first).min(length) as usize;
            let end = (end - first).min(length) as usize;
            for place in &mut chunk.verdicts[begin..end] {
                if place.is_none() {
                    *place = Some(verdict.clone());
                    chunk.unsaid -= 1;
                }
            }
            if chunk.unsaid == 0 {
                said.push(first);
            }
        }
        for first in said {
            self.close(first, Ended::Said);
        }
    }

    /// Takes a chunk out: what was said of it, and the deliveries of which nothing was.
    /// `None` if it is closed already.
    pub(super) fn remove(&mut self, first_id: u64) -> Option<(Vec<Verdict>, Vec<Range>)> {
        let chunk = self.chunks.remove(&first_id)?;
        let mut unsaid: Vec<Range> = Vec::new();
        for (id, verdict) in (first_id..).zip(&chunk.verdicts) {
            match unsaid.last_mut() {
                _ if verdict.is_some() => {}
                Some(range) if range.first_id + range.count == id => range.count += 1,
                _ => unsaid.push(Range {
                    first_id: id,
                    count: 1,
                }),
            }
        }
        Some((chunk.verdicts, unsaid))
    }

    /// The stream has ended: no chunk waits any longer, and none is added.
    pub(super) fn end(&mut self, ended: Ended) {
        while let Some((first, _)) = self.chunks.first_key_value() {
            self.close(*first, ended.clone());
        }
        self.ended = Some(ended);
    }

    fn close(&mut self, first: u64, ended: Ended) {
        if let Some(chunk) = self.chunks.remove(&first) {
            let verdicts = chunk.verdicts;
            // Whoever sent it may have left: then nobody wants to know.
            let _ = chunk.done.send(Outcome { verdicts, ended });
        }
    }
}
