//! `penstock dev`: a consumer, its broker and its handler on this machine.
//!
//! ```text
//! manifest ─► plan ─► broker ─► handler ─► consumer ─► session until the end
//! ```

mod broker;
mod child;
mod embedded;
mod error;
mod guard;
mod introduction;
mod pages;
mod plan;
mod produce;
mod progress;
mod remote;
mod session;
mod snapshot;
mod start_offsets;

use std::path::PathBuf;
use std::process::ExitCode;

use penstock_crds::spec::OffsetReset;
use penstock_crds::validate::{Address, Endpoint};
use penstock_handler::signals::stop_on_signal;
use penstock_runtime::SECRETS_DIRECTORY;
use penstock_runtime::telemetry::{self, LogFormat};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::broker::Broker;
use self::child::Child;
use self::error::DevError;
use self::introduction::Introduction;
use self::pages::{Listeners, Pages, Source};
use self::plan::Plan;
use self::session::{Producing, Session};
use crate::args::DevArguments;
use crate::console::Console;
use crate::input;

/// Warnings and errors, but for what the error at the end says again, and what
/// librdkafka repeats while it goes on by itself.
const LOG_FILTER: &str = "warn,librdkafka=error,penstock_runtime::kafka::connect=off";

/// Runs a consumer until a signal, a failure or the end of its work.
pub fn main(arguments: DevArguments) -> ExitCode {
    let console = Console::new();
    let ended = match tokio::runtime::Runtime::new() {
        Ok(tasks) => {
            let ended = tasks.block_on(run(arguments, &console));
            // Whatever still blocks, such as reading standard input, goes with
            // the process.
            tasks.shutdown_background();
            ended
        }
        Err(error) => Err(DevError::Tasks(error)),
    };
    console.end_progress();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What the consumer is started with.
struct Setting {
    arguments: DevArguments,
    plan: Plan,
    pages: Pages,
    secrets: PathBuf,
    log_filter: String,
    console: Console,
    stop: CancellationToken,
}

/// A consumer at work.
struct Started {
    /// Ends when it has left its group.
    consuming: JoinHandle<Result<(), DevError>>,
    /// The handler, where it is a child beside the consumer.
    handler: Option<Child>,
    progress: Source,
}

async fn run(arguments: DevArguments, console: &Console) -> Result<(), DevError> {
    let mut plan = Plan::read(&arguments.file)?;
    let lines = match &arguments.produce {
        Some(path) if input::is_stdin(path) && input::is_stdin(&arguments.file) => {
            return Err(DevError::OneStdin);
        }
        Some(path) => Some(produce::open(path)?),
        None => None,
    };
    if plan.consumer.endpoint == Endpoint::Embedded && arguments.command.is_empty() {
        return Err(DevError::NoProgram);
    }
    let topic = plan::produce_topic(&arguments, &plan.consumer)?;
    let handler_port = match arguments.handler_port {
        Some(port) => plan.use_handler_port(port)?,
        None => None,
    };
    let log_filter = arguments.log.clone().unwrap_or_else(|| LOG_FILTER.into());
    let writer = console.clone();
    let _telemetry = telemetry::init_to(
        move || writer.log_writer(),
        LogFormat::Text,
        &log_filter,
        plan.consumer.group.service(),
    )?;
    let port = match plan.consumer.endpoint.address() {
        Some(Address::Port(port)) if handler_port.is_none() && !arguments.command.is_empty() => {
            Some(*port)
        }
        _ => None,
    };
    let (listeners, pages) = Listeners::open(&arguments, handler_port, port)?;
    let stop = stop_on_signal().map_err(DevError::Signals)?;

    let mut introduction = Introduction::default();
    let broker = match &arguments.brokers {
        Some(servers) => {
            introduction.given_brokers(&plan, servers);
            plan.use_brokers(servers)?;
            None
        }
        None => {
            let broker = Broker::start(&plan.consumer, arguments.partitions)?;
            let unused_security = plan.use_plain_broker(&broker.address())?;
            introduction.own_broker(&plan, arguments.partitions, unused_security);
            Some(broker)
        }
    };
    introduction.rest(&arguments, &plan, pages, &topic);
    introduction.show(console);

    let setting = Setting {
        secrets: arguments
            .secrets
            .clone()
            .unwrap_or_else(|| SECRETS_DIRECTORY.into()),
        arguments,
        plan,
        pages,
        log_filter,
        console: console.clone(),
        stop,
    };
    let producing = match lines {
        Some(lines) => {
            settle_start(&setting, broker.is_some()).await?;
            Some(Producing::new(&setting, topic, lines, broker.is_some())?)
        }
        None => None,
    };
    let started = match setting.plan.consumer.endpoint {
        Endpoint::Embedded => embedded::start(&setting, listeners).await?,
        Endpoint::Remote { .. } => remote::start(&setting, listeners).await?,
    };
    let Some(started) = started else {
        console.say("stopped before the handler was up");
        return Ok(());
    };
    let ended = Session::new(&setting, started, producing, broker.is_some())
        .run()
        .await;
    drop(broker);
    ended
}

/// Settles where the group begins, where that might come after what is produced.
/// On the broker in this process no group has an offset, so Fail would always
/// fail there.
async fn settle_start(setting: &Setting, own_broker: bool) -> Result<(), DevError> {
    let late = match setting.plan.consumer.offset_reset {
        OffsetReset::Latest => true,
        OffsetReset::Fail => own_broker,
        OffsetReset::Earliest => false,
    };
    if !late {
        return Ok(());
    }
    tokio::select! {
        settled = start_offsets::commit_ends(&setting.plan.consumer, &setting.secrets) => {
            match settled {
                Err(DevError::StartOffsets(error)) => {
                    setting.console.say(format_args!(
                        "note: the group's start offsets can't be committed ({error}), perhaps because the group has other members; messages that are produced before the consumer reads may be missed"
                    ));
                    Ok(())
                }
                settled => settled,
            }
        }
        () = setting.stop.cancelled() => Ok(()),
    }
}
