//! Tasks of a process that may be frozen, thawed and killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::losses;
use crate::consumer::assembly::Tasks;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Frozen,
    Dead,
}

/// All tasks of a process.
#[derive(Clone)]
pub(super) struct Process(Arc<Mutex<Inner>>);

struct Inner {
    number: usize,
    state: State,
    wakers: Vec<Waker>,
}

impl Process {
    pub(super) fn new(number: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            number,
            state: State::Running,
            wakers: Vec::new(),
        })))
    }

    pub(super) fn freeze(&self) {
        self.set(State::Frozen);
    }

    pub(super) fn thaw(&self) {
        self.set(State::Running);
    }

    /// From now on nothing of it is polled; its futures are dropped.
    pub(super) fn kill(&self) {
        self.set(State::Dead);
    }

    fn set(&self, state: State) {
        let wakers = {
            let mut inner = self.0.lock();
            if inner.state != State::Dead {
                inner.state = state;
            }
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Tasks for Process {
    fn task<F: Future + Send + 'static>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + Send + 'static {
        Task {
            future: Some(Box::pin(future)),
            process: self.clone(),
        }
    }
}

/// One task.
struct Task<F> {
    future: Option<Pin<Box<F>>>,
    process: Process,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (number, state) = {
            let mut inner = self.process.0.lock();
            inner
                .wakers
                .retain(|waker| !waker.will_wake(context.waker()));
            inner.wakers.push(context.waker().clone());
            (inner.number, inner.state)
        };
        losses::set_process(number);
        match state {
            State::Running => match &mut self.future {
                Some(future) => future.as_mut().poll(context),
                None => Poll::Pending,
            },
            State::Frozen => Poll::Pending,
            State::Dead => {
                self.future = None;
                Poll::Pending
            }
        }
    }
}
