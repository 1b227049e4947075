//! One stream, from its opening to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, Streaming};

use super::encode::Plan;
use super::open::{Ended, OpenChunks, Outcome};
use super::outgoing::Outgoing;
use super::v1::cancel::Reason;
use super::v1::{Cancel, FromHandler, FromRuntime, from_runtime};
use super::{saturated, verdict};

/// Most credits that are kept; a handler that grants more is taken to mean no limit.
const MOST_CREDITS: usize = 1 << 24;

/// A stream. It is live until either side ends it.
pub(super) struct Session {
    outgoing: Arc<Outgoing>,
    /// Deliveries that the handler will take.
    credits: Semaphore,
    granted: Mutex<Instant>,
    open: Mutex<OpenChunks>,
    next_id: AtomicU64,
    live: AtomicBool,
}

/// Why there are no credits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoCredit {
    /// The stream has ended.
    Ended,
    /// The handler has granted none for too long.
    Silent,
}

impl Session {
    /// A stream on which the handler has said its first; the rest is read from now on.
    pub(super) fn start(
        outgoing: Arc<Outgoing>,
        incoming: Streaming<FromHandler>,
        first: FromHandler,
    ) -> Arc<Self> {
        let session = Arc::new(Self::new(outgoing));
        session.take(first);
        tokio::spawn(read(Arc::clone(&session), incoming));
        session
    }

    /// One on which nothing was said yet.
    pub(super) fn new(outgoing: Arc<Outgoing>) -> Self {
        Self {
            outgoing,
            credits: Semaphore::new(0),
            granted: Mutex::new(Instant::now()),
            open: Mutex::default(),
            next_id: AtomicU64::new(1),
            live: AtomicBool::new(true),
        }
    }

    /// Whether deliveries can be sent.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Sends nothing more, and lets the handler end.
    pub(super) fn close(&self) {
        self.live.store(false, Ordering::Release);
        self.credits.close();
        self.outgoing.close();
    }

    /// Takes up to `most` credits; waits for the first while the handler grants others
    /// some at least every `patience`.
    pub(super) async fn take_credits(
        &self,
        most: usize,
        patience: Duration,
    ) -> Result<usize, NoCredit> {
        self.outgoing.has_room().await;
        let first = self.credits.acquire();
        tokio::pin!(first);
        let first = loop {
            let since = (*self.granted.lock()).max(Instant::now() - patience);
            let deadline = since + patience;
            match timeout_at(deadline, &mut first).await {
                Ok(Ok(first)) => break first,
                Ok(Err(_)) => return Err(NoCredit::Ended),
                Err(_) if *self.granted.lock() > since => {}
                Err(_) => return Err(NoCredit::Silent),
            }
        };
        first.forget();
        let more = self.credits.available_permits().min(most - 1);
        Ok(match self.credits.try_acquire_many(more as u32) {
            Ok(taken) => {
                taken.forget();
                1 + more
            }
            // Another was faster.
            Err(_) => 1,
        })
    }

    /// Credits that are left.
    pub(super) fn credits(&self) -> usize {
        self.credits.available_permits()
    }

    /// Notes deliveries that are sent; `None` once the stream has ended.
    pub(super) fn open(
        &self,
        count: usize,
        deadline: Instant,
    ) -> Option<(u64, oneshot::Receiver<Outcome>)> {
        let first_id = self.next_id.fetch_add(count as u64, Ordering::Relaxed);
        let outcome = self.open.lock().add(first_id, count, deadline)?;
        Some((first_id, outcome))
    }

    /// Returns credits that were not needed after all.
    pub(super) fn give_back(&self, credits: usize) {
        self.credits.add_permits(credits);
    }

    /// Sends a batch for which credits were taken. `None` if the stream has ended and
    /// nothing was sent.
    pub(super) fn send(self: &Arc<Self>, plan: &Plan<'_>, timeout: Duration) -> Option<Sent> {
        let deadline = Instant::now() + timeout;
        let (first_id, outcome) = self.open(plan.count(), deadline)?;
        let deadline_ms = unix_ms(SystemTime::now() + timeout);
        let sent = Sent {
            session: Arc::clone(self),
            first_id,
            deadline,
            outcome,
        };
        let written = self
            .outgoing
            .write(|out| plan.write(first_id, deadline_ms, out));
        written.then_some(sent)
    }

    /// Takes what the handler said.
    pub(super) fn take(&self, message: FromHandler) {
        let now = Instant::now();
        if !message.verdicts.is_empty() {
            let mut open = self.open.lock();
            for said in message.verdicts {
                let (first_id, count) = (said.first_id, said.count.max(1));
                open.settle(first_id, count, &verdict::of(said), now);
            }
        }
        if message.credits > 0 {
            *self.granted.lock() = now;
            let room = MOST_CREDITS.saturating_sub(self.credits.available_permits());
            self.credits.add_permits(room.min(message.credits as usize));
        }
    }

    /// Nothing more will be said.
    pub(super) fn end(&self, ended: Ended) {
        self.close();
        self.open.lock().end(ended);
    }

    /// Takes back what nothing was said of, and tells the handler so.
    fn cancel(&self, first_id: u64, reason: Reason) -> Option<Outcome> {
        let (verdicts, deliveries) = self.open.lock().remove(first_id)?;
        let cancel = Cancel {
            deliveries,
            reason: reason.into(),
        };
        self.outgoing.send(&FromRuntime {
            message: Some(from_runtime::Message::Cancel(cancel)),
        });
        Some(Outcome {
            verdicts,
            ended: Ended::TimedOut,
        })
    }
}

async fn read(session: Arc<Session>, mut incoming: Streaming<FromHandler>) {
    let ended = loop {
        match incoming.message().await {
            Ok(Some(message)) => session.take(message),
            Ok(None) => break Ended::InOrder,
            Err(status) => break Ended::Broken(describe(&status)),
        }
    };
    session.end(ended);
}

/// A status in words.
pub(super) fn describe(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            "the server has no service penstock.handler.v1.Handler".to_owned()
        }
        (code, "") => code.to_string(),
        (code, text) => format!("{code}: {text}"),
    }
}

/// A batch on its way. Dropped before its outcome is known, it is cancelled: its
/// partition was revoked, or the consumer stops.
pub(super) struct Sent {
    session: Arc<Session>,
    first_id: u64,
    deadline: Instant,
    outcome: oneshot::Receiver<Outcome>,
}

impl Sent {
    /// Waits until everything is said, or nothing more will be.
    pub(super) async fn outcome(mut self) -> Outcome {
        if let Ok(Ok(outcome)) = timeout_at(self.deadline, &mut self.outcome).await {
            return outcome;
        }
        if let Some(outcome) = self.session.cancel(self.first_id, Reason::TimedOut) {
            return outcome;
        }
        // It was closed at this very moment.
        self.outcome.try_recv().unwrap_or(Outcome {
            verdicts: Vec::new(),
            ended: Ended::TimedOut,
        })
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.session.cancel(self.first_id, Reason::Revoked);
    }
}

/// Rounded up: who ends a call at its deadline has not ended it before.
fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = since.as_nanos().div_ceil(1_000_000);
    i64::try_from(saturated(ms)).unwrap_or(i64::MAX)
}
