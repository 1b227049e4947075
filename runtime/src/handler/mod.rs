//! What a handler is, and the ways to be one.

mod availability;
#[cfg(test)]
pub(crate) mod damage;
pub mod grpc;
pub mod http;
mod remote;
mod stream;

pub(crate) use availability::{Availability, Lack};
pub use remote::RemoteHandler;

pub use penstock_handler::{FailureKind, HandlerError};

use std::future::Future;

use crate::produce::Done;
use crate::record::Message;

/// Handles messages, one a call. Many calls run side by side in Fast mode.
///
/// A call may be given up at any `await`: when its time is over, and when its
/// partition goes to another consumer. The message then comes again, so a
/// handler must bear to see a message twice.
pub trait Handler<T>: Send + Sync + 'static {
    /// Handles one message, and gives what is to be produced for it. What an error
    /// leads to is set by `spec.delivery`.
    fn handle(
        &self,
        message: Message<'_, T>,
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send;

    /// Whether it sees to it itself that no attempt takes longer than
    /// `spec.handler.timeout`. Otherwise the time of an attempt is that of the call.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Handles a message as [`handle`](Self::handle), for a handler that
    /// [keeps the time](Self::keeps_time). It calls `alive` at the beginning, and whenever it
    /// has got further: a minute more than an attempt may take without a call, and the
    /// liveness probe fails. A handler that never calls it is not watched.
    fn handle_alive(
        &self,
        message: Message<'_, T>,
        _alive: &(dyn Fn() + Sync),
    ) -> impl Future<Output = Result<Done, HandlerError>> + Send {
        self.handle(message)
    }
}

/// Handles several messages a call: those that wait, up to `consumeBatchSize`.
pub trait BatchHandler<T>: Send + Sync + 'static {
    /// Handles some messages, in their order, and gives a verdict for each, in
    /// the same order. Fewer verdicts than messages leave the rest failed.
    fn handle_batch(
        &self,
        messages: &[Message<'_, T>],
    ) -> impl Future<Output = Vec<Result<Done, HandlerError>>> + Send;

    /// Whether it sees to it itself that no attempt takes longer than
    /// `spec.handler.timeout`. Otherwise the time of an attempt is that of the call, and
    /// a call that takes longer is given up with all its messages.
    fn keeps_time(&self) -> bool {
        false
    }

    /// Handles messages as [`handle_batch`](Self::handle_batch), for a handler that
    /// [keeps the time](Self::keeps_time). It calls `alive` at the beginning, and whenever it
    /// has got further: a minute more than an attempt may take without a call, and the
    /// liveness probe fails. A handler that never calls it is not watched.
    fn handle_batch_alive(
        &self,
        messages: &[Message<'_, T>],
        _alive: &(dyn Fn() + Sync),
    ) -> impl Future<Output = Vec<Result<Done, HandlerError>>> + Send {
        self.handle_batch(messages)
    }

    /// Whether in mode KeyOrdered a call may bring several messages of one key. They must
    /// then be handled one after the other, and none behind one that was neither handled
    /// nor skipped: that one's verdict is the last of its key that counts, and those behind
    /// it are given again. Otherwise a call brings one message of a key at most.
    fn keeps_key_order(&self) -> bool {
        false
    }
}

/// A handler made of a function. See [`handler_fn`].
pub struct HandlerFn<F>(F);

/// Makes a handler of a function that takes a message and gives a future. The
/// future can't borrow from the message: take what it needs first. It ends with
/// nothing, or with what is to be produced, see [`Done`].
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
