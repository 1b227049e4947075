//! Handlers in Rust that speak gRPC with Penstock's runtime.
//!
//! [`Server`] deals with credits, batches, cancellation and the order of keys, and calls a
//! function for each message. The function's result is the verdict: `Ok` for a handled message,
//! with the records to produce for it if there are any, or a [`HandlerError`].
//!
//! ```no_run
//! use penstock_handler::{Delivered, HandlerError, Server, signals::stop_on_signal};
//!
//! async fn handle(message: Delivered) -> Result<(), HandlerError> {
//!     let order = message.value.ok_or_else(|| HandlerError::skip("a tombstone"))?;
//!     println!("{} bytes", order.len());
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     Server::from_env()?.run(handle, stop_on_signal()?).await?;
//!     Ok(())
//! }
//! ```
//!
//! [`testing`] has what a handler's own tests need.

#![forbid(unsafe_code)]

mod answers;
mod error;
mod flow;
mod lanes;
mod listen;
mod message;
mod produce;
mod server;
pub mod signals;
mod stream;
pub mod testing;

/// The messages of the contract, generated from its proto file.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
#[rustfmt::skip]
pub mod v1;

pub use error::{FailureKind, HandlerError};
pub use listen::ListenError;
pub use message::Delivered;
pub use produce::{Done, ProducerRecord};
pub use server::{Handle, ServeError, Server};

/// The version of the protocol within `v1` that this crate and the runtime of the same release
/// speak.
pub const VERSION: u32 = 2;
