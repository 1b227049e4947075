//! One run: a consumer, a handler, the rows of a language in a mode.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use penstock_tests::kafka::Kafka;
use penstock_tests::lane::Mode;
use penstock_tests::produce::Produce;
use penstock_tests::{Consumer, Launch, Manifest, Position, groups, topics, usage};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tempfile::TempDir;

use crate::program::HandlerProgram;
use crate::supervisor::Supervisor;
use crate::table::{Language, Row};
use crate::verdicts::{Attempts, Found, problems};

/// Longest time for a phase to be settled.
const LIMIT: Duration = Duration::from_secs(90);

/// Longest time for the consumer to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The number of innocent messages in the first phase, and in each other.
const INNOCENT: (usize, usize) = (100, 24);

/// What the runtime may have in memory at most, whatever a handler sends.
const MAX_MEMORY_KIB: u64 = 400 << 10;

/// The files and connections that the runtime may have open, however many streams there were.
const MAX_FILES: usize = 80;

/// What a run varies.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub language: Language,
    pub mode: Mode,
    pub seed: u64,
}

/// What a run uses.
struct Scene {
    bootstrap: String,
    topic: String,
    dead: String,
    group: String,
    dir: TempDir,
}

/// A message.
pub struct Sent {
    pub position: Position,
    /// None if it is innocent.
    pub row: Option<Row>,
    /// Whether it may be charged though it is innocent: the process ended when there was
    /// nothing else that it could have died of.
    pub may_be_charged: bool,
}

impl Run {
    /// Runs the rows, and returns all that went wrong.
    pub async fn check(self, program: &HandlerProgram, rows: &[Row]) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        let scene = Scene::new().await?;
        let (socket, journal) = (scene.path("handler.sock"), scene.path("journal"));
        let program = program.clone();
        let handler = Supervisor::start(move || {
            let program = program.program().env("PENSTOCK_HANDLER_SOCKET", &socket);
            program.env("HOSTILE_JOURNAL", &journal)
        })?;
        let consumer = Launch::new(&scene.manifest(self)).start()?;
        let sent = self.settle(rows, &scene, &consumer, &handler).await?;
        let found = scene.found(&consumer, &handler).await?;
        let mut wrong = problems(&sent, &found);
        if found.memory.peak_kib > MAX_MEMORY_KIB || found.files > MAX_FILES {
            wrong.push(format!(
                "the runtime used {:?}, and has {} files open",
                found.memory, found.files
            ));
        }
        println!(
            "{:?}, {:?}: {} messages, {} of them hostile, {} ends of the handler, {:?}, {} files, {:.1?}",
            self.language,
            self.mode,
            sent.len(),
            sent.iter().filter(|sent| sent.row.is_some()).count(),
            handler.ends(),
            found.memory,
            found.files,
            began.elapsed()
        );
        let stopped = consumer.stop(STOP_LIMIT).await?;
        if !stopped.success() {
            let tail = consumer.tail();
            wrong.push(format!("the runtime ended with {stopped}:\n{tail}"));
        }
        handler.stop().await?;
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\nhandler:\n{}", wrong.join("\n"), handler.tail()).into()),
        }
    }

    /// Sends the rows that may be together, then each of the others alone, with innocent
    /// messages around them. Waits each time until all is settled.
    async fn settle(
        self,
        rows: &[Row],
        scene: &Scene,
        consumer: &Consumer,
        handler: &Supervisor,
    ) -> Result<Vec<Sent>, Box<dyn Error>> {
        let rows = rows.iter().map(|row| row.within(self.language));
        let (alone, together): (Vec<_>, Vec<_>) = rows.partition(|row| row.alone);
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut sent = Vec::new();
        let phases = std::iter::once(together).chain(alone.into_iter().map(|row| vec![row]));
        for (number, phase) in phases.enumerate() {
            let began = Instant::now();
            let innocent = if number == 0 { INNOCENT.0 } else { INNOCENT.1 };
            let names: Vec<_> = phase.iter().map(|row| row.name.clone()).collect();
            let mut messages: Vec<_> = phase.into_iter().map(Some).collect();
            messages.resize(messages.len() + innocent, None);
            messages.shuffle(&mut random);
            scene.send(messages, &mut sent).await?;
            let settled = scene.wait_for(sent.len(), consumer).await;
            settled.map_err(|error| format!("{names:?}: {error}\nhandler:\n{}", handler.tail()))?;
            let (language, mode, took) = (self.language, self.mode, began.elapsed());
            match names.as_slice() {
                [name] => println!("  {language:?} {mode:?} {name} {took:.1?}"),
                names => println!("  {language:?} {mode:?} {} rows {took:.1?}", names.len()),
            }
        }
        Ok(sent)
    }
}

impl Scene {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        Ok(Self {
            topic: topics::create(&bootstrap, "hostile", 2).await?,
            dead: topics::create(&bootstrap, "hostile-dead", 1).await?,
            group: topics::unique("test.hostile"),
            dir: TempDir::with_prefix("penstock-hostile-")?,
            bootstrap,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn manifest(&self, Run { mode, language, .. }: Run) -> Manifest {
        let socket = self.path("handler.sock").display().to_string();
        let manifest = mode
            .manifest(&self.bootstrap, &self.group, &self.topic, 4)
            .set("/handler/protocol", language.protocol())
            .set("/handler/socket", socket);
        let manifest = match language {
            Language::Http => manifest,
            _ => manifest.set("/consumeBatchSize", 10),
        };
        let manifest = match language {
            Language::Http | Language::BatchHttp => manifest,
            _ => manifest
                .set("/handler/maxTimeout", "4s")
                .set("/handler/waitTimeout", "8s"),
        };
        manifest
            .set("/handler/timeout", "2s")
            .set("/delivery/maxAttempts", 2)
            .set("/delivery/backoff/initial", "10ms")
            .set("/delivery/backoff/max", "200ms")
            .set("/delivery/onFailure", "DeadLetter")
            .set("/delivery/deadLetterTopic", self.dead.as_str())
    }

    /// Produces messages, and adds them to those that were sent.
    async fn send(
        &self,
        messages: Vec<Option<Row>>,
        sent: &mut Vec<Sent>,
    ) -> Result<(), Box<dyn Error>> {
        let header = |value: fn(&Row) -> Option<String>| {
            let values: Vec<_> = messages.iter().map(|row| value(row.as_ref()?)).collect();
            move |seq: u64| {
                Some(
                    values
                        .get(usize::try_from(seq).ok()?)?
                        .clone()?
                        .into_bytes(),
                )
            }
        };
        let keyless: Vec<_> = messages
            .iter()
            .map(|row| row.as_ref().is_some_and(|row| row.keyless))
            .collect();
        let has_key = move |seq: u64| !seq.is_multiple_of(4) && !keyless[seq as usize];
        let produced = Produce::to(&self.topic)
            .count(messages.len() as u64)
            .key(move |seq| has_key(seq).then(|| format!("key-{}", seq % 9)))
            .header_of("behaviour", header(|row| Some(row.name.clone())))
            .header_of("times", header(|row| Some(row.times?.to_string())))
            .send(&self.bootstrap)
            .await?;
        let may_be_charged = messages.iter().flatten().any(|row| row.stray);
        let positions = produced.into_iter().map(|message| message.position);
        sent.extend(positions.zip(messages).map(|(position, row)| Sent {
            position,
            may_be_charged: may_be_charged && row.is_none(),
            row,
        }));
        Ok(())
    }

    /// What there is to be seen of a run.
    async fn found(
        &self,
        consumer: &Consumer,
        handler: &Supervisor,
    ) -> Result<Found, Box<dyn Error>> {
        let runtime = consumer.lines().into_iter();
        Ok(Found {
            letters: topics::read_all(&self.bootstrap, &self.dead).await?,
            attempts: Attempts::read(&fs::read_to_string(self.path("journal"))?)?,
            metrics: consumer.metrics().await?,
            files: fs::read_dir(format!("/proc/{}/fd", consumer.id()))?.count(),
            memory: usage::memory(&consumer.id().to_string()).ok_or("the runtime is gone")?,
            handler: handler.lines(),
            runtime: runtime.map(|line| line.text).collect(),
        })
    }

    async fn wait_for(&self, messages: usize, consumer: &Consumer) -> Result<(), Box<dyn Error>> {
        let (group, topic) = (&self.group, &self.topic);
        let messages = i64::try_from(messages)?;
        let committed = groups::wait_for_committed(&self.bootstrap, group, topic, messages, LIMIT);
        // A runtime that has ended commits nothing more.
        let ended = consumer.wait(LIMIT * 2);
        tokio::select! {
            committed = committed => {
                committed.map_err(|error| format!("{error}\nruntime:\n{}", consumer.tail()))?;
            }
            ended = ended => {
                return Err(format!("the runtime ended with {:?}:\n{}", ended?, consumer.tail()).into());
            }
        }
        Ok(())
    }
}
