//! One stream, from its opening to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::encode::Plan;
use super::open::{Ended, Fate, Limits, OpenChunks, REPORT_GRACE};
use super::outgoing::Outgoing;
use super::suspects::Proof;
use super::welcome::Peer;
use super::{saturated, verdict};
use crate::handler::HandlerError;
use penstock_handler::v1::cancel::Reason;
use penstock_handler::v1::{self, Cancel, FromHandler, FromRuntime, from_runtime};

/// The maximum number of credits that are kept; a handler that grants more sets no limit.
const MOST_CREDITS: usize = 1 << 24;

/// The maximum size of one verdict in bytes. A longer one fails its delivery and no other.
const MAX_VERDICT_BYTES: usize = 16 << 20;

/// A stream. It is live until either side ends it.
pub(super) struct Session {
    outgoing: Arc<Outgoing>,
    peer: Peer,
    limits: Limits,
    /// Deliveries that the handler is ready to take.
    credits: Semaphore,
    granted: Mutex<Instant>,
    /// The time of the last message from the handler.
    heard: Mutex<Instant>,
    has_spoken: Notify,
    /// The value of `heard` when a silence was noted last.
    silent_since: Mutex<Option<Instant>>,
    open: Mutex<OpenChunks>,
    next_id: AtomicU64,
    ended: CancellationToken,
    opened: Instant,
    /// The time until which the handler may still run calls of this stream, or of the broken
    /// one before.
    busy_until: Mutex<Option<Instant>>,
    has_broken: AtomicBool,
}

impl Session {
    /// Creates a stream on which the handler has sent its first message; the rest is read from
    /// now on.
    pub(super) fn start(self, incoming: Streaming<FromHandler>, first: FromHandler) -> Arc<Self> {
        let session = Arc::new(self);
        session.take(first);
        tokio::spawn(read(Arc::clone(&session), incoming));
        session
    }

    /// Creates a stream without a message from the handler.
    pub(super) fn new(outgoing: Arc<Outgoing>, peer: Peer, limits: Limits) -> Self {
        Self {
            outgoing,
            peer,
            limits,
            credits: Semaphore::new(0),
            granted: Mutex::new(Instant::now()),
            heard: Mutex::new(Instant::now()),
            has_spoken: Notify::new(),
            silent_since: Mutex::default(),
            open: Mutex::new(OpenChunks::new(limits)),
            next_id: AtomicU64::new(1),
            ended: CancellationToken::new(),
            opened: Instant::now(),
            busy_until: Mutex::default(),
            has_broken: AtomicBool::new(false),
        }
    }

    /// Returns the handler at the other end.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the time at which the stream was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns `true` if deliveries can be sent.
    pub(super) fn is_live(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Returns `true` if the stream broke.
    pub(super) fn has_broken(&self) -> bool {
        self.has_broken.load(Ordering::Acquire)
    }

    /// Returns the time until which the handler may still run calls of a broken stream: of this
    /// one, or of the one before.
    pub(super) fn busy_until(&self) -> Option<Instant> {
        *self.busy_until.lock()
    }

    /// Notes that the handler may still run calls of the stream before.
    pub(super) fn follows(&self, busy_until: Option<Instant>) {
        let mut until = self.busy_until.lock();
        *until = (*until).max(busy_until);
    }

    /// Sends nothing more, and lets the handler end.
    pub(super) fn close(&self) {
        self.ended.cancel();
        self.credits.close();
        self.outgoing.close();
    }

    /// Waits for room on the stream.
    pub(super) async fn wait_for_room(&self) {
        self.outgoing.wait_for_room().await;
    }

    /// Returns the time at which the handler last read from the stream.
    pub(super) fn taken(&self) -> Instant {
        self.outgoing.taken()
    }

    /// Returns the time at which the handler last granted credits.
    pub(super) fn granted(&self) -> Instant {
        *self.granted.lock()
    }

    /// Returns the time of the last message from the handler.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.lock()
    }

    /// Notes that the handler is silent. Returns `true` if that silence was not noted before.
    pub(super) fn note_silence(&self) -> bool {
        let heard = self.heard();
        self.silent_since.lock().replace(heard) != Some(heard)
    }

    /// Waits until the handler has given the proof, and has sent a message since it was silent.
    /// Returns `false` if the stream ends first.
    pub(super) async fn shows(&self, proof: Option<Proof>) -> bool {
        let shown = async {
            if let Some(proof) = proof {
                sleep_until(self.opened + proof.age).await;
            }
            let said_before = *self.silent_since.lock();
            let since = said_before.max(proof.map(|proof| proof.since));
            loop {
                let spoken = self.has_spoken.notified();
                if since.is_none_or(|since| self.heard() > since) {
                    return;
                }
                spoken.await;
            }
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => false,
            () = shown => true,
        }
    }

    /// Takes up to `most` credits, and waits for the first. Returns `None` after the end of the
    /// stream.
    pub(super) async fn take_credits(&self, most: usize) -> Option<usize> {
        self.credits.acquire().await.ok()?.forget();
        let more = self.credits.available_permits().min(most - 1);
        Some(match self.credits.try_acquire_many(more as u32) {
            Ok(taken) => {
                taken.forget();
                1 + more
            }
            // Another worker took them.
            Err(_) => 1,
        })
    }

    /// Returns the number of credits that are left.
    pub(super) fn credits(&self) -> usize {
        self.credits.available_permits()
    }

    /// Notes deliveries that are sent. Returns `None` after the end of the stream.
    pub(super) fn open(&self, count: usize) -> Option<(u64, oneshot::Receiver<Vec<Fate>>)> {
        let first_id = self.next_id.fetch_add(count as u64, Ordering::Relaxed);
        let has_begun = !self.peer.reports_begun;
        let mut open = self.open.lock();
        let outcome = open.add(first_id, count, has_begun, Instant::now())?;
        Some((first_id, outcome))
    }

    /// Returns unused credits.
    pub(super) fn give_back(&self, credits: usize) {
        self.credits.add_permits(credits);
    }

    /// Sends a batch for which credits were taken. Returns `None` if the stream has ended and
    /// nothing was sent.
    pub(super) fn send(self: &Arc<Self>, plan: &Plan<'_>) -> Option<Sent> {
        let (first_id, outcome) = self.open(plan.count())?;
        // For a handler that reports no beginnings, this is the end of the attempt.
        let time = match self.peer.reports_begun {
            true => self.limits.wait,
            false => self.limits.timeout,
        };
        let begin_by_ms = unix_ms(SystemTime::now() + time);
        let sent = Sent {
            session: Arc::clone(self),
            first_id,
            sent: Instant::now(),
            outcome,
        };
        let written = self
            .outgoing
            .write(|out| plan.write(first_id, begin_by_ms, out));
        written.then_some(sent)
    }

    /// Takes a message from the handler.
    pub(super) fn take(&self, message: FromHandler) {
        let now = Instant::now();
        *self.heard.lock() = now;
        self.has_spoken.notify_waiters();
        let FromHandler {
            credits,
            verdicts,
            begun,
            extensions,
            welcome: _,
        } = message;
        if !(begun.is_empty() && extensions.is_empty() && verdicts.is_empty()) {
            let mut open = self.open.lock();
            for range in &begun {
                open.begin(range, now);
            }
            for extension in extensions {
                if let Some(range) = extension.deliveries {
                    open.extend(&range, Duration::from_millis(extension.time_ms), now);
                }
            }
            for said in verdicts {
                let (first_id, count) = (said.first_id, said.count.max(1));
                open.settle(first_id, count, &judged(said), now);
            }
        }
        if credits > 0 {
            *self.granted.lock() = now;
            let room = MOST_CREDITS.saturating_sub(self.credits.available_permits());
            self.credits.add_permits(room.min(credits as usize));
        }
    }

    /// Notes the end of the stream.
    pub(super) fn end(&self, ended: &Ended) {
        let until = self.open.lock().end(ended, Instant::now());
        self.follows(until);
        let has_broken = *ended != Ended::InOrder;
        self.has_broken.store(has_broken, Ordering::Release);
        // Last: a worker that finds the stream dead must know until when the handler is busy.
        self.close();
    }

    /// Ends deliveries of a chunk, by their indices, and notifies the handler.
    fn withdraw(&self, first_id: u64, indices: &[usize], fate: &Fate, reason: Reason) {
        let now = Instant::now();
        let ranges = self.open.lock().withdraw(first_id, indices, fate, now);
        self.cancel(ranges, reason);
    }

    fn cancel(&self, deliveries: Vec<v1::Range>, reason: Reason) {
        if deliveries.is_empty() {
            return;
        }
        let cancel = Cancel {
            deliveries,
            reason: reason.into(),
        };
        self.outgoing.send(&FromRuntime {
            message: Some(from_runtime::Message::Cancel(cancel)),
        });
    }
}

/// Returns the result of a verdict. A verdict that is too long fails its deliveries.
fn judged(said: v1::Verdict) -> super::open::Verdict {
    let size = said.encoded_len();
    if size > MAX_VERDICT_BYTES {
        return Err(HandlerError::permanent(format_args!(
            "the handler's verdict has {size} bytes, and {MAX_VERDICT_BYTES} are allowed; let it produce less for one message"
        )));
    }
    verdict::of(said)
}

async fn read(session: Arc<Session>, mut incoming: Streaming<FromHandler>) {
    let ended = loop {
        match incoming.message().await {
            Ok(Some(message)) => session.take(message),
            Ok(None) => break Ended::InOrder,
            Err(status) => break Ended::Broken(describe(&status)),
        }
    };
    if let Ended::Broken(error) = &ended
        && session.is_live()
    {
        tracing::warn!(error, "the stream to the handler broke");
    }
    session.end(&ended);
}

/// Describes a status.
pub(super) fn describe(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            "the server has no service penstock.handler.v1.Handler".to_owned()
        }
        (code, "") => code.to_string(),
        (code, text) => format!("{code}: {text}"),
    }
}

/// A batch that was sent. If it is dropped before its outcome is known, it is cancelled: its
/// partition was revoked, or the consumer stops.
pub(super) struct Sent {
    session: Arc<Session>,
    first_id: u64,
    sent: Instant,
    outcome: oneshot::Receiver<Vec<Fate>>,
}

impl Sent {
    /// Returns the time at which it was sent.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Waits until each delivery has a fate. Withdraws the deliveries that take too long, the
    /// ones that `behind` finds after them in their order, and the ones that `revoked` names.
    /// Calls `alive` as long as some deliveries have time left.
    pub(super) async fn outcome(
        mut self,
        alive: &(dyn Fn() + Sync),
        behind: impl Fn(&[usize]) -> Vec<usize>,
        mut revoked: impl Stream<Item = Vec<usize>> + Unpin,
    ) -> Vec<Fate> {
        let limits = self.session.limits;
        let first_look = limits.timeout.min(limits.wait + REPORT_GRACE);
        let mut next = Instant::now() + first_look;
        loop {
            tokio::select! {
                biased;
                outcome = &mut self.outcome => return outcome.unwrap_or_default(),
                Some(places) = revoked.next() => {
                    let fate = Fate::Returned("the partition was revoked".into());
                    self.session
                        .withdraw(self.first_id, &places, &fate, Reason::Revoked);
                    continue;
                }
                () = sleep_until(next) => {}
            }
            alive();
            let now = Instant::now();
            self.withdraw_overdue(now, &behind);
            let open = self.session.open.lock();
            next = open.next_deadline(self.first_id, now).unwrap_or(now);
        }
    }

    fn withdraw_overdue(&self, now: Instant, behind: impl Fn(&[usize]) -> Vec<usize>) {
        let (session, id) = (&self.session, self.first_id);
        let overdue = session.open.lock().overdue(id, now);
        if !overdue.timed_out.is_empty() {
            session.withdraw(id, &overdue.timed_out, &Fate::TimedOut, Reason::TimedOut);
            let why = "an earlier message of its order took too long".into();
            let behind = behind(&overdue.timed_out);
            session.withdraw(id, &behind, &Fate::Returned(why), Reason::NotBegun);
        }
        if !overdue.not_begun.is_empty() {
            let wait = session.limits.wait;
            let why = format!("the handler did not begin the message within {wait:?}").into();
            // A call that does not return may prevent the handler from sending.
            let is_explained = session.open.lock().has_unreturned();
            let fate = match is_explained || session.heard() > self.sent {
                true => Fate::NotBegun(why),
                false => Fate::Silent(why),
            };
            session.withdraw(id, &overdue.not_begun, &fate, Reason::NotBegun);
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let now = Instant::now();
        let ranges = self.session.open.lock().remove(self.first_id, now);
        self.session
            .cancel(ranges.unwrap_or_default(), Reason::Revoked);
    }
}

/// Rounded up: a handler that ends a call at its deadline has then not ended it early.
fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = since.as_nanos().div_ceil(1_000_000);
    i64::try_from(saturated(ms)).unwrap_or(i64::MAX)
}
