//! Requests to a handler, over connections that are kept.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::Mutex;
use penstock_crds::validate::Address;
use tokio::time::Instant;

use super::answer::{Answer, SendError};
use super::connection::Connection;
use super::deadline::Deadline;
use crate::handler::HandlerError;

/// Share of an attempt's time for which a handler that does not accept
/// connections is waited for, so that a restart of it costs no attempt, and
/// the failure still says that there was no connection.
const CONNECT_SHARE: f64 = 0.9;

/// Waits between tries to connect.
const FIRST_CONNECT_WAIT: Duration = Duration::from_millis(5);
const LONGEST_CONNECT_WAIT: Duration = Duration::from_millis(500);

/// Sends requests to one handler, each over a connection of its own while it lasts.
pub(super) struct Client {
    address: Address,
    timeout: Duration,
    /// Longest body of an answer, in bytes.
    longest_answer: usize,
    /// Connections without a request, the one used last on top.
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// `timeout` is the longest time for an attempt. More than `longest_answer` bytes
    /// of an answer's body are not read, which costs the connection.
    pub(super) fn new(address: &Address, timeout: Duration, longest_answer: usize) -> Self {
        Self {
            address: address.clone(),
            timeout,
            longest_answer,
            idle: Mutex::default(),
        }
    }

    /// When the time of an attempt that begins now is over.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// Waits until the handler accepts connections, at most `limit`.
    pub(super) async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        let connection = self.connect(limit).await?;
        self.idle.lock().push(connection);
        Ok(())
    }

    /// Sends a request, whose head `write_head` writes, and reads the answer.
    pub(super) async fn send(
        &self,
        write_head: impl Fn(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Answer, HandlerError> {
        if let Some(connection) = self.take_idle() {
            match self.exchange(connection, &write_head, body).await {
                // The server closed it between two requests, as it may: that is
                // no verdict on the message. Its siblings are as old.
                Err(SendError::Closed(_)) => self.idle.lock().clear(),
                answer => return Ok(answer?),
            }
        }
        let connection = self.connect(self.timeout.mul_f64(CONNECT_SHARE)).await?;
        Ok(self.exchange(connection, &write_head, body).await?)
    }

    /// A connection that is open still.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.lock().pop()?;
            if connection.is_ready() {
                return Some(connection);
            }
        }
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
            let connecting = Connection::open(&self.address);
            let error = match tokio::time::timeout_at(deadline, connecting).await {
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

    /// Sends the request, reads the answer, and keeps the connection if it can.
    async fn exchange(
        &self,
        mut connection: Connection,
        write_head: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Answer, SendError> {
        let answer = connection
            .send(write_head, body, self.longest_answer)
            .await?;
        if answer.reusable {
            self.idle.lock().push(connection);
        }
        Ok(answer)
    }
}
