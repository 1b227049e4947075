//! The handler traits, and the protocols of handlers outside the process.

mod availability;
#[cfg(test)]
pub(crate) mod damage;
pub mod decode;
pub mod grpc;
pub mod http;
pub mod produce;
pub mod record;
mod stream;

pub(crate) use availability::{Availability, Lack};

pub use penstock_handler::{FailureKind, HandlerError};

use std::future::Future;

use crate::handler::produce::Done;
use crate::handler::record::Message;

/// Handles messages, one in each call. In Fast mode, many calls run concurrently.
///
/// The runtime may drop a call at any `await`: when the attempt's time is over, and when the
/// partition is revoked. The message then comes again, so a handler must tolerate duplicates.
pub trait Handler<T>: Send + Sync + 'static {
    /// Handles one message, and returns the records to produce for it. `spec.delivery` sets
    /// what follows an error.
    fn handle(
        &self,
        message: Message<'_, T>,
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send;

    /// Returns `true` if the handler itself limits each attempt to `spec.handler.timeout`.
    /// Otherwise the runtime limits the call.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Handles a message as [`handle`](Self::handle) does, for a handler that [keeps the
    /// time](Self::keeps_time). It calls `alive` at the beginning and after each step forward.
    /// If it does not call `alive` for a minute longer than an attempt may take, the liveness
    /// probe fails. A handler that never calls `alive` is not watched.
    fn handle_alive(
        &self,
        message: Message<'_, T>,
        _alive: &(dyn Fn() + Sync),
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send {
        self.handle(message)
    }
}

/// Handles several messages in each call: the waiting messages, up to `consumeBatchSize`.
pub trait BatchHandler<T>: Send + Sync + 'static {
    /// Handles messages in their order, and returns one verdict for each, in the same order.
    /// Messages without a verdict have failed.
    fn handle_batch(
        &self,
        messages: &[Message<'_, T>],
    ) -> impl Future<Output = Vec<Result<Done, HandlerError>>> + Send;

    /// Returns `true` if the handler itself limits each attempt to `spec.handler.timeout`.
    /// Otherwise the runtime limits the call, and drops a call that takes longer with all its
    /// messages.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Handles messages as [`handle_batch`](Self::handle_batch) does, for a handler that [keeps
    /// the time](Self::keeps_time). It calls `alive` at the beginning and after each step
    /// forward. If it does not call `alive` for a minute longer than an attempt may take, the
    /// liveness probe fails. A handler that never calls `alive` is not watched.
    fn handle_batch_alive(
        &self,
        messages: &[Message<'_, T>],
        _alive: &(dyn Fn() + Sync),
    ) -> impl Future<Output = Vec<Result<Done, HandlerError>>> + Send {
        self.handle_batch(messages)
    }

    /// Returns `true` if, in mode KeyOrdered, one call may have several messages with the same
    /// key. The handler must then handle them one after the other, and stop at the first that
    /// is neither handled nor skipped: the runtime ignores the verdicts on later messages with
    /// that key, and delivers these messages again. Otherwise a call has at most one message of
    /// each key.
    fn keeps_key_order(&self) -> bool {
        false
    }
}

/// A handler made from a function. See [`handler_fn`].
pub struct HandlerFn<F>(F);

/// Creates a handler from a function that takes a message and returns a future. The future
/// cannot borrow from the message: copy the needed data first. It resolves to `()`, or to
/// records to produce, see [`Done`].
///
/// ```
/// use penstock_runtime::handler::{HandlerError, handler_fn};
/// use penstock_runtime::record::Message;
///
/// let handler = handler_fn(|order: Message<'_, serde_json::Value>| {
///     let id = order.data()["id"].as_u64();
///     async move {
///         let id = id.ok_or_else(|| HandlerError::permanent("an order has an id"))?;
///         println!("order {id}");
///         Ok(())
///     }
/// });
/// # fn check<T>(_: impl penstock_runtime::handler::Handler<T>) {}
/// # check::<serde_json::Value>(handler);
/// ```
pub fn handler_fn<T, F, R, O>(function: F) -> HandlerFn<F>
where
    F: Fn(Message<'_, T>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, HandlerError>> + Send,
    O: Into<Done>,
{
    HandlerFn(function)
}

impl<T, F, R, O> Handler<T> for HandlerFn<F>
where
    F: Fn(Message<'_, T>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, HandlerError>> + Send,
    O: Into<Done>,
    T: Sync,
{
    fn handle(
        &self,
        message: Message<'_, T>,
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send {
        let call = (self.0)(message);
        async move { call.await.map(Into::into) }
    }
}
