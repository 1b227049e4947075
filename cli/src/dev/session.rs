//! A run from the start of consuming to its end.

use std::io::Read;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use penstock_runtime::client::ClientCallbacks;
use rdkafka::producer::FutureProducer;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::child::{Child, HANDLER_STOP_LIMIT};
use super::error::DevError;
use super::pages::Source;
use super::produce::{self, Job, Window};
use super::progress::Progress;
use super::{Setting, Started};
use crate::console::Console;
use crate::input;

/// Pause between two looks at the progress. The window of the producer moves
/// with them.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long the consumer may take to end once its handler is gone: nothing that
/// is in flight can be handled any more.
const ORPHAN_LIMIT: Duration = Duration::from_secs(3);

/// How long nothing more may come until all is taken to be handled, on brokers
/// that others may produce to.
const QUIET: Duration = Duration::from_secs(2);

/// Messages that are to be produced once the consumer has partitions.
pub struct Producing {
    job: Job,
    lines: Box<dyn Read + Send>,
    producer: FutureProducer<ClientCallbacks>,
    window: Arc<Window>,
}

impl Producing {
    /// Messages to a topic of the consumer's brokers.
    pub fn new(
        setting: &Setting,
        topic: String,
        lines: Box<dyn Read + Send>,
        own_broker: bool,
    ) -> Result<Self, DevError> {
        let window = Arc::new(Window::default());
        let arguments = &setting.arguments;
        Ok(Self {
            job: Job {
                file: arguments.produce.clone().unwrap_or_default(),
                topic,
                separator: arguments.key_separator.clone(),
                window: own_broker.then(|| Arc::clone(&window)),
            },
            lines,
            producer: produce::producer(&setting.plan.consumer, &setting.secrets)?,
            window,
        })
    }
}

/// How far producing has come.
enum Produce {
    /// Nothing is to be produced.
    Nothing,
    /// Nothing may be missed, so the consumer must have its partitions first.
    Waiting(Box<Producing>),
    Running {
        task: JoinHandle<Result<u64, DevError>>,
        window: Arc<Window>,
        since: Instant,
        file: String,
    },
    Done {
        messages: u64,
    },
}

/// A run.
pub struct Session {
    console: Console,
    stop: CancellationToken,
    stop_timeout: Duration,
    consuming: JoinHandle<Result<(), DevError>>,
    handler: Option<Child>,
    source: Source,
    progress: Progress,
    produce: Produce,
    exit_when_done: bool,
    own_broker: bool,
    stopping: bool,
}

impl Session {
    pub fn new(
        setting: &Setting,
        started: Started,
        producing: Option<Producing>,
        own_broker: bool,
    ) -> Self {
        let consumer = &setting.plan.consumer;
        Self {
            console: setting.console.clone(),
            stop: setting.stop.clone(),
            stop_timeout: consumer.stop_timeout,
            consuming: started.consuming,
            handler: started.handler,
            source: started.progress,
            progress: Progress::new(setting.console.clone(), consumer.group.to_string()),
            produce: producing.map_or(Produce::Nothing, |it| Produce::Waiting(Box::new(it))),
            exit_when_done: setting.arguments.exit_when_done,
            own_broker,
            stopping: false,
        }
    }

    /// Goes on until the consumer ends, then ends the handler and sums up.
    pub async fn run(mut self) -> Result<(), DevError> {
        let mut ended = self.until_the_end().await;
        self.look().await;
        self.console.end_progress();
        if let Some(mut handler) = self.handler.take() {
            let stopped = handler.stop(HANDLER_STOP_LIMIT).await;
            if let Ok(None) = stopped {
                self.console.say(format_args!(
                    "note: the handler did not end within {HANDLER_STOP_LIMIT:?} of SIGTERM and was killed"
                ));
            }
            ended = ended.and(stopped.map(|_| ()));
        }
        let how = if ended.is_ok() { "done" } else { "ended" };
        self.console
            .say(format_args!("{how:<9} {}", self.progress.summary()));
        ended
    }

    async fn until_the_end(&mut self) -> Result<(), DevError> {
        let mut failure = None;
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                ended = &mut self.consuming => {
                    return failure.map_or_else(|| flatten(ended), Err);
                }
                status = ended(&mut self.handler) => {
                    let error = self.orphaned(status?).await;
                    return Err(failure.unwrap_or(error));
                }
                produced = produced(&mut self.produce) => {
                    if let Err(error) = self.take_produced(produced) {
                        failure.get_or_insert(error);
                        self.stop.cancel();
                    }
                }
                () = self.stop.cancelled(), if !self.stopping => self.say_stopping(),
                _ = looks.tick() => {
                    self.look().await;
                    self.begin_producing();
                    if self.is_done() {
                        self.stop.cancel();
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        if let Some(snapshot) = self.source.look().await {
            if let Produce::Running { window, .. } = &self.produce {
                window.settled(snapshot.settled());
            }
            self.progress.show(snapshot);
        }
    }

    fn begin_producing(&mut self) {
        if self.progress.now().partitions == 0 || self.stopping {
            return;
        }
        self.produce = match std::mem::replace(&mut self.produce, Produce::Nothing) {
            Produce::Waiting(producing) => Produce::Running {
                file: input::name(&producing.job.file),
                window: producing.window,
                since: Instant::now(),
                task: tokio::spawn(produce::run(
                    producing.job,
                    producing.lines,
                    producing.producer,
                    self.stop.clone(),
                )),
            },
            other => other,
        };
    }

    fn take_produced(
        &mut self,
        produced: Result<Result<u64, DevError>, JoinError>,
    ) -> Result<(), DevError> {
        let before = std::mem::replace(&mut self.produce, Produce::Nothing);
        let messages = flatten(produced)?;
        if let Produce::Running { since, file, .. } = before {
            self.console.say(format_args!(
                "produced  {} messages from {file} in {:.1} s",
                HumanCount(messages),
                since.elapsed().as_secs_f64()
            ));
        }
        self.produce = Produce::Done { messages };
        Ok(())
    }

    /// Whether everything that was produced is handled, and that is the end.
    fn is_done(&self) -> bool {
        let Produce::Done { messages } = self.produce else {
            return false;
        };
        let now = self.progress.now();
        let quiet = self.own_broker || self.progress.quiet_for() >= QUIET;
        self.exit_when_done && now.settled() >= messages && now.in_flight == 0 && quiet
    }

    fn say_stopping(&mut self) {
        self.stopping = true;
        let in_flight = self.progress.now().in_flight;
        if in_flight > 0 {
            self.console.say(format_args!(
                "stopping  waiting for {in_flight} in flight, at most {:?}; a second signal ends the run at once",
                self.stop_timeout
            ));
        } else {
            self.console.say("stopping");
        }
    }

    /// The handler has ended by itself: nothing more can be handled.
    async fn orphaned(&mut self, status: ExitStatus) -> DevError {
        let program = match self.handler.take() {
            Some(handler) => handler.program().to_owned(),
            None => String::new(),
        };
        self.stop.cancel();
        // The error is the handler's end, whatever the consumer makes of it.
        let _ = tokio::time::timeout(ORPHAN_LIMIT, &mut self.consuming).await;
        DevError::HandlerEnded { program, status }
    }
}

fn flatten<T>(ended: Result<Result<T, DevError>, JoinError>) -> Result<T, DevError> {
    ended.unwrap_or_else(|error| Err(DevError::Task(error.to_string())))
}

/// Waits until the handler ends by itself; for ever without one.
async fn ended(handler: &mut Option<Child>) -> Result<ExitStatus, DevError> {
    match handler {
        Some(handler) => handler.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits until everything is produced; for ever when nothing is being produced.
async fn produced(produce: &mut Produce) -> Result<Result<u64, DevError>, JoinError> {
    match produce {
        Produce::Running { task, .. } => task.await,
        _ => std::future::pending().await,
    }
}
