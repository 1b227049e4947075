//! What a handler's own tests need: messages, and verdicts as the runtime receives them.
//!
//! ```
//! use penstock_handler::testing::{handle, message};
//! use penstock_handler::{Delivered, FailureKind, HandlerError, ProducerRecord};
//!
//! async fn total(message: Delivered) -> Result<ProducerRecord, HandlerError> {
//!     let value = message.value.ok_or_else(|| HandlerError::skip("a tombstone"))?;
//!     Ok(ProducerRecord::new("totals", value))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let order = Delivered { value: Some("7".into()), ..message("orders") };
//! let done = handle(&total, order).await.unwrap();
//! assert_eq!(done.produce, [ProducerRecord::new("totals", "7")]);
//!
//! let error = handle(&total, message("orders")).await.unwrap_err();
//! assert_eq!(error.kind(), FailureKind::Skip);
//! # }
//! ```

use std::time::{Duration, SystemTime};

use crate::lanes::verdict;
use crate::{Delivered, Done, Handle, HandlerError};

/// The time for an attempt, as in a manifest that does not set `handler.timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a message at offset 0 of partition 0, without key, value and headers: the first
/// attempt, with 30 seconds left.
pub fn message(topic: &str) -> Delivered {
    Delivered {
        group: "test".into(),
        topic: topic.into(),
        partition: 0,
        epoch: 1,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: Vec::new(),
        attempt: 1,
        deadline: SystemTime::now() + TIMEOUT,
    }
}

/// Calls a handler with a message, and returns the verdict that the runtime would receive.
///
/// # Errors
/// The handler's error. A panic is a failure that is tried again.
pub async fn handle(handler: &impl Handle, message: Delivered) -> Result<Done, HandlerError> {
    verdict(async { Some(handler.handle(message).await) })
        .await
        .unwrap_or_else(|| Err(HandlerError::retryable("the call was dropped")))
}
