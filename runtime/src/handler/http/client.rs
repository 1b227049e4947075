//! Sends requests to a handler, over connections that are kept alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::Mutex;
use penstock_crds::validate::Address;
use thiserror::Error;
use tokio::time::Instant;

use super::answer::{Answer, SendError, shown};
use super::connection::{Connection, State};
use super::deadline::Deadline;
use crate::handler::{Availability, HandlerError, Lack};

/// The share of an attempt's time in which the client tries to connect. A restart of the handler
/// then costs no attempt, and the error still names the missing connection.
const CONNECT_SHARE: f64 = 0.9;

/// A kept connection that is closed within this time of a request was closed between two requests.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The pause after a request that exceeded its time: the first wait of the default back-off.
const LATE_PAUSE: Duration = Duration::from_millis(100);

/// The time without new connections after one ended without an answer. A process that dies closes
/// its connections before its listener. Otherwise its death would be blamed on a request that is
/// accepted in between.
const DEATH: Duration = Duration::from_millis(100);

/// The waits between attempts to connect.
const FIRST_CONNECT_WAIT: Duration = Duration::from_millis(5);
const LONGEST_CONNECT_WAIT: Duration = Duration::from_millis(500);

/// The reason why a request has no verdict.
#[derive(Debug, Error)]
pub(super) enum RequestError {
    /// The request was not sent.
    #[error("no connection to the handler at {address} within {limit:?}: {error}")]
    Unreachable {
        address: Address,
        limit: Duration,
        error: String,
        /// Is `true` if the request was sent over a kept connection, which closed immediately.
        was_closed: bool,
    },
    #[error("the handler took longer than {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Unanswered(#[from] SendError),
    /// The answer has no verdict.
    #[error("{0}")]
    NotUnderstood(HandlerError),
    /// The status of the answer is the verdict on all messages of the request.
    #[error("{0}")]
    Failed(HandlerError),
}

impl RequestError {
    /// Returns `true` if the connection closed before the whole answer: the handler's process may
    /// have died of another message.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Unanswered(error) => error.is_end(),
            Self::Unreachable { was_closed, .. } => *was_closed,
            Self::Late(_) | Self::NotUnderstood(_) | Self::Failed(_) => false,
        }
    }

    /// Returns `true` if one message of a batch may be the cause, and the others would be charged
    /// for it. The answer has no verdict, or, in InOrder mode, one verdict for all that would count
    /// only for the first.
    pub(super) fn blurs(&self, in_order: bool) -> bool {
        match self {
            Self::Unanswered(_) | Self::NotUnderstood(_) => true,
            Self::Unreachable { was_closed, .. } => *was_closed,
            Self::Late(_) | Self::Failed(_) => in_order,
        }
    }

    /// Returns the pause before the messages are sent again: the pause that the answer asks for, or
    /// a pause in which a handler that stops at its deadline ends the late request.
    pub(super) fn pause(&self) -> Duration {
        match self {
            Self::Failed(error) => error.retry_after().unwrap_or_default(),
            Self::Late(_) => LATE_PAUSE,
            Self::Unanswered(_) | Self::NotUnderstood(_) | Self::Unreachable { .. } => {
                Duration::ZERO
            }
        }
    }

    fn after_close(mut self, closed: bool) -> Self {
        if let Self::Unreachable { was_closed, .. } = &mut self {
            *was_closed = closed;
        }
        self
    }

    /// Returns the verdict on the messages of a request without an answer. If none was sent, they
    /// are not attempted.
    pub(super) fn charge(self) -> HandlerError {
        match self {
            Self::Unreachable { .. } => HandlerError::not_attempted(self),
            Self::Late(_) | Self::Unanswered(_) => HandlerError::retryable(self),
            Self::NotUnderstood(error) | Self::Failed(error) => error,
        }
    }
}

/// Sends requests to one handler, each over a connection without another request.
///
/// An answer must end where its head says: the client would read later bytes as the answer to the
/// next request. A handler that has sent such bytes once gets a new connection for each request
/// from then on, because late bytes can't be distinguished from the next answer.
pub(super) struct Client {
    address: Address,
    timeout: Duration,
    /// The maximum length of an answer's body, in bytes.
    longest_answer: usize,
    /// Connections without a request; the last used is on top.
    idle: Mutex<Vec<Connection>>,
    /// Is `true` once the handler has sent bytes that belong to no answer. It is never cleared.
    distrusted: AtomicBool,
    /// The last time at which a connection ended without an answer.
    ended: Mutex<Option<Instant>>,
    availability: Arc<Availability>,
}

impl Client {
    /// Creates a client. `timeout` limits an attempt. The client reads at most `longest_answer`
    /// bytes of an answer's body; a longer body costs the connection.
    pub(super) fn new(address: &Address, timeout: Duration, longest_answer: usize) -> Self {
        Self {
            address: address.clone(),
            timeout,
            longest_answer,
            idle: Mutex::default(),
            distrusted: AtomicBool::new(false),
            ended: Mutex::default(),
            availability: Arc::default(),
        }
    }

    /// Returns the record of when the handler can be reached.
    pub(super) fn availability(&self) -> &Arc<Availability> {
        &self.availability
    }

    /// Returns the deadline of an attempt that begins now.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// Waits until the handler accepts connections, at most for `limit`.
    pub(super) async fn wait_until_up(&self, limit: Duration) -> Result<(), HandlerError> {
        let connection = self.connect(limit).await;
        self.keep(connection.map_err(HandlerError::retryable)?);
        Ok(())
    }

    /// Sends a request with the head that `write_head` writes, and reads the answer, within the
    /// time of an attempt. Notes whether the handler can be reached.
    pub(super) async fn send_in_time(
        &self,
        write_head: impl Fn(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Answer, RequestError> {
        let sent = tokio::time::timeout(self.timeout, self.send(write_head, body)).await;
        let answer = sent.unwrap_or(Err(RequestError::Late(self.timeout)));
        match &answer {
            Err(error @ RequestError::Unreachable { .. }) => {
                self.availability.lacks(Lack::Connection, error);
            }
            _ => self.availability.has(Lack::Connection),
        }
        answer
    }

    /// Closes the kept connections, so that the next request opens a new one.
    pub(super) fn forget_connections(&self) {
        self.idle.lock().clear();
    }

    async fn send(
        &self,
        write_head: impl Fn(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Answer, RequestError> {
        let mut was_closed = false;
        if let Some(connection) = self.take_idle() {
            let began = Instant::now();
            match self.exchange(connection, &write_head, body).await {
                // The server closed the connection between two requests, as it may. That is no
                // verdict on the message. The other kept connections are as old.
                Err(SendError::Closed(_)) if began.elapsed() < AT_ONCE => {
                    was_closed = true;
                    self.idle.lock().clear();
                }
                // The received bytes belong to no answer, so this request has none yet.
                Err(SendError::NotHttp(error)) => self.distrust(&error),
                answer => return self.note_end(answer),
            }
        }
        let connected = self.connect(self.timeout.mul_f64(CONNECT_SHARE)).await;
        let connection = connected.map_err(|error| error.after_close(was_closed))?;
        self.note_end(self.exchange(connection, &write_head, body).await)
    }

    /// Notes the end of a connection without an answer.
    fn note_end(&self, answer: Result<Answer, SendError>) -> Result<Answer, RequestError> {
        if answer.as_ref().is_err_and(SendError::is_end) {
            *self.ended.lock() = Some(Instant::now());
        }
        Ok(answer?)
    }

    /// Returns a kept connection that is still open.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().pop()?;
            match connection.state() {
                State::Ready => return Some(connection),
                State::Closed => {}
                State::Unasked => self.distrust(&shown(connection.unasked())),
            }
        }
    }

    /// Keeps a connection for another request.
    fn keep(&self, connection: Connection) {
        if !self.distrusted.load(Ordering::Relaxed) {
            self.idle.lock().push(connection);
        }
    }

    /// Keeps no connections from now on, and logs that once.
    fn distrust(&self, received: &str) {
        if !self.distrusted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                handler = %self.address,
                received,
                "the handler sent more than its answer, or announced a body with status 204: \
                 each request now has a new connection; end each answer where its \
                 content-length says, and send none with 204 or 304"
            );
        }
        self.idle.lock().clear();
    }

    /// Opens a connection, and retries while the handler accepts none.
    async fn connect(&self, limit: Duration) -> Result<Connection, RequestError> {
        let deadline = Instant::now() + limit;
        let ended = *self.ended.lock();
        if let Some(ended) = ended {
            // A short attempt keeps most of its time.
            let pause = DEATH.min(self.timeout / 10);
            tokio::time::sleep_until((ended + pause).min(deadline)).await;
        }
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
                return Err(RequestError::Unreachable {
                    address: self.address.clone(),
                    limit,
                    error,
                    was_closed: false,
                });
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends the request, reads the answer, and keeps the connection if possible.
    async fn exchange(
        &self,
        mut connection: Connection,
        write_head: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Answer, SendError> {
        let answer = connection
            .send(write_head, body, self.longest_answer)
            .await?;
        if answer.surplus {
            self.distrust(&shown(connection.unasked()));
        } else if answer.reusable {
            self.keep(connection);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\n\r\n";

    const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    async fn client() -> (Client, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Client::new(&Address::Port(port), LIMIT, 1 << 16), listener)
    }

    async fn send(client: &Client) -> u16 {
        let head = |out: &mut Vec<u8>| out.extend_from_slice(REQUEST);
        let answer = timeout(LIMIT, client.send(head, b"")).await;
        answer.expect("an answer").unwrap().status.as_u16()
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        let accepted = timeout(LIMIT, listener.accept()).await;
        accepted.expect("a connection").unwrap().0
    }

    async fn request(connection: &mut TcpStream) {
        let mut request = vec![0; REQUEST.len()];
        let read = timeout(LIMIT, connection.read_exact(&mut request)).await;
        read.expect("a request").unwrap();
        assert_eq!(request, REQUEST);
    }

    async fn answer(connection: &mut TcpStream, bytes: &[u8]) {
        connection.write_all(bytes).await.unwrap();
    }

    /// Another request, over a new connection that is answered well.
    async fn next_is_alone(client: &Client, listener: &TcpListener) {
        let serve = async {
            let mut connection = accept(listener).await;
            request(&mut connection).await;
            answer(&mut connection, DONE).await;
        };
        assert_eq!(tokio::join!(send(client), serve).0, 204);
    }

    #[tokio::test]
    async fn a_connection_is_kept_while_answers_end_where_they_say() {
        let (client, listener) = client().await;
        let serve = async {
            let mut connection = accept(&listener).await;
            for bytes in [
                DONE,
                b"HTTP/1.1 304 X\r\ncontent-length: 9\r\n\r\n",
                b"HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\nno",
                b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            ] {
                request(&mut connection).await;
                answer(&mut connection, bytes).await;
            }
        };
        let requests = async {
            for status in [204, 304, 503, 200] {
                assert_eq!(send(&client).await, status);
            }
        };
        tokio::join!(requests, serve);
        assert_eq!(client.idle.lock().len(), 1);
    }

    #[tokio::test]
    async fn more_than_an_answer_is_never_read_as_the_next() {
        for (bytes, status) in [
            ("HTTP/1.1 204 X\r\n\r\nnot done", 204),
            ("HTTP/1.1 204 X\r\ncontent-length: 8\r\n\r\nnot done", 204),
            // The body is yet to come.
            ("HTTP/1.1 204 X\r\ncontent-length: 8\r\n\r\n", 204),
            ("HTTP/1.1 304 X\r\n\r\nsame", 304),
            (
                "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok and more",
                200,
            ),
            (
                "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n0\r\n\r\n",
                200,
            ),
            // Two answers at once.
            (
                "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\nHTTP/1.1 204 X\r\n\r\n",
                503,
            ),
        ] {
            let (client, listener) = client().await;
            let serve = async {
                let mut connection = accept(&listener).await;
                request(&mut connection).await;
                answer(&mut connection, bytes.as_bytes()).await;
                connection
            };
            let (seen, _connection) = tokio::join!(send(&client), serve);
            assert_eq!(seen, status, "{bytes}");
            for _ in 0..2 {
                next_is_alone(&client, &listener).await;
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_after_the_next_request_costs_no_attempt() {
        let (client, listener) = client().await;
        let serve = async {
            let mut connection = accept(&listener).await;
            request(&mut connection).await;
            answer(&mut connection, DONE).await;
            request(&mut connection).await;
            answer(&mut connection, b"{\"late\": 1}").await;
            let mut next = accept(&listener).await;
            request(&mut next).await;
            answer(&mut next, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            connection
        };
        let requests = async { (send(&client).await, send(&client).await) };
        let (statuses, _connection) = tokio::join!(requests, serve);
        assert_eq!(statuses, (204, 200));
        next_is_alone(&client, &listener).await;
    }

    #[tokio::test]
    async fn a_process_that_dies_has_the_time_to_close_its_listener() {
        let (client, listener) = client().await;
        let head = |out: &mut Vec<u8>| out.extend_from_slice(REQUEST);
        let serve = async {
            request(&mut accept(&listener).await).await;
        };
        let (answer, ()) = tokio::join!(client.send(head, b""), serve);
        assert!(answer.unwrap_err().is_closed());
        let died = Instant::now();
        next_is_alone(&client, &listener).await;
        assert!(died.elapsed() >= DEATH, "{:?}", died.elapsed());
    }

    #[tokio::test]
    async fn a_connection_that_closes_between_requests_costs_no_attempt() {
        let (client, listener) = client().await;
        let serve = async {
            let mut connection = accept(&listener).await;
            request(&mut connection).await;
            answer(&mut connection, DONE).await;
            request(&mut connection).await;
            drop(connection);
            let mut next = accept(&listener).await;
            for _ in 0..2 {
                request(&mut next).await;
                answer(&mut next, DONE).await;
            }
        };
        let requests = async {
            for _ in 0..3 {
                assert_eq!(send(&client).await, 204);
            }
        };
        tokio::join!(requests, serve);
        assert_eq!(
            client.idle.lock().len(),
            1,
            "the handler is trusted as before"
        );
    }
}
