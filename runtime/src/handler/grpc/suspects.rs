//! Messages that may break the stream.
//!
//! When a stream breaks, one message has most likely ended the handler's process, and all
//! messages that had begun are suspects. From then on each suspect is sent alone. If the stream
//! breaks meanwhile, that message is convicted, and no other is charged an attempt. A message
//! with a verdict is no longer a suspect.
//!
//! A process that dies immediately may not send the report that a message began, and neither
//! does one that a message blocks. So after some breaks without a conviction, each message that
//! was sent is a suspect, and so is each message that was sent to a handler that fell silent. A
//! message that is alone when that happens is convicted at the second time, if the handler
//! stayed up without a message in between: a process that ends by itself convicts nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::open::{Fate, is_unbegun};
use crate::handler::record::{Position, Record};

/// The maximum number of suspects. If the list is full it is emptied, and the stream may
/// break once more.
const MAX_SUSPECTS: usize = 20_000;

/// The time after which a message that is not sent again is no longer a suspect: it left with
/// its partition, or spent its last attempt.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The time between two removals of such messages.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// The bounds of the time for which a handler must stay up without a message: twice the time
/// that it did when the stream broke.
const MIN_PROOF: Duration = Duration::from_secs(1);
const MAX_PROOF: Duration = Duration::from_secs(10);

/// The number of breaks and silences in a row without a conviction, after which each sent
/// message is a suspect.
const UNEXPLAINED: u32 = 2;

/// The number of breaks and silences without a report of the beginning that convict a message
/// that was alone.
const UNREPORTED: u32 = 2;

/// The suspects, and the turns in which they are sent.
pub(super) struct Suspects {
    list: Mutex<List>,
    /// Is `true` if there are any; readable without the lock.
    are_some: AtomicBool,
    /// Breaks and silences in a row without a conviction.
    unexplained: AtomicU32,
    /// Held for reading by messages that are sent together, and for writing by a message that
    /// is sent alone, until its fate is known.
    turns: RwLock<()>,
}

struct List {
    suspicions: HashMap<Position, Suspicion>,
    /// The time of the last removal of old suspects.
    purged: Instant,
}

struct Suspicion {
    /// The number of times that the stream broke, or the handler fell silent, without a report
    /// while the message was alone.
    unreported: u32,
    proof: Option<Proof>,
    noted: Instant,
}

/// The proof that a handler must give before a message is sent to it alone again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// The time that its stream must last without a message.
    pub(super) age: Duration,
    /// It must have sent a message after this.
    pub(super) since: Instant,
}

/// The right to send, until it is dropped.
#[expect(dead_code, reason = "held, not looked at")]
pub(super) enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            list: Mutex::new(List {
                suspicions: HashMap::new(),
                purged: Instant::now(),
            }),
            are_some: AtomicBool::new(false),
            unexplained: AtomicU32::new(0),
            turns: RwLock::default(),
        }
    }
}

impl Suspects {
    /// Returns `true` if a message must be sent alone.
    pub(super) fn contain(&self, record: &Record) -> bool {
        let position = || record.position();
        self.are_some() && self.list.lock().suspicions.contains_key(&position())
    }

    /// Returns the proof that the handler must give before a message is sent alone.
    pub(super) fn proof(&self, record: &Record) -> Option<Proof> {
        let list = self.list.lock();
        list.suspicions.get(&record.position())?.proof
    }

    /// Notes that the handler ended without a message on a stream that was opened then: the
    /// troubles while this message was alone do not count against it. A stream on which the
    /// message was sent proves nothing.
    pub(super) fn note_own_end(&self, record: &Record, opened: Instant) {
        let mut list = self.list.lock();
        if let Some(suspicion) = list.suspicions.get_mut(&record.position())
            && suspicion.proof.is_some_and(|proof| proof.since < opened)
        {
            suspicion.unreported = 0;
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, alone: bool) -> Turn<'_> {
        if alone {
            Turn::Alone(self.turns.write().await)
        } else {
            Turn::Together(self.turns.read().await)
        }
    }

    /// Notes that a stream broke, or the handler fell silent, once for each. The duration of
    /// the stream explains nothing: a handler may warm up for long, and then die of its first
    /// message.
    pub(super) fn note_trouble(&self) {
        self.unexplained.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the fates of messages that were sent on a stream of this age. Convicts the message
    /// that was `alone` too often when the stream broke or the handler fell silent.
    pub(super) fn take<'m>(
        &self,
        fates: impl Iterator<Item = (&'m Record, &'m mut Fate)>,
        alone: bool,
        age: Duration,
        sent: Instant,
    ) {
        self.purge();
        for (record, fate) in fates {
            match fate {
                Fate::Broke(_) => {
                    self.suspect(record, |_| {});
                    self.unexplained.store(0, Ordering::Relaxed);
                }
                Fate::Suspect(_) => self.suspect(record, |_| {}),
                Fate::Bystander(why) | Fate::Silent(why) if alone => {
                    if self.convicts(record, age, sent) {
                        *fate = Fate::Broke(Arc::clone(why));
                    }
                }
                Fate::Bystander(_) | Fate::Silent(_) => {
                    if self.unexplained.load(Ordering::Relaxed) >= UNEXPLAINED {
                        self.suspect(record, |_| {});
                    }
                }
                // It was released unbegun, which proves nothing.
                Fate::Verdict(verdict) if is_unbegun(verdict) => {}
                Fate::Verdict(_) => self.acquit(record),
                Fate::TimedOut | Fate::NotBegun(_) | Fate::Returned(_) => {}
            }
        }
    }

    /// Notes a break or a silence without a report while a message was alone. Returns `true` if
    /// that was too often.
    fn convicts(&self, record: &Record, age: Duration, sent: Instant) -> bool {
        let mut convicts = false;
        self.suspect(record, |suspicion| {
            suspicion.unreported = suspicion.unreported.saturating_add(1);
            suspicion.proof = Some(Proof {
                age: (age * 2).clamp(MIN_PROOF, MAX_PROOF),
                since: sent,
            });
            convicts = suspicion.unreported >= UNREPORTED;
        });
        if convicts {
            self.unexplained.store(0, Ordering::Relaxed);
        }
        convicts
    }

    fn are_some(&self) -> bool {
        self.are_some.load(Ordering::Acquire)
    }

    fn suspect(&self, record: &Record, note: impl FnOnce(&mut Suspicion)) {
        let noted = Instant::now();
        let suspicions = &mut self.list.lock().suspicions;
        let position = record.position();
        if suspicions.len() >= MAX_SUSPECTS && !suspicions.contains_key(&position) {
            suspicions.clear();
        }
        let suspicion = suspicions.entry(position).or_insert(Suspicion {
            unreported: 0,
            proof: None,
            noted,
        });
        suspicion.noted = noted;
        note(suspicion);
        self.are_some.store(true, Ordering::Release);
    }

    fn acquit(&self, record: &Record) {
        if self.are_some() {
            let mut list = self.list.lock();
            list.suspicions.remove(&record.position());
            self.note_whether_some(&list);
        }
    }

    /// Removes messages that were not sent for long.
    fn purge(&self) {
        if !self.are_some() {
            return;
        }
        let now = Instant::now();
        let mut list = self.list.lock();
        if now.duration_since(list.purged) >= PURGE_INTERVAL {
            list.purged = now;
            list.suspicions
                .retain(|_, it| now.duration_since(it.noted) < REMEMBERED);
            self.note_whether_some(&list);
        }
    }

    /// With the lock held, so that a suspect that is added meanwhile is seen.
    fn note_whether_some(&self, list: &List) {
        let are_some = !list.suspicions.is_empty();
        self.are_some.store(are_some, Ordering::Release);
    }
}
