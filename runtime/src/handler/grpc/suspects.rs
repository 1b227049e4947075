//! Messages that may break the stream.
//!
//! When a stream breaks, the handler's process has most likely died of one message, and all
//! that had begun are suspects. Each is sent alone from then on: a stream that breaks
//! meanwhile convicts it, and nothing else is charged an attempt. A message that got a
//! verdict is a suspect no longer.
//!
//! A process that dies at once may take the report that it began along. So a message that
//! is alone when the stream breaks without a report is convicted at the second time; and
//! after some breaks without a conviction, whatever was sent is a suspect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::open::Fate;
use crate::record::Record;
use crate::worker::Position;

/// The maximum number of suspects. Those that left with their partition stay in the list; if
/// it is full it is emptied, and the stream may break once more.
const MAX_SUSPECTS: usize = 20_000;

/// Breaks without a conviction, in a row, after which whatever was sent is a suspect.
const UNEXPLAINED: u32 = 2;

/// Breaks without a report of its beginning that convict a message that was alone.
const UNREPORTED: u32 = 2;

/// The suspects, and the turns by which they are sent.
#[derive(Default)]
pub(super) struct Suspects {
    /// With the number of streams that broke while each was alone, without a report.
    positions: Mutex<HashMap<Position, u32>>,
    /// Whether there are any, to ask without the lock.
    are_some: AtomicBool,
    /// Streams that broke in a row without a conviction.
    unexplained: AtomicU32,
    /// Held for reading by whatever is sent together, for writing by what is sent alone,
    /// until its fate is known.
    turns: RwLock<()>,
}

/// The right to send, until it is dropped.
#[expect(dead_code, reason = "held, not looked at")]
pub(super) enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Suspects {
    /// Returns `true` if a message must be sent alone.
    pub(super) fn contain(&self, record: &Record) -> bool {
        let are_some = self.are_some.load(Ordering::Acquire);
        are_some && self.positions.lock().contains_key(&record.position())
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, alone: bool) -> Turn<'_> {
        if alone {
            Turn::Alone(self.turns.write().await)
        } else {
            Turn::Together(self.turns.read().await)
        }
    }

    /// Notes that a stream has broken, once for each. How long it lasted explains nothing: a
    /// handler may warm up for long, and then die of its first message.
    pub(super) fn note_break(&self) {
        self.unexplained.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what became of messages, and convicts the one that was `alone` too often when
    /// the stream broke.
    pub(super) fn take<'m>(
        &self,
        fates: impl Iterator<Item = (&'m Record, &'m mut Fate)>,
        alone: bool,
    ) {
        for (record, fate) in fates {
            match fate {
                Fate::Broke(_) => {
                    self.suspect(record, UNREPORTED);
                    self.unexplained.store(0, Ordering::Relaxed);
                }
                Fate::Suspect(_) => _ = self.suspect(record, 0),
                Fate::Bystander(why) if alone => {
                    if self.suspect(record, 1) >= UNREPORTED {
                        self.unexplained.store(0, Ordering::Relaxed);
                        *fate = Fate::Broke(why.clone());
                    }
                }
                Fate::Bystander(_) if self.unexplained.load(Ordering::Relaxed) >= UNEXPLAINED => {
                    _ = self.suspect(record, 0);
                }
                Fate::Verdict(_) => self.acquit(record),
                Fate::Bystander(_) | Fate::TimedOut | Fate::Returned(_) => {}
            }
        }
    }

    /// Adds a suspect. Returns the streams that broke while it was alone.
    fn suspect(&self, record: &Record, breaks: u32) -> u32 {
        let mut positions = self.positions.lock();
        if positions.len() >= MAX_SUSPECTS {
            positions.clear();
        }
        let count = positions.entry(record.position()).or_insert(0);
        *count = count.saturating_add(breaks);
        let count = *count;
        self.are_some.store(true, Ordering::Release);
        count
    }

    fn acquit(&self, record: &Record) {
        if self.are_some.load(Ordering::Acquire) {
            let mut positions = self.positions.lock();
            positions.remove(&record.position());
            self.are_some
                .store(!positions.is_empty(), Ordering::Release);
        }
    }
}
