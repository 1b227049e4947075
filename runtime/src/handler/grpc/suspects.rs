//! Messages that may break the stream.
//!
//! When a stream breaks, the handler's process has most likely died of one message, and all
//! that had begun are suspects. Each is sent alone from then on: a stream that breaks
//! meanwhile convicts it, and nothing else is charged an attempt. A message that got a
//! verdict is a suspect no longer.
//!
//! A process that dies at once may take the report that a message began along, and one that
//! a message blocks can't send it. So after some breaks without a conviction, whatever was
//! sent is a suspect, and so is what was sent to a handler that fell silent. A message that is
//! alone when that happens is convicted at the second time, if the handler stayed up without
//! a message in between: a process that ends by itself convicts nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::open::{Fate, is_unbegun};
use crate::record::Record;
use crate::worker::Position;

/// The maximum number of suspects. If the list is full it is emptied, and the stream may
/// break once more.
const MAX_SUSPECTS: usize = 20_000;

/// How long a message stays a suspect that is not sent again: it left with its partition, or
/// spent its last attempt.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How often those that are not sent any more are removed.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// For how long a handler has to stay up without a message: twice as long as it did when the
/// stream broke, within these bounds.
const MIN_PROOF: Duration = Duration::from_secs(1);
const MAX_PROOF: Duration = Duration::from_secs(10);

/// Breaks and silences without a conviction, in a row, after which whatever was sent is a suspect.
const UNEXPLAINED: u32 = 2;

/// Breaks and silences without a report of its beginning that convict a message that was
/// alone.
const UNREPORTED: u32 = 2;

/// The suspects, and the turns by which they are sent.
pub(super) struct Suspects {
    list: Mutex<List>,
    /// Whether there are any, to ask without the lock.
    are_some: AtomicBool,
    /// Breaks and silences in a row without a conviction.
    unexplained: AtomicU32,
    /// Held for reading by whatever is sent together, for writing by what is sent alone,
    /// until its fate is known.
    turns: RwLock<()>,
}

struct List {
    suspicions: HashMap<Position, Suspicion>,
    /// When those that are too old were last removed.
    purged: Instant,
}

struct Suspicion {
    /// How often the stream broke, or the handler fell silent, while the message was alone,
    /// without a report.
    unreported: u32,
    proof: Option<Proof>,
    noted: Instant,
}

/// What a handler has to show before a message is sent to it alone again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// Its stream lasts this long without a message.
    pub(super) age: Duration,
    /// It has said something after this.
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

    /// Returns what the handler has to show before a message is sent alone.
    pub(super) fn proof(&self, record: &Record) -> Option<Proof> {
        let list = self.list.lock();
        list.suspicions.get(&record.position())?.proof
    }

    /// Notes that the handler ended on a stream without a message, that was opened then: what
    /// happened while this one was alone does not speak against it. A stream that the message
    /// was sent on tells nothing.
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

    /// Notes that a stream has broken, or the handler has fallen silent, once for each. How
    /// long the stream lasted explains nothing: a handler may warm up for long, and then die
    /// of its first message.
    pub(super) fn note_trouble(&self) {
        self.unexplained.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what became of messages, which were sent then on a stream of this age, and convicts
    /// the one that was `alone` too often when the stream broke or the handler fell silent.
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
                // It was given back unbegun, which says nothing of it.
                Fate::Verdict(verdict) if is_unbegun(verdict) => {}
                Fate::Verdict(_) => self.acquit(record),
                Fate::TimedOut | Fate::NotBegun(_) | Fate::Returned(_) => {}
            }
        }
    }

    /// Notes a break or a silence without a report while a message was alone. Returns `true`
    /// if that was too often.
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

    /// Forgets messages that were not sent for long.
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
