//! Locking without a panic on top of a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not a test panicked while it held the lock: what the harness
/// keeps is only ever appended to, so it stays readable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
