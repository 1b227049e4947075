//! Messages of a partition that wait for others of their key, and the pause of the partition.

use std::sync::atomic::Ordering;

use super::Partition;

/// Messages that wait for others of their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Held {
    /// Returns `true` if either is more than in `most`.
    pub(crate) fn exceeds(self, most: Self) -> bool {
        self.messages > most.messages || self.bytes > most.bytes
    }
}

/// Not paused.
pub(super) const RUNNING: usize = usize::MAX;

impl Partition {
    /// Notes that a message of this many bytes is held behind another of its key, or no longer.
    /// Wakes the pump once a paused partition may resume.
    pub(crate) fn hold(&self, bytes: usize, held: bool) {
        if held {
            self.held.fetch_add(1, Ordering::Relaxed);
            self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
            return;
        }
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // In one total order with the accesses in `pause`: one of both sees the other's write.
        let left = self.held.fetch_sub(1, Ordering::SeqCst) - 1;
        if left == self.resume_at.load(Ordering::SeqCst) {
            self.pump.notify_one();
        }
    }

    /// Returns the held messages.
    pub(crate) fn held(&self) -> Held {
        Held {
            messages: self.held.load(Ordering::Acquire),
            bytes: self.held_bytes.load(Ordering::Relaxed),
        }
    }

    /// Notes that reading pauses until half of the held messages have gone. Returns `false` if
    /// it is already paused. Wakes the pump immediately if they have gone meanwhile: the
    /// handlers that released them did not know the limit yet.
    pub(crate) fn pause(&self) -> bool {
        let half = self.held().messages / 2;
        let was_running = self.resume_at.swap(half, Ordering::SeqCst) == RUNNING;
        if self.held.load(Ordering::SeqCst) <= half {
            self.pump.notify_one();
        }
        was_running
    }

    /// Resumes a paused partition if it may be read, and returns `true` then.
    pub(crate) fn may_resume(&self) -> bool {
        let may = self.held().messages <= self.resume_at.load(Ordering::Acquire);
        if may {
            self.resume_at.store(RUNNING, Ordering::Release);
        }
        may
    }
}
