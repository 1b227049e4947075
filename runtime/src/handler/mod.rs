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

use std::fmt;
use std::future::Future;
use std::time::Duration;

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

/// Why a message could not be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    kind: FailureKind,
    reason: String,
    retry_after: Option<Duration>,
}

/// What is to follow a message that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt: something else was unavailable.
    Retryable,
    /// What `onFailure` says: the message itself can't be handled.
    Permanent,
    /// Nothing: the message is left behind on purpose, whatever `onFailure` says.
    Skip,
    /// The dead-letter topic at once; without one, what `onFailure` says.
    DeadLetter,
    /// The same attempt again after a short pause: the handler did not begin it.
    NotAttempted,
}

impl HandlerError {
    /// A failure that may pass: tried again while attempts are left.
    pub fn retryable(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Retryable, reason)
    }

    /// A failure that stays: not tried again.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Permanent, reason)
    }

    /// The message is not to be handled: it is logged, counted as skipped and left
    /// behind.
    pub fn skip(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::Skip, reason)
    }

    /// The message is to go to the dead-letter topic at once. Where there is none, this
    /// is a permanent failure.
    pub fn dead_letter(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::DeadLetter, reason)
    }

    /// The message was not begun, so no attempt was made: the same attempt is made again
    /// after a short pause, which grows while that continues.
    pub fn not_attempted(reason: impl fmt::Display) -> Self {
        Self::new(FailureKind::NotAttempted, reason)
    }

    fn new(kind: FailureKind, reason: impl fmt::Display) -> Self {
        Self {
            kind,
            reason: reason.to_string(),
            retry_after: None,
        }
    }

    /// Asks for at least this wait before the next attempt.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What is to follow.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether what follows of the key must not be handled: the message comes again, or
    /// perhaps ends the consumer. One that is skipped never does.
    pub(crate) fn stops_key(&self) -> bool {
        self.kind != FailureKind::Skip
    }

    /// What went wrong.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The wait that was asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Any error of a handler's own may pass, unless it says otherwise.
impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retryable(error)
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
