//! Outgoing messages: all workers write to one buffer, and its content is sent in one piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::encode::HEAD;
use penstock_handler::v1::FromRuntime;

/// The number of unsent bytes at which workers wait. The stream takes no bytes while the
/// handler does not read. The buffer may exceed this by one batch of each worker, or by the
/// part of it that is sent together.
pub(super) const MOST: usize = 1 << 20;

/// The buffer.
pub(super) struct Outgoing {
    state: Mutex<State>,
    room: Notify,
}

struct State {
    bytes: BytesMut,
    sender: Option<Waker>,
    /// The time at which the stream last took bytes, which it does while the handler reads.
    taken: Instant,
    closed: bool,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                bytes: BytesMut::new(),
                sender: None,
                taken: Instant::now(),
                closed: false,
            }),
            room: Notify::new(),
        }
    }
}

impl Outgoing {
    /// Lets `write` add whole messages. Returns `false` once nothing more can be sent.
    pub(super) fn write(&self, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        write(&mut state.bytes);
        if let Some(sender) = state.sender.take() {
            drop(state);
            sender.wake();
        }
        true
    }

    /// Adds a message.
    pub(super) fn send(&self, message: &FromRuntime) -> bool {
        let size = message.encoded_len();
        self.write(|out| {
            out.reserve(HEAD + size);
            out.put_u8(0);
            out.put_u32(size as u32);
            message.encode_raw(out);
        })
    }

    /// Returns the time at which the stream last took bytes.
    pub(super) fn taken(&self) -> Instant {
        self.state.lock().taken
    }

    /// Waits until the buffer has room. This has no time limit: a handler need not read.
    pub(super) async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.state.lock();
                if state.closed || state.bytes.len() < MOST {
                    return;
                }
            }
            room.await;
        }
    }

    /// Closes the buffer: it sends the bytes that it has, and takes no others.
    pub(super) fn close(&self) {
        let sender = {
            let mut state = self.state.lock();
            state.closed = true;
            state.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        self.room.notify_waiters();
    }
}

/// The body of the request: the bytes of the workers, until the buffer is closed.
pub(super) struct OutgoingBody(pub(super) Arc<Outgoing>);

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let outgoing = &self.get_mut().0;
        let mut state = outgoing.state.lock();
        if !state.bytes.is_empty() {
            let bytes = state.bytes.split().freeze();
            state.taken = Instant::now();
            drop(state);
            outgoing.room.notify_waiters();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The stream is gone, and workers must not wait for room.
impl Drop for OutgoingBody {
    fn drop(&mut self) {
        self.0.close();
    }
}
