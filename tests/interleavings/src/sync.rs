//! The names of the runtime's `sync`, at whose operations shuttle may switch threads.
//!
//! `Notify` and `CancellationToken` are tokio's own with a switch before each operation.
//! They wake tasks by their wakers only, so they serve shuttle's tasks as well as tokio's.
//! All threads of a scenario are coroutines of one thread, and none is switched within an
//! operation: to the others each is one step, as tokio documents it.

pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, Ordering,
};

use shuttle::sync::MutexGuard;

/// A lock as parking_lot's: a panic does not poison it.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A point at which shuttle may switch threads, as at every operation of its atomics.
#[derive(Default)]
struct SwitchPoint(AtomicBool);

impl SwitchPoint {
    fn pass(&self) {
        self.0.load(Ordering::Relaxed);
    }
}

/// As [`tokio::sync::Notify`].
#[derive(Default)]
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    point: SwitchPoint,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.point.pass();
        self.inner.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        self.point.pass();
        self.inner.notify_waiters();
    }

    /// The wait counts from this call for `notify_waiters`, and from its first poll for
    /// `notify_one`.
    pub(crate) fn notified(&self) -> impl Future<Output = ()> + '_ {
        self.point.pass();
        let notified = self.inner.notified();
        async move {
            self.point.pass();
            notified.await;
        }
    }
}

/// As [`tokio_util::sync::CancellationToken`].
#[derive(Default)]
pub(crate) struct CancellationToken {
    inner: tokio_util::sync::CancellationToken,
    point: SwitchPoint,
}

impl CancellationToken {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn cancel(&self) {
        self.point.pass();
        self.inner.cancel();
    }

    pub(crate) async fn cancelled(&self) {
        self.point.pass();
        self.inner.cancelled().await;
    }
}
