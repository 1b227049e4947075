//! What an embedded handler writes of its work, and how a recorder reads that.
//!
//! A handler that is called in the consumer's own process can be done at once, which no
//! request can: what it notes must not make it wait. So it appends lines to a file, which
//! outlives it, and which all members of a group share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::serve::Shared;
use super::{Delivery, Verdict};
use crate::Position;
use crate::sync::lock;

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(2);

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    process: u32,
    /// Of the deliveries to that process.
    number: u32,
    /// By the clock that [`Instant`] goes by, which all processes share.
    nanos: i64,
    event: Event,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Begun {
        topic: String,
        partition: i32,
        offset: i64,
        key: Option<String>,
        attempt: u32,
        epoch: u64,
    },
    Ended {
        status: u16,
    },
}

/// A message as it is given to the handler.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where it lies.
    pub position: Position,
    /// Its key.
    pub key: Option<String>,
    /// Which attempt this is.
    pub attempt: u32,
    /// That of its partition's assignment.
    pub epoch: u64,
}

/// The handler's side.
#[derive(Debug)]
pub struct Journal {
    file: File,
    next: AtomicU32,
}

/// A delivery without a verdict.
#[derive(Debug)]
#[must_use = "a delivery without a verdict is not settled"]
pub struct Begun(u32);

impl Journal {
    /// Goes on with the file at `path`, which the recorder has made.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            file: File::options().append(true).open(path)?,
            next: AtomicU32::new(0),
        })
    }

    /// Notes a delivery.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn begin(&self, given: Given) -> io::Result<Begun> {
        let Position {
            topic,
            partition,
            offset,
        } = given.position;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let event = Event::Begun {
            topic,
            partition,
            offset,
            key: given.key,
            attempt: given.attempt,
            epoch: given.epoch,
        };
        self.write(number, event)?;
        Ok(Begun(number))
    }

    /// Notes the verdict, as the status that HTTP has for it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn end(&self, begun: Begun, status: u16) -> io::Result<()> {
        self.write(begun.0, Event::Ended { status })
    }

    fn write(&self, number: u32, event: Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line {
            process: process::id(),
            number,
            nanos: now(),
            event,
        })?;
        line.push(b'\n');
        // In one piece: others append too.
        (&self.file).write_all(&line)
    }
}

/// One moment by both clocks. The thread may be interrupted between two looks, so the closest
/// of several counts.
fn origin() -> (Instant, i64) {
    let look = || {
        let before = now();
        let instant = Instant::now();
        (now() - before, instant, before)
    };
    let looks = std::iter::repeat_with(look).take(20);
    let closest = looks.min_by_key(|(apart, ..)| *apart);
    closest.map_or_else(
        || (Instant::now(), now()),
        |(_, instant, nanos)| (instant, nanos),
    )
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Makes the file.
pub(super) fn make(path: &Path) -> io::Result<()> {
    File::create(path).map(drop)
}

/// Reads on until it is stopped.
pub(super) async fn follow(path: PathBuf, shared: Arc<Shared>, stop: CancellationToken) {
    let failed = stop.run_until_cancelled(read_on(&path, &shared)).await;
    if let Some(Err(error)) = failed {
        let why = format!("{}: {error}", path.display());
        lock(&shared.log).malformed.push(why);
    }
}

async fn read_on(path: &Path, shared: &Shared) -> io::Result<Infallible> {
    let mut reader = Reader::new(path)?;
    loop {
        // Who is gone writes no more: what is read after that is all of it.
        let gone = reader.gone();
        reader.read(shared)?;
        reader.give_up(&gone, shared);
        tokio::time::sleep(PAUSE).await;
    }
}

struct Reader {
    file: BufReader<File>,
    /// What was read of a line that is not whole.
    rest: Vec<u8>,
    /// Open deliveries, by process and number: their places in the log.
    open: BTreeMap<(u32, u32), usize>,
    /// A moment by both clocks.
    origin: (Instant, i64),
}

impl Reader {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufReader::new(File::open(path)?),
            rest: Vec::new(),
            open: BTreeMap::new(),
            origin: origin(),
        })
    }

    /// Processes with open deliveries that have ended.
    fn gone(&self) -> Vec<u32> {
        let mut processes: Vec<_> = self.open.keys().map(|(process, _)| *process).collect();
        processes.dedup();
        processes.retain(|process| !Path::new(&format!("/proc/{process}")).exists());
        processes
    }

    fn read(&mut self, shared: &Shared) -> io::Result<()> {
        while self.file.read_until(b'\n', &mut self.rest)? > 0 && self.rest.ends_with(b"\n") {
            let line: Line = serde_json::from_slice(&self.rest)?;
            self.rest.clear();
            self.note(line, shared);
        }
        Ok(())
    }

    fn note(&mut self, line: Line, shared: &Shared) {
        let (id, at) = ((line.process, line.number), self.instant(line.nanos));
        let mut log = lock(&shared.log);
        match line.event {
            Event::Begun {
                topic,
                partition,
                offset,
                key,
                attempt,
                epoch,
            } => {
                let place = log.begin(Delivery {
                    position: Position::new(topic, partition, offset),
                    key,
                    attempt,
                    method: String::new(),
                    path: String::new(),
                    headers: BTreeMap::from([("ce-kafkaepoch".into(), epoch.to_string())]),
                    body: Vec::new(),
                    connection: usize::try_from(line.process).unwrap_or(usize::MAX),
                    start: at,
                    end: None,
                    verdict: Verdict::Open,
                });
                self.open.insert(id, place);
            }
            Event::Ended { status } => {
                if let Some(place) = self.open.remove(&id) {
                    log.end_at(place, Verdict::Answered(status), at);
                }
            }
        }
    }

    /// Deliveries whose process ended without a verdict on them.
    fn give_up(&mut self, gone: &[u32], shared: &Shared) {
        let mut log = lock(&shared.log);
        for process in gone {
            let (from, to) = ((*process, 0), (*process, u32::MAX));
            let open: Vec<_> = self.open.range(from..=to).map(|(id, _)| *id).collect();
            for place in open.iter().filter_map(|id| self.open.remove(id)) {
                log.end_at(place, Verdict::Abandoned, Instant::now());
            }
        }
    }

    fn instant(&self, nanos: i64) -> Instant {
        let (origin, origin_nanos) = self.origin;
        let distance = Duration::from_nanos(nanos.abs_diff(origin_nanos));
        let at = match nanos < origin_nanos {
            true => origin.checked_sub(distance),
            false => origin.checked_add(distance),
        };
        at.unwrap_or(origin)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::super::Recorder;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn given(offset: i64) -> Given {
        Given {
            position: Position::new("t", 2, offset),
            key: Some("k".into()),
            attempt: 3,
            epoch: 7,
        }
    }

    #[tokio::test]
    async fn deliveries_have_the_times_and_verdicts_that_the_handler_noted() {
        let dir = TempDir::new().unwrap();
        let recorder = Recorder::start_embedded(dir.path().join("journal")).unwrap();
        let journal = Journal::open(recorder.journal().unwrap()).unwrap();
        let before = Instant::now();
        let first = journal.begin(given(1)).unwrap();
        let between = Instant::now();
        let _second = journal.begin(given(2)).unwrap();
        journal.end(first, 204).unwrap();
        let after = Instant::now();
        recorder.wait_for_handled(1, SOON).await.unwrap();
        assert_eq!((recorder.count(), recorder.in_flight()), (2, 1));
        let deliveries = recorder.deliveries();
        let [first, second] = deliveries.as_slice() else {
            panic!("{deliveries:?}")
        };
        assert_eq!(first.position, Position::new("t", 2, 1));
        assert_eq!((first.key.as_deref(), first.attempt), (Some("k"), 3));
        assert_eq!(first.header("ce-kafkaepoch"), Some("7"));
        assert_eq!(first.verdict, Verdict::Answered(204));
        assert!(before <= first.start && first.start <= between);
        assert!(between <= second.start && second.start <= first.end.unwrap());
        assert!(first.end.unwrap() <= after);
        assert_eq!((second.verdict, second.end), (Verdict::Open, None));
    }

    #[tokio::test]
    async fn what_a_process_that_is_gone_left_open_is_abandoned() {
        let dir = TempDir::new().unwrap();
        let recorder = Recorder::start_embedded(dir.path().join("journal")).unwrap();
        let mut process = Command::new("true").spawn().unwrap();
        process.wait().unwrap();
        let event = Event::Begun {
            topic: "t".into(),
            partition: 0,
            offset: 5,
            key: None,
            attempt: 1,
            epoch: 0,
        };
        let line = serde_json::to_vec(&Line {
            process: process.id(),
            number: 0,
            nanos: now(),
            event,
        });
        // Half a line is none yet.
        let line = line.unwrap();
        let (half, rest) = line.split_at(line.len() / 2);
        let mut file = File::options()
            .append(true)
            .open(recorder.journal().unwrap())
            .unwrap();
        file.write_all(half).unwrap();
        tokio::time::sleep(5 * PAUSE).await;
        assert_eq!(recorder.count(), 0);
        file.write_all(rest).unwrap();
        file.write_all(b"\n").unwrap();
        recorder.wait_for(1, SOON).await.unwrap();
        let ended = async || recorder.in_flight() == 0;
        crate::wait::until("it to be given up", SOON, ended)
            .await
            .unwrap();
        assert_eq!(recorder.deliveries()[0].verdict, Verdict::Abandoned);
        assert_eq!(recorder.malformed(), Vec::<String>::new());
    }
}
