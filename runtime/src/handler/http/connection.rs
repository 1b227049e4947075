//! A kept-alive HTTP/1.1 connection to a handler.
//!
//! The connection belongs to the task that calls the handler, and does one thing at a time: it
//! writes a request in one call and reads the answer in another. A general HTTP client has a
//! separate task for each connection. The two switches between tasks for each message cost more
//! than reading the answer.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use penstock_crds::validate::Address;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::answer::{Answer, Reader, SendError};
use crate::handler::stream::Stream;

/// The capacity for an answer before it arrives. A read that does not fill the buffer shows that no
/// more bytes are there.
const ROOM: usize = 4 * 1024;

/// The capacity that is kept for the next head; few heads are longer.
const KEPT: usize = 16 * 1024;

/// The maximum number of bytes to read that no request asked for.
const UNASKED: usize = 128;

/// The state of a connection without a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The handler has neither closed the connection nor sent anything.
    Ready,
    /// The handler has closed the connection, or is about to.
    Closed,
    /// The handler has sent bytes that belong to no answer.
    Unasked,
}

/// Returns `true` for the answer 408, with which servers close idle connections.
fn is_farewell(bytes: &[u8]) -> bool {
    let status = bytes
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(1..5));
    status == Some(b" 408")
}

/// A connection. Dropping it closes it, with an unanswered request too.
pub(super) struct Connection {
    stream: Stream,
    /// The buffer for heads of requests.
    head: Vec<u8>,
    /// Bytes that were received and are not read yet.
    input: BytesMut,
}

impl Connection {
    pub(super) async fn open(address: &Address) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::connect(address).await?,
            head: Vec::new(),
            input: BytesMut::new(),
        })
    }

    /// Returns the state of a connection without a request.
    pub(super) fn state(&mut self) -> State {
        let mut more = [0; UNASKED];
        match self.stream.try_read(&mut more) {
            Ok(0) => {}
            Ok(count) => self.input.extend_from_slice(&more[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.input.is_empty() => {
                return State::Ready;
            }
            Err(_) => {}
        }
        match self.input.is_empty() || is_farewell(&self.input) {
            true => State::Closed,
            false => State::Unasked,
        }
    }

    /// Returns the received bytes that belong to no answer.
    pub(super) fn unasked(&self) -> &[u8] {
        &self.input
    }

    /// Sends a request with the head that `write_head` writes, and reads the answer, with at most
    /// this number of bytes of its body.
    pub(super) async fn send(
        &mut self,
        write_head: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
        longest_answer: usize,
    ) -> Result<Answer, SendError> {
        self.head.clear();
        self.head.shrink_to(KEPT);
        write_head(&mut self.head);
        let mut reader = Reader::new(longest_answer);
        let sent = self.write(body, &mut reader).await;
        // A handler that refuses a request may answer and close before it has read all of it.
        match (self.read(reader).await, sent) {
            (Ok(answer), Ok(Sent::Whole)) => Ok(Answer {
                surplus: answer.surplus || (answer.reusable && !self.input.is_empty()),
                ..answer
            }),
            (Ok(answer), Ok(Sent::Part) | Err(_)) => Ok(Answer {
                reusable: false,
                ..answer
            }),
            (Err(SendError::Closed(_)), Err(error)) => Err(SendError::Closed(Some(error))),
            (Err(error), _) => Err(error),
        }
    }

    /// Writes head and body, or as much as the handler accepts before an answer begins.
    async fn write(&mut self, body: &[u8], reader: &mut Reader) -> io::Result<Sent> {
        let Self {
            stream,
            head,
            input,
        } = self;
        let mut slices = [IoSlice::new(head), IoSlice::new(body)];
        let mut rest = &mut slices[..];
        poll_fn(|cx| {
            while !rest.is_empty() {
                match Pin::new(&mut *stream).poll_write_vectored(cx, rest) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => IoSlice::advance_slices(&mut rest, written),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        let read = ready!(poll_fill(stream, input, cx))?;
                        if read == 0 {
                            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                        }
                        // The next read meets the error again.
                        if reader.read_head(input).unwrap_or(true) {
                            return Poll::Ready(Ok(Sent::Part));
                        }
                    }
                }
            }
            Poll::Ready(Ok(Sent::Whole))
        })
        .await
    }

    async fn read(&mut self, mut reader: Reader) -> Result<Answer, SendError> {
        loop {
            if let Some(answer) = reader.read(&mut self.input)? {
                return Ok(answer);
            }
            self.input.reserve(ROOM);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return reader.end(None),
                Ok(_) => {}
                Err(error) => return reader.end(Some(error)),
            }
        }
    }
}

/// The part of a request that the handler accepted.
enum Sent {
    Whole,
    Part,
}

fn poll_fill(
    stream: &mut Stream,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    input.reserve(ROOM);
    pin!(stream.read_buf(input)).poll(cx)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    const LONGEST_ANSWER: usize = 1 << 16;

    /// More than the sockets between two processes hold.
    const LARGE: usize = 16 << 20;

    async fn connected() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = Connection::open(&Address::Port(port)).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    fn head(out: &mut Vec<u8>) {
        out.extend_from_slice(b"POST / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn a_large_request_arrives_whole_and_the_connection_stays() {
        let (mut connection, mut server) = connected().await;
        let body: Vec<_> = (0..LARGE).map(|n| n as u8).collect();
        let serve = async {
            let mut wanted = Vec::new();
            head(&mut wanted);
            wanted.extend_from_slice(&body);
            // Said in the interim, and no reason to stop.
            let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
            server.write_all(interim).await.unwrap();
            let mut request = vec![0; wanted.len()];
            server.read_exact(&mut request).await.unwrap();
            assert!(request == wanted);
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            server.write_all(answer).await.unwrap();
        };
        let send = timeout(LIMIT, connection.send(head, &body, LONGEST_ANSWER));
        let (answer, ()) = tokio::join!(send, serve);
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.status.as_u16(), answer.reusable), (204, true));
        assert_eq!(connection.state(), State::Ready);
    }

    #[tokio::test]
    async fn an_answer_before_the_request_was_read_is_taken_and_costs_the_connection() {
        let (mut connection, mut server) = connected().await;
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
        server.write_all(answer).await.unwrap();
        let body = vec![0; LARGE];
        let answer = timeout(LIMIT, connection.send(head, &body, LONGEST_ANSWER))
            .await
            .unwrap();
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), answer.reusable), (413, false));
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_or_spoken_on_takes_no_request() {
        for (unasked, state) in [
            (&b""[..], State::Closed),
            (b"HTTP/1.1 408 Request Timeout\r\n\r\n", State::Closed),
            (b"HTTP/1.1 200 OK\r\n\r\n", State::Unasked),
            (b"hello", State::Unasked),
        ] {
            let (mut connection, mut server) = connected().await;
            assert_eq!(connection.state(), State::Ready);
            server.write_all(unasked).await.unwrap();
            drop(server);
            let wait = async {
                loop {
                    match connection.state() {
                        State::Ready => tokio::task::yield_now().await,
                        state => return state,
                    }
                }
            };
            let seen = timeout(LIMIT, wait).await.expect("it is noticed");
            assert_eq!(seen, state, "{}", String::from_utf8_lossy(unasked));
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_without_an_answer_is_told_apart() {
        let (mut connection, mut server) = connected().await;
        let serve = async {
            let mut wanted = Vec::new();
            head(&mut wanted);
            server.read_exact(&mut wanted).await.unwrap();
            drop(server);
        };
        let (answer, ()) = tokio::join!(connection.send(head, b"", LONGEST_ANSWER), serve);
        assert!(matches!(answer, Err(SendError::Closed(None))), "{answer:?}");
    }
}
