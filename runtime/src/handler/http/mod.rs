//! Handlers outside the process, over HTTP/1.1.
//!
//! [`HttpHandler`]: one message, one POST, as a CloudEvent 1.0 in binary mode.
//! [`BatchHttpHandler`]: several messages a POST, as CloudEvents in batched mode.
//! Connections are kept alive, over TCP on the loopback address or a Unix socket.
//! There are at most as many as calls at a time, so as many as handlers.

mod answer;
mod batch;
mod client;
mod cloudevents;
mod connection;
mod content;
mod deadline;
mod events;
mod head;
mod hear;
mod records;
mod verdict;
mod verdicts;

use std::time::Duration;

use http::Uri;
use penstock_crds::validate::Address;
use thiserror::Error;

pub use self::batch::BatchHttpHandler;
use self::client::Client;
use self::cloudevents::EventWriter;
pub use self::hear::hear;
use super::{Handler, HandlerError};
use crate::produce::Done;
use crate::record::Message;

/// Most bytes of an answer's body that are read where only its beginning is ever shown.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The same where it brings records to produce.
const LONGEST_RECORDS: usize = 16 * 1024 * 1024;

/// What is wrong with the settings of an HTTP handler.
#[derive(Debug, Error)]
pub enum HttpHandlerError {
    /// The path can't be part of a URL.
    #[error("spec.handler.path: '{path}' is not a URL path ({reason}); write it as '/orders'")]
    Path {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn parse_path(path: &str) -> Result<Uri, HttpHandlerError> {
    path.parse()
        .map_err(|error: http::uri::InvalidUri| HttpHandlerError::Path {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

/// Gives each message to an HTTP server.
pub struct HttpHandler {
    client: Client,
    events: EventWriter,
    /// Whether answers bring records to produce.
    produces: bool,
}

impl HttpHandler {
    /// A handler that listens at an address. `timeout` is the longest time for an
    /// attempt. With `produces` an answer may bring records to produce.
    pub fn new(
        address: &Address,
        path: &str,
        json: bool,
        timeout: Duration,
        produces: bool,
    ) -> Result<Self, HttpHandlerError> {
        let longest = match produces {
            true => LONGEST_RECORDS,
            false => LONGEST_ANSWER,
        };
        Ok(Self {
            client: Client::new(address, timeout, longest),
            events: EventWriter::new(&parse_path(path)?, json),
            produces,
        })
    }

    /// Waits until the handler accepts connections, at most `limit`.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        self.client.wait_until_up(limit).await
    }
}

impl<T: Sync> Handler<T> for HttpHandler {
    async fn handle(&self, message: Message<'_, T>) -> Result<Done, HandlerError> {
        let body = message.payload().unwrap_or_default();
        let deadline = self.client.deadline();
        let write_head = |head: &mut Vec<u8>| self.events.write(&message, deadline, head);
        let answer = self.client.send(write_head, body).await;
        let answer = answer.map_err(HandlerError::retryable)?;
        if self.produces {
            records::of(&answer)
        } else {
            records::unexpected(&answer)
        }
    }
}
