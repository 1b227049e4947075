//! Handlers outside the process, over HTTP/1.1.
//!
//! - [`HttpHandler`] sends one message in each POST, as a CloudEvent 1.0 in binary mode.
//! - [`BatchHttpHandler`] sends several messages in each POST, as CloudEvents in batched mode.
//!
//! Connections are kept alive, over TCP on the loopback address or over a Unix socket. Each call
//! uses one connection, so there are at most as many as concurrent handlers.

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
mod turns;
mod verdict;
mod verdicts;

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use penstock_crds::validate::Address;
use thiserror::Error;

use self::answer::Answer;
pub use self::batch::BatchHttpHandler;
use self::client::{Client, RequestError};
use self::cloudevents::EventWriter;
pub use self::hear::hear;
use self::turns::Turns;
use super::{Availability, Handler, HandlerError};
use crate::handler::produce::Done;
use crate::handler::record::Message;

/// The maximum number of bytes of an answer's body to read if only its beginning is shown.
const LONGEST_ANSWER: usize = 64 * 1024;

/// The maximum number of bytes of an answer's body with records to produce.
const LONGEST_RECORDS: usize = 16 * 1024 * 1024;

/// An error in the settings of an HTTP handler.
#[derive(Debug, Error)]
pub enum HttpHandlerError {
    /// The path can't be part of a URL.
    #[error("spec.handler.path: '{path}' is not a URL path ({reason}); write it as '/orders'")]
    Path {
        /// The path of the manifest.
        path: String,
        /// The reason why it is not valid.
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

/// A client of an Http handler: it sends each message in a separate request.
pub struct HttpHandler {
    client: Client,
    events: EventWriter,
    /// Is `true` if answers may contain records to produce.
    produces: bool,
    /// `None` if requests never run at the same time.
    turns: Option<Turns>,
}

impl HttpHandler {
    /// Creates the client of a handler that listens at an address. `timeout` limits an attempt.
    /// With `produces`, an answer may contain records to produce. With `is_shared`, several
    /// requests run at the same time.
    ///
    /// # Errors
    /// Returns an error if the path is not the path of a URL.
    pub fn new(
        address: &Address,
        path: &str,
        json: bool,
        timeout: Duration,
        produces: bool,
        is_shared: bool,
    ) -> Result<Self, HttpHandlerError> {
        let longest = match produces {
            true => LONGEST_RECORDS,
            false => LONGEST_ANSWER,
        };
        Ok(Self {
            client: Client::new(address, timeout, longest),
            events: EventWriter::new(&parse_path(path)?, json),
            produces,
            turns: is_shared.then(Turns::default),
        })
    }

    /// Waits until the handler accepts connections, at most for `limit`.
    ///
    /// # Errors
    /// Returns the last error after `limit`.
    pub async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        self.client.wait_until_up(limit).await
    }

    /// Returns the record of when the handler can be reached.
    pub(crate) fn availability(&self) -> &Arc<Availability> {
        self.client.availability()
    }

    /// Sends a message. If its connection closes before the whole answer, the handler's process may
    /// have died of another message. Then the message is sent again alone, and charged only if that
    /// happens again.
    async fn send<T>(
        &self,
        message: &Message<'_, T>,
        alive: &(dyn Fn() + Sync),
    ) -> Result<Answer, HandlerError> {
        let Some(turns) = &self.turns else {
            alive();
            return self.request(message).await.map_err(RequestError::charge);
        };
        let answer = {
            let _turn = turns.together(alive).await;
            may_begin(message)?;
            self.request(message).await
        };
        match answer {
            Err(error) if error.is_closed() => {
                let _turn = turns.alone(alive).await;
                may_begin(message)?;
                loop {
                    self.client.forget_connections();
                    match self.request(message).await {
                        // The handler's process restarts.
                        Err(RequestError::Unreachable { .. }) => {
                            alive();
                            may_begin(message)?;
                        }
                        answer => return answer.map_err(RequestError::charge),
                    }
                }
            }
            answer => answer.map_err(RequestError::charge),
        }
    }

    async fn request<T>(&self, message: &Message<'_, T>) -> Result<Answer, RequestError> {
        let body = message.payload().unwrap_or_default();
        let deadline = self.client.deadline();
        let write_head = |head: &mut Vec<u8>| self.events.write(message, deadline, head);
        self.client.send_in_time(write_head, body).await
    }
}

/// Refuses a message whose partition began to drain during the wait for a turn.
fn may_begin<T>(message: &Message<'_, T>) -> Result<(), HandlerError> {
    match message.may_begin() {
        true => Ok(()),
        false => Err(HandlerError::not_attempted("its partition drains")),
    }
}

impl<T: Sync> Handler<T> for HttpHandler {
    async fn handle(&self, message: Message<'_, T>) -> Result<Done, HandlerError> {
        self.handle_alive(message, &|| {}).await
    }

    /// Returns `true`: a message may wait for its turn, and be sent twice.
    fn keeps_time(&self) -> bool {
        true
    }

    async fn handle_alive(
        &self,
        message: Message<'_, T>,
        alive: &(dyn Fn() + Sync),
    ) -> Result<Done, HandlerError> {
        let answer = self.send(&message, alive).await?;
        if let Some(error) = verdict::unavailable(&answer) {
            return Err(error);
        }
        if self.produces {
            records::of(&answer)
        } else {
            records::unexpected(&answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::handler::FailureKind;
    use crate::handler::record::{OwnedRecord, Record};

    const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    /// Reads a request with a body of one byte, and returns the byte.
    async fn read(connection: &mut TcpStream) -> u8 {
        let mut request = Vec::new();
        while !request.windows(4).any(|it| it == b"\r\n\r\n") || request.ends_with(b"\n") {
            assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0);
        }
        request[request.len() - 1]
    }

    /// A process that dies with so many requests at work, and then of each that is `p`; `word` is
    /// what it has answered by then.
    async fn mortal(listener: TcpListener, together: usize, word: &'static [u8]) {
        let mut at_work = Vec::new();
        while at_work.len() < together {
            let (mut connection, _) = listener.accept().await.unwrap();
            read(&mut connection).await;
            connection.write_all(word).await.unwrap();
            at_work.push(connection);
        }
        drop(at_work);
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let answer = match read(&mut connection).await {
                b'p' => word,
                _ => DONE,
            };
            connection.write_all(answer).await.unwrap();
        }
    }

    /// Gives messages with these values to a handler at the same time.
    async fn give(
        values: &[u8],
        together: usize,
        is_shared: bool,
        word: &'static [u8],
    ) -> Vec<Result<(), FailureKind>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Port(listener.local_addr().unwrap().port());
        tokio::spawn(mortal(listener, together, word));
        let limit = Duration::from_secs(30);
        let handler = HttpHandler::new(&address, "/", false, limit, false, is_shared).unwrap();
        let records = values.iter().map(|value| {
            Record::from(OwnedRecord {
                payload: Some(vec![*value]),
                ..OwnedRecord::default()
            })
        });
        let records: Vec<_> = records.collect();
        let calls = records
            .iter()
            .map(|record| handler.handle(Message::new(record, &(), 1)));
        let given = futures_util::future::join_all(calls).await.into_iter();
        given
            .map(|given| given.map(drop).map_err(|error| error.kind()))
            .collect()
    }

    #[tokio::test]
    async fn after_a_crash_exactly_the_message_that_repeats_it_is_charged() {
        let expected = [Ok(()), Err(FailureKind::Retryable), Ok(())];
        for word in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        ] {
            assert_eq!(give(b"ipi", 3, true, word).await, expected);
        }
    }

    #[tokio::test]
    async fn a_message_that_was_alone_at_a_crash_is_charged_at_once() {
        let charged = [Err(FailureKind::Retryable)];
        assert_eq!(give(b"i", 1, false, b"").await, charged);
        assert_eq!(give(b"i", 1, true, b"").await, [Ok(())]);
    }

    /// Serves requests on a port until one is a poison, is away for longer than a request waits
    /// for a connection, and begins again.
    async fn restarted(port: u16, away: Duration) {
        loop {
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let mut connections = tokio::task::JoinSet::new();
            let (died, mut dies) = tokio::sync::mpsc::channel::<()>(1);
            loop {
                let accepted = tokio::select! {
                    _ = dies.recv() => break,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let died = died.clone();
                connections.spawn(async move {
                    let mut connection = accepted;
                    while read(&mut connection).await != b'p' {
                        connection.write_all(DONE).await.unwrap();
                    }
                    died.send(()).await.unwrap();
                    std::future::pending::<()>().await;
                });
            }
            drop(listener);
            connections.shutdown().await;
            tokio::time::sleep(away).await;
        }
    }

    #[tokio::test]
    async fn a_poison_is_charged_though_its_handler_takes_long_to_restart() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let limit = Duration::from_millis(200);
        tokio::spawn(restarted(port, limit * 3));
        let address = Address::Port(port);
        let handler = HttpHandler::new(&address, "/", false, limit, false, true).unwrap();
        let give = async |value: u8| {
            let record = Record::from(OwnedRecord {
                payload: Some(vec![value]),
                ..OwnedRecord::default()
            });
            let given = handler.handle(Message::new(&record, &(), 1)).await;
            given.map(drop).map_err(|error| error.kind())
        };
        // The second comes over the connection of the first.
        assert_eq!(give(b'i').await, Ok(()));
        assert_eq!(give(b'p').await, Err(FailureKind::Retryable));
    }
}
