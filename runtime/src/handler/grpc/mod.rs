//! Handlers outside the process: batches one way, verdicts the other, over one gRPC
//! stream. The contract is `proto/penstock/handler/v1/handler.proto`.
//!
//! ```text
//! worker × n ─ encode ─► outgoing ─► stream ─► handler
//!     ▲                                           │
//!     └── open chunks ◄── reader ◄── stream ◄─────┘
//! ```
//!
//! All workers share the stream. A worker takes as many credits as it can use, writes
//! that much of its batch straight into the stream's buffer, and waits for the verdicts
//! on it before it writes the rest.

mod batch;
mod connect;
mod encode;
mod hear;
mod open;
mod outgoing;
pub mod serve;
mod session;
#[cfg(test)]
mod tests;
mod verdict;

/// The messages of the contract, generated from its proto file.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
#[rustfmt::skip]
pub mod v1;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use penstock_crds::validate::{Address, ConsumeMode, ValidatedConsumer};
use tokio::time::Instant;

pub use hear::{Heard, hear};

use super::{BatchHandler, HandlerError};
use crate::produce::Done;
use crate::record::Message;
use batch::Batch;
use connect::Connector;
use encode::Plan;
use session::{NoCredit, Session};

/// The version of the protocol within `v1` that the runtime speaks.
pub const VERSION: u32 = 1;

/// Share of an attempt's time for which a handler that can't be reached is waited for,
/// so that a restart of it costs no attempt, and the failure still says that there was
/// no connection.
const CONNECT_SHARE: f64 = 0.9;

/// Bytes after which a batch is not made longer: gRPC's libraries take messages of
/// 4 MiB unless told otherwise.
const CHUNK_BYTES: usize = 1 << 20;

/// Gives batches to a gRPC server.
pub struct GrpcHandler {
    connector: Connector,
    timeout: Duration,
    order: v1::Order,
    session: Mutex<Option<Arc<Session>>>,
    /// Held by who connects.
    connecting: tokio::sync::Mutex<()>,
}

impl GrpcHandler {
    /// The handler of a consumer, which listens at an address.
    pub fn new(consumer: &ValidatedConsumer, address: &Address) -> Self {
        let timeout = consumer.handler.timeout.get();
        let order = match consumer.mode {
            ConsumeMode::InOrder => v1::Order::Batch,
            ConsumeMode::KeyOrdered { .. } => v1::Order::Key,
            ConsumeMode::Fast { .. } => v1::Order::Unspecified,
        };
        let hello = v1::Hello {
            version: VERSION,
            consumer: consumer.name.to_string(),
            group: consumer.group.to_string(),
            timeout_ms: saturated(timeout.as_millis()),
            order: order.into(),
            max_batch: consumer.consume_batch_size.get(),
            max_batches: saturated(consumer.mode.handlers() as u128) as u32,
        };
        Self {
            connector: Connector::new(address, hello),
            timeout,
            order,
            session: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until the handler is healthy and has opened its end of the stream, at most
    /// `limit`.
    ///
    /// # Errors
    /// When it has not by then.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        self.session(limit).await.map(drop)
    }

    /// The stream, opened anew if there is none.
    async fn session(&self, limit: Duration) -> Result<Arc<Session>, HandlerError> {
        if let Some(session) = self.live() {
            return Ok(session);
        }
        let deadline = Instant::now() + limit;
        let connect = async {
            let _alone = self.connecting.lock().await;
            if let Some(session) = self.live() {
                return Ok(session);
            }
            let session = self.connector.connect(deadline).await?;
            *self.session.lock() = Some(Arc::clone(&session));
            Ok(session)
        };
        tokio::time::timeout_at(deadline, connect)
            .await
            .unwrap_or_else(|_| Err("no answer".to_owned()))
            .map_err(|error| {
                HandlerError::retryable(format_args!(
                    "no connection to the handler at {} within {limit:?}: {error}",
                    self.connector.address()
                ))
            })
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
    /// A message's time begins when it is sent, not while it waits for a credit.
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
        let mut batch = Batch::new(messages, self.order);
        while !batch.rest.is_empty() {
            if let Err(error) = self.give(&mut batch, alive).await {
                batch.fail_rest(&error);
            }
        }
        batch.verdicts()
    }
}

impl GrpcHandler {
    /// Gives as much of the rest as there are credits for, and takes the verdicts on it.
    async fn give<T>(
        &self,
        batch: &mut Batch<'_, T>,
        alive: &(dyn Fn() + Sync),
    ) -> Result<(), HandlerError> {
        alive();
        let session = self.session(self.timeout.mul_f64(CONNECT_SHARE)).await?;
        alive();
        let credits = session.take_credits(batch.rest.len(), self.timeout, alive);
        let credits = match credits.await {
            Ok(credits) => credits,
            // Nothing of it was sent: it goes to the next stream.
            Err(NoCredit::Ended) => return batch.unsent(self.timeout),
            Err(NoCredit::Silent) => {
                return Err(HandlerError::retryable(format_args!(
                    "the handler took no more messages for {:?}",
                    self.timeout
                )));
            }
            Err(NoCredit::Unread) => {
                return Err(HandlerError::retryable(format_args!(
                    "the handler has read nothing from the stream for {:?}",
                    self.timeout
                )));
            }
        };
        alive();
        let rest = batch.rest.iter().take(credits);
        let plan = Plan::of(rest.map(|place| &batch.messages[*place]), CHUNK_BYTES);
        session.give_back(credits - plan.count());
        let Some(sent) = session.send(&plan, self.timeout) else {
            return batch.unsent(self.timeout);
        };
        let places: Vec<_> = batch.rest.drain(..plan.count()).collect();
        let outcome = sent.outcome().await;
        batch.take(&places, outcome, self.timeout);
        Ok(())
    }
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
