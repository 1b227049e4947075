//! Several messages, one POST: CloudEvents 1.0 in batched mode.

use std::time::Duration;

use penstock_crds::validate::Address;

use super::client::Client;
use super::events::write_events;
use super::{HttpHandlerError, parse_path, verdicts};
use crate::handler::{BatchHandler, HandlerError};
use crate::produce::Done;
use crate::record::Message;

/// Most bytes of an answer's body: ten thousand verdicts with a long reason each.
pub(super) const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Gives messages to an HTTP server, several a request.
pub struct BatchHttpHandler {
    client: Client,
    /// The request's head up to its length.
    head: String,
    json: bool,
}

impl BatchHttpHandler {
    /// A handler that listens at an address. `json` says that the values are JSON;
    /// `timeout` is the longest time for an attempt, which is one request.
    pub fn new(
        address: &Address,
        path: &str,
        json: bool,
        timeout: Duration,
    ) -> Result<Self, HttpHandlerError> {
        let uri = parse_path(path)?;
        Ok(Self {
            client: Client::new(address, timeout, LONGEST_ANSWER),
            head: format!(
                "POST {uri} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents-batch+json; charset=utf-8\r\naccept: application/json\r\ncontent-length: "
            ),
            json,
        })
    }

    /// Waits until the handler accepts connections, at most `limit`.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        self.client.wait_until_up(limit).await
    }
}

impl<T: Sync> BatchHandler<T> for BatchHttpHandler {
    async fn handle_batch(&self, messages: &[Message<'_, T>]) -> Vec<Result<Done, HandlerError>> {
        let mut body = Vec::new();
        write_events(messages, self.client.deadline(), self.json, &mut body);
        let length = body.len();
        let write_head = |head: &mut Vec<u8>| {
            head.extend_from_slice(self.head.as_bytes());
            head.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
        };
        match self.client.send(write_head, &body).await {
            Ok(answer) => verdicts::of(&answer, messages.len()),
            Err(error) => vec![Err(error); messages.len()],
        }
    }
}
