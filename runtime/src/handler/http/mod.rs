//! Handlers outside the process: one message, one POST.
//!
//! CloudEvents 1.0 in binary mode over HTTP/1.1, kept alive, over TCP on the
//! loopback address or a Unix socket. There are at most as many connections as
//! messages in flight, so as many as handlers.

mod answer;
mod cloudevents;
mod connection;
mod verdict;

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::Uri;
use parking_lot::Mutex;
use penstock_crds::validate::Address;
use thiserror::Error;
use tokio::time::Instant;

use super::{Handler, HandlerError};
use crate::record::Message;
use answer::{Answer, SendError};
use cloudevents::EventWriter;
use connection::Connection;

/// Share of an attempt's time for which a handler that does not accept
/// connections is waited for, so that a restart of it costs no attempt, and
/// the failure still says that there was no connection.
const CONNECT_SHARE: f64 = 0.9;

/// Waits between tries to connect.
const FIRST_CONNECT_WAIT: Duration = Duration::from_millis(5);
const LONGEST_CONNECT_WAIT: Duration = Duration::from_millis(500);

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

/// Gives each message to an HTTP server.
pub struct HttpHandler {
    address: Address,
    events: EventWriter,
    timeout: Duration,
    /// Connections without a request, the one used last on top.
    idle: Mutex<Vec<Connection>>,
}

impl HttpHandler {
    /// A handler that listens at an address. `timeout` is the longest time for an attempt.
    pub fn new(
        address: &Address,
        path: &str,
        json: bool,
        timeout: Duration,
    ) -> Result<Self, HttpHandlerError> {
        let uri: Uri =
            path.parse()
                .map_err(|error: http::uri::InvalidUri| HttpHandlerError::Path {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
        Ok(Self {
            events: EventWriter::new(&uri, json),
            address: address.clone(),
            timeout,
            idle: Mutex::default(),
        })
    }

    /// Waits until the handler accepts connections, at most `limit`.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        let connection = self.connect(limit).await?;
        self.idle.lock().push(connection);
        Ok(())
    }

    /// A connection, tried again while the handler does not accept any.
    async fn connect(&self, limit: Duration) -> Result<Connection, HandlerError> {
        let deadline = Instant::now() + limit;
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(FIRST_CONNECT_WAIT)
            .with_max_delay(LONGEST_CONNECT_WAIT)
            .without_max_times()
            .build();
        loop {
            let error =
                match tokio::time::timeout_at(deadline, Connection::open(&self.address)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".to_owned(),
                };
            let wait = waits.next().unwrap_or(LONGEST_CONNECT_WAIT);
            if Instant::now() + wait >= deadline {
                return Err(HandlerError::retryable(format_args!(
                    "no connection to the handler at {} within {limit:?}: {error}",
                    self.address
                )));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl<T: Sync> Handler<T> for HttpHandler {
    async fn handle(&self, message: Message<'_, T>) -> Result<(), HandlerError> {
        if let Some(connection) = self.take_idle() {
            match self.exchange(connection, &message).await {
                // The server closed it between two requests, as it may: that is
                // no verdict on the message. Its siblings are as old.
                Err(SendError::Closed(_)) => self.idle.lock().clear(),
                answer => return verdict::of(&answer?),
            }
        }
        let connection = self.connect(self.timeout.mul_f64(CONNECT_SHARE)).await?;
        verdict::of(&self.exchange(connection, &message).await?)
    }
}

impl HttpHandler {
    /// A connection that is open still.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.lock().pop()?;
            if connection.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Sends the message, reads the answer, and keeps the connection if it can.
    async fn exchange<T>(
        &self,
        mut connection: Connection,
        message: &Message<'_, T>,
    ) -> Result<Answer, SendError> {
        let body = message.payload().unwrap_or_default();
        let answer = connection
            .send(|head| self.events.write(message, head), body)
            .await?;
        if answer.reusable {
            self.idle.lock().push(connection);
        }
        Ok(answer)
    }
}
