//! Runs a peer that sends over HTTP, receives what it sends, and measures it.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use penstock_tests::process::Process;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{Sender, connect, dapr};
use crate::meter::{Measure, Meter, Subject};
use crate::server::{self, Answer};
use crate::side::{Failed, Work};
use crate::tool::Counted;

/// Longest time for a peer to send all, from its start.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// Longest time for a peer to end when asked to; then it is killed.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A peer's program and what it is told.
#[derive(Debug, Args)]
pub struct Receive {
    /// Its executable
    #[arg(long)]
    pub program: PathBuf,
    /// Messages in one request
    #[arg(long, default_value_t = 1)]
    pub batch: u32,
    /// File for the number of system calls that it made in all
    #[arg(long)]
    pub calls: Option<PathBuf>,
    #[command(flatten)]
    pub work: Work,
}

/// Runs a peer until it has sent enough.
pub async fn run(sender: Sender, receive: &Receive) -> Result<Measure, Failed> {
    let Receive {
        program,
        batch,
        calls,
        work,
    } = receive;
    let batch = *batch;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let dir = TempDir::with_prefix("penstock-bench-")?;
    let program = match sender {
        Sender::Dapr => dapr::program(program, dir.path(), port, work, batch)?,
        Sender::Connect => connect::program(program, dir.path(), port, work, batch)?,
    };
    let counting = match calls {
        Some(file) => Some((Counted::SystemCalls.tool().map_err(Failed::other)?, file)),
        None => None,
    };
    let program = match &counting {
        Some((tool, file)) => tool.count(program, file),
        None => program,
    };

    let process = program.start().map_err(Failed::other)?;
    let target = work.count.max(3 * u64::from(batch));
    let meter = Arc::new(Meter::of(Subject::Group(process.id()), target));
    let answer = {
        let meter = Arc::clone(&meter);
        move |path: &str, body: Bytes| {
            let (messages, status, body) = match sender {
                Sender::Dapr => dapr::answer(path, &body, batch),
                Sender::Connect => connect::answer(&body, batch),
            };
            if messages > 0 {
                meter.count_many(messages);
            }
            (status, body)
        }
    };
    let done = meter.done();
    let ended = pin!(process.wait(RUN_LIMIT));
    tokio::select! {
        received = receive_all(&listener, answer) => received?,
        () = done.cancelled() => {}
        status = ended => {
            let status = status.map_err(Failed::other)?;
            let tail = process.tail();
            let text = format_args!("it ended with {status}; its last lines:\n{tail}");
            return Err(Failed::other(text));
        }
    }
    let measure = meter.measure();
    if counting.is_some() {
        end(&process).await?;
    }
    measure.ok_or_else(|| Failed::other("it could not be measured"))
}

/// Receives for ever.
async fn receive_all(listener: &TcpListener, answer: impl Answer) -> io::Result<()> {
    loop {
        server::accept(listener, answer.clone()).await?;
    }
}

/// Lets it end by itself: what counts its calls writes their number then.
async fn end(process: &Process) -> Result<(), Failed> {
    process.interrupt_all().map_err(Failed::other)?;
    process.wait(END_LIMIT).await.map_err(Failed::other)?;
    Ok(())
}
