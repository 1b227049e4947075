//! Handlers outside the process: batches one way, verdicts the other, over one gRPC
//! stream. The contract is `proto/penstock/handler/v1/handler.proto`.
//!
//! ```text
//! worker × n ─ encode ─► outgoing ─► stream ─► handler
//!     ▲                                           │
//!     └── open chunks ◄── reader ◄── stream ◄─────┘
//! ```
//!
//! All workers share the stream. A worker takes as many credits as it can use, writes that much
//! of its batch straight into the stream's buffer, and waits for the verdicts before it writes
//! the rest.
//!
//! Invariant.** An attempt is charged only to a message that has begun. The runtime waits for a
//! handler that is away, silent or refused (`availability`). Messages that return from a broken
//! stream or begin too late are sent again as the same attempt (`open`, `suspects`).
//!
//! Invariant.** No message of a draining partition is sent: `Batch::return_draining` checks
//! right before each chunk, with no `await` in between.
//!
//! Invariant.** No message of a revoked partition begins: the runtime withdraws its messages
//! from the handler, which continues with other partitions of the batch (`Batch::revocations`).
//!
//! Invariant.** No two calls of one order run on two streams. A stream that the handler ended
//! has no call left. After a stream broke, the handler's process may still run its calls. If
//! there is an order, nothing is sent on the next stream before the time of these calls is
//! over, unless nothing listened at the address in between: then the process is gone.

mod batch;
mod connect;
mod encode;
mod hear;
mod open;
mod outgoing;
mod session;
mod suspects;
#[cfg(test)]
mod tests;
mod verdict;
mod welcome;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::validate::{Address, ConsumeMode, ValidatedConsumer};
use penstock_handler::{VERSION, v1};

pub use hear::{Heard, hear};

use super::availability::{Availability, Lack, Patience};
use super::{BatchHandler, HandlerError};
use crate::handler::produce::Done;
use crate::handler::record::Message;
use batch::Batch;
use connect::{ConnectError, Connector};
use encode::{MAX_HEAD_SIZE, Plan};
use open::{Fate, Limits, is_unbegun};
use session::Session;
use suspects::Suspects;

/// The size at which a batch is full: gRPC's libraries accept messages of 4 MiB by default.
const CHUNK_BYTES: usize = 1 << 20;

/// The minimum duration of a good stream, after which the next may be opened immediately.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Pauses between streams that end immediately.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A handler that sends batches to a gRPC server.
pub struct GrpcHandler {
    connector: Connector,
    limits: Limits,
    order: v1::Order,
    session: Mutex<Option<Arc<Session>>>,
    /// Held while connecting; the pause before the next stream.
    connecting: tokio::sync::Mutex<Duration>,
    availability: Arc<Availability>,
    suspects: Suspects,
}

impl GrpcHandler {
    /// Creates the handler of a consumer that listens at an address.
    pub fn new(consumer: &ValidatedConsumer, address: &Address) -> Self {
        let limits = Limits {
            timeout: consumer.handler.timeout.get(),
            max_timeout: consumer.handler.max_timeout().get(),
            wait: consumer.handler.wait_timeout().get(),
        };
        let order = match consumer.mode {
            ConsumeMode::InOrder => v1::Order::Batch,
            ConsumeMode::KeyOrdered { .. } => v1::Order::Key,
            ConsumeMode::Fast { .. } => v1::Order::Unspecified,
        };
        let hello = v1::Hello {
            version: VERSION,
            consumer: consumer.name.to_string(),
            group: consumer.group.to_string(),
            timeout_ms: saturated(limits.timeout.as_millis()),
            order: order.into(),
            max_batch: consumer.consume_batch_size.get(),
            max_batches: saturated(consumer.mode.handlers() as u128) as u32,
            wait_ms: saturated(limits.wait.as_millis()),
            max_timeout_ms: saturated(limits.max_timeout.as_millis()),
        };
        Self {
            connector: Connector::new(address, hello, limits),
            limits,
            order,
            session: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            availability: Arc::default(),
            suspects: Suspects::default(),
        }
    }

    /// Waits until the handler is healthy and has opened its end of the stream, at most for
    /// `limit`.
    ///
    /// # Errors
    /// Returns the last error after `limit`. Returns a permanent error immediately if the
    /// handler does not speak the protocol as the consumer needs it.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        let last = Mutex::new("no answer".to_owned());
        let failed = |error: ConnectError| match error {
            ConnectError::Refused(refusal) => Err(HandlerError::permanent(refusal)),
            error => {
                *last.lock() = error.to_string();
                Ok(())
            }
        };
        let session = tokio::time::timeout(limit, self.session(failed)).await;
        let address = self.connector.address();
        match session {
            Ok(session) => session.map(drop),
            Err(_) => Err(HandlerError::retryable(format_args!(
                "no connection to the handler at {address} within {limit:?}: {}",
                last.lock()
            ))),
        }
    }

    /// Returns the availability of the handler.
    pub(crate) fn availability(&self) -> &Arc<Availability> {
        &self.availability
    }

    /// Returns the stream. Opens it again if there is none, until `failed` returns an error.
    async fn session<E>(
        &self,
        failed: impl Fn(ConnectError) -> Result<(), E>,
    ) -> Result<Arc<Session>, E> {
        if let Some(session) = self.live() {
            return Ok(session);
        }
        let mut pause = self.connecting.lock().await;
        if let Some(session) = self.live() {
            return Ok(session);
        }
        let before = self.session.lock().clone();
        if let Some(before) = &before {
            if before.opened().elapsed() >= GOOD_STREAM {
                *pause = Duration::ZERO;
            }
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        }
        let connected = self.connector.connect(failed).await?;
        let session = connected.session;
        // Counted when the stream is replaced, as a wait before that may be cut short.
        if before.as_ref().is_some_and(|before| before.has_broken()) {
            self.suspects.note_trouble();
        }
        if !connected.was_gone {
            session.follows(before.and_then(|before| before.busy_until()));
        }
        *self.session.lock() = Some(Arc::clone(&session));
        self.availability.has(Lack::Handshake);
        Ok(session)
    }

    fn live(&self) -> Option<Arc<Session>> {
        let session = self.session.lock();
        session
            .as_ref()
            .filter(|session| session.is_live())
            .cloned()
    }
}

impl Drop for GrpcHandler {
    fn drop(&mut self) {
        if let Some(session) = self.session.lock().take() {
            session.close();
        }
    }
}

impl<T: Send + Sync> BatchHandler<T> for GrpcHandler {
    /// A message's time begins when the handler reports it, not while it waits.
    fn keeps_time(&self) -> bool {
        true
    }

    fn keeps_key_order(&self) -> bool {
        self.order == v1::Order::Key
    }

    async fn handle_batch(&self, messages: &[Message<'_, T>]) -> Vec<Result<Done, HandlerError>> {
        self.handle_batch_alive(messages, &|| {}).await
    }

    async fn handle_batch_alive(
        &self,
        messages: &[Message<'_, T>],
        alive: &(dyn Fn() + Sync),
    ) -> Vec<Result<Done, HandlerError>> {
        let patience = Patience {
            availability: &self.availability,
            alive,
        };
        let mut batch = Batch::new(messages, self.order);
        loop {
            batch.return_draining();
            let Some(first) = batch.rest.front() else {
                return batch.verdicts();
            };
            alive();
            let alone = self.suspects.contain(messages[*first].record);
            let turn = patience.wait(self.suspects.turn(alone));
            if let Some(_turn) = batch.unless_draining(turn).await {
                self.give(&mut batch, alone, &patience).await;
            }
        }
    }
}

impl GrpcHandler {
    /// Sends as much of the rest as there are credits for, and takes the verdicts. Sends
    /// nothing if the stream ends or a partition drains before that.
    async fn give<T>(&self, batch: &mut Batch<'_, T>, alone: bool, patience: &Patience<'_>) {
        let ready = batch.unless_draining(self.ready(patience)).await;
        let Some(session) = ready else {
            return;
        };
        let peer = session.peer();
        let most = match alone {
            true => 1,
            false => self.unsuspected(batch).min(peer.max_batch).max(1),
        };
        let granted = || session.granted();
        if alone && !self.is_proven(&session, batch, patience).await {
            return;
        }
        let credits = patience.wait_for(Lack::Credits, granted, session.take_credits(most));
        let Some(Some(credits)) = batch.unless_draining(credits).await else {
            return;
        };
        // There is no `await` between this and the sending.
        if batch.return_draining() {
            session.give_back(credits);
            return;
        }
        let messages = batch.messages;
        let max_bytes = peer.max_message_bytes.saturating_sub(MAX_HEAD_SIZE);
        let rest = batch.rest.iter().take(credits);
        let plan = Plan::of(
            rest.map(|index| &messages[*index]),
            max_bytes.min(CHUNK_BYTES),
        );
        if plan.max_size() > peer.max_message_bytes {
            session.give_back(credits);
            let error = too_long(plan.max_size(), peer.max_message_bytes);
            if let Some(first) = batch.rest.front().copied() {
                batch.refuse(first, error);
            }
            return;
        }
        session.give_back(credits - plan.count());
        let Some(sent) = session.send(&plan) else {
            return;
        };
        let indices: Vec<_> = batch.rest.drain(..plan.count()).collect();
        let behind = |places: &[usize]| batch.behind(&indices, places);
        let (revoked, sent_at) = (batch.revocations(&indices), sent.sent());
        let mut fates = sent.outcome(patience.alive, behind, revoked).await;
        // Messages that the handler released have waited as long.
        let has_waited = sent_at.elapsed() >= self.limits.wait;
        let begun = |fate: &Fate| matches!(fate, Fate::Verdict(verdict) if !is_unbegun(verdict));
        if fates.iter().any(begun) {
            self.availability.has(Lack::Stability);
        } else if has_waited && fates.iter().any(Fate::is_unbegun) {
            let wait = self.limits.wait;
            let detail = format_args!("no message began within {wait:?}");
            self.availability.lacks(Lack::Beginning, detail);
        }
        let is_silent = fates.iter().any(|fate| matches!(fate, Fate::Silent(_)));
        if is_silent && session.note_silence() {
            self.suspects.note_trouble();
        }
        let records = indices.iter().map(|index| messages[*index].record);
        let age = session.opened().elapsed();
        self.suspects
            .take(records.zip(&mut fates), alone, age, sent_at);
        batch.take(&indices, fates, self.limits.timeout, peer);
    }

    /// Waits until the handler has shown that it stays up without a message, and speaks, if it
    /// must before the first message of the rest is sent alone. Otherwise a message to a
    /// handler that another message blocks would be taken for the cause. Returns `false` if it
    /// has not shown that, or if a partition drains first.
    async fn is_proven<T>(
        &self,
        session: &Session,
        batch: &mut Batch<'_, T>,
        patience: &Patience<'_>,
    ) -> bool {
        let messages = batch.messages;
        let Some(record) = batch.rest.front().map(|first| messages[*first].record) else {
            return false;
        };
        let proof = self.suspects.proof(record);
        let heard = || session.heard();
        let shown = patience.wait_for(Lack::Credits, heard, session.shows(proof));
        let Some(shown) = batch.unless_draining(shown).await else {
            // No message waits for the proof any longer.
            self.availability.has(Lack::Stability);
            return false;
        };
        if shown {
            self.availability.has(Lack::Stability);
        } else if proof.is_some() {
            self.suspects.note_own_end(record, session.opened());
            let detail = format_args!("the stream ended within {:?}", session.opened().elapsed());
            self.availability.lacks(Lack::Stability, detail);
        }
        shown
    }

    /// Waits for a stream that can take a message.
    async fn ready(&self, patience: &Patience<'_>) -> Arc<Session> {
        let failed = |error: ConnectError| -> Result<(), Infallible> {
            let lack = match &error {
                ConnectError::Refused(_) => Lack::Handshake,
                ConnectError::Gone(_) | ConnectError::Failed(_) => Lack::Connection,
            };
            let address = self.connector.address();
            self.availability
                .lacks(lack, format_args!("{address}: {error}"));
            Ok(())
        };
        let session = match patience.wait(self.session(failed)).await {
            Ok(session) => session,
            Err(never) => match never {},
        };
        if let Some(until) = session.busy_until()
            && self.order != v1::Order::Unspecified
        {
            patience.wait(tokio::time::sleep_until(until)).await;
        }
        let taken = || session.taken();
        let room = session.wait_for_room();
        patience.wait_for(Lack::Reading, taken, room).await;
        session
    }

    /// Returns the number of messages at the front of the rest that may be sent together.
    fn unsuspected<T>(&self, batch: &Batch<'_, T>) -> usize {
        let is_suspect = |index: &usize| self.suspects.contain(batch.messages[*index].record);
        let until = batch.rest.iter().position(is_suspect);
        until.unwrap_or(batch.rest.len())
    }
}

fn too_long(size: usize, most: usize) -> HandlerError {
    HandlerError::permanent(format_args!(
        "the message takes {size} bytes on the stream, and the handler accepts {most}; raise the handler's limit for received messages"
    ))
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
