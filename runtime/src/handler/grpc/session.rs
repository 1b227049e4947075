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
    /// The handler has read nothing for too long.
    Unread,
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

    /// Takes up to `most` credits. Waits for room on the stream and for the first credit,
    /// each while the handler makes others progress at least every `patience`; `alive` is
    /// called whenever it does.
    pub(super) async fn take_credits(
        &self,
        most: usize,
        patience: Duration,
        alive: &(dyn Fn() + Sync),
    ) -> Result<usize, NoCredit> {
        let room = self.outgoing.wait_for_room();
        wait_while(room, patience, alive, || self.outgoing.taken())
            .await
            .ok_or(NoCredit::Unread)?;
        let first = self.credits.acquire();
        let first = wait_while(first, patience, alive, || *self.granted.lock())
            .await
            .ok_or(NoCredit::Silent)?
            .map_err(|_| NoCredit::Ended)?;
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

/// Waits for something that the handler has to do. `None` if the last time that it did such
/// a thing, as `last` says, and the beginning of this wait are `patience` ago.
async fn wait_while<T>(
    awaited: impl Future<Output = T>,
    patience: Duration,
    alive: &(dyn Fn() + Sync),
    last: impl Fn() -> Instant,
) -> Option<T> {
    let began = Instant::now();
    tokio::pin!(awaited);
    loop {
        let since = last().max(began);
        if let Ok(done) = timeout_at(since + patience, &mut awaited).await {
            return Some(done);
        }
        if last() <= since {
            return None;
        }
        alive();
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::AtomicU32;
    use std::task::{Context, Waker};

    use bytes::BufMut as _;
    use futures_util::FutureExt as _;
    use http_body::Body as _;
    use tokio::time::{advance, timeout};

    use super::super::outgoing::{MOST, OutgoingBody};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A stream that takes what waits only when it is asked to.
    fn session() -> (Session, OutgoingBody) {
        let outgoing = Arc::new(Outgoing::default());
        let body = OutgoingBody(Arc::clone(&outgoing));
        (Session::new(outgoing), body)
    }

    fn fill(session: &Session) {
        assert!(session.outgoing.write(|out| out.put_bytes(0, MOST)));
    }

    fn take(body: &mut OutgoingBody) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(body).poll_frame(&mut context).is_ready());
    }

    fn grant(session: &Session, credits: u32) {
        session.take(FromHandler {
            credits,
            verdicts: Vec::new(),
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_has_no_credits_after_a_while() {
        let (session, _body) = session();
        grant(&session, 10);
        fill(&session);
        advance(PATIENCE * 100).await;
        let began = Instant::now();
        let credits = session.take_credits(5, PATIENCE, &|| {});
        let credits = timeout(PATIENCE * 2, credits).await.expect("no hang");
        assert_eq!(credits, Err(NoCredit::Unread));
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        assert_eq!(session.credits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_read_slowly_is_waited_for() {
        let (session, mut body) = session();
        grant(&session, 10);
        fill(&session);
        let alive = AtomicU32::new(0);
        let count = || {
            alive.fetch_add(1, Ordering::Relaxed);
        };
        let credits = session.take_credits(5, PATIENCE, &count);
        tokio::pin!(credits);
        for _ in 0..3 {
            assert!((&mut credits).now_or_never().is_none());
            advance(PATIENCE * 2 / 3).await;
            // Another has filled it again before this one is woken.
            take(&mut body);
            fill(&session);
        }
        assert!((&mut credits).now_or_never().is_none());
        assert!(alive.load(Ordering::Relaxed) > 0);
        take(&mut body);
        assert_eq!(credits.await, Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_was_idle_has_as_long_to_grant_as_any() {
        let (session, _body) = session();
        grant(&session, 1);
        assert_eq!(session.take_credits(1, PATIENCE, &|| {}).await, Ok(1));
        advance(PATIENCE * 100).await;
        let credits = session.take_credits(1, PATIENCE, &|| {});
        tokio::pin!(credits);
        assert!((&mut credits).now_or_never().is_none());
        advance(PATIENCE / 2).await;
        assert!((&mut credits).now_or_never().is_none());
        grant(&session, 1);
        assert_eq!(credits.await, Ok(1));

        let began = Instant::now();
        let credits = session.take_credits(1, PATIENCE, &|| {}).await;
        assert_eq!(credits, Err(NoCredit::Silent));
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
    }
}
