//! A handler without an SDK that does to the protocol what the header `behaviour` of a message
//! says, and keeps it without one.
//!
//! `--list` prints the behaviours. Each delivery that begins writes partition, offset and
//! attempt to `HOSTILE_JOURNAL`.

#![forbid(unsafe_code)]

mod behaviours;
mod service;
mod words;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::unfold;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService, health_reporter};

use words::Opening;

/// How long a handler is away or not healthy that is so for a while.
const WHILE: Duration = Duration::from_secs(2);

/// What all streams share.
struct State {
    journal: File,
    /// How the next streams begin.
    openings: Mutex<VecDeque<Opening>>,
    /// How often each message came, by partition and offset.
    seen: Mutex<HashMap<(i32, i64), u32>>,
    health: HealthReporter,
    /// Ends the listener.
    listener: Mutex<CancellationToken>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Writes down that a delivery begins. Returns how often the message came before.
    fn note(&self, partition: i32, offset: i64, attempt: u32) -> u32 {
        let place = format!("{partition} {offset} {attempt}\n");
        if let Err(error) = (&self.journal).write_all(place.as_bytes()) {
            eprintln!("the journal: {error}");
        }
        let mut seen = lock(&self.seen);
        let count = seen.entry((partition, offset)).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// Is not healthy for a while.
    fn fall_ill(&self) {
        let health = self.health.clone();
        tokio::spawn(async move {
            health
                .set_service_status("", ServingStatus::NotServing)
                .await;
            sleep(WHILE).await;
            health.set_service_status("", ServingStatus::Serving).await;
        });
    }

    /// Ends the listener for a while.
    fn stop_listening(&self) {
        lock(&self.listener).cancel();
    }
}

async fn serve(state: Arc<State>, path: PathBuf) -> Result<(), Box<dyn Error>> {
    let health = HealthServer::new(HealthService::from_health_reporter(state.health.clone()));
    loop {
        let stop = CancellationToken::new();
        *lock(&state.listener) = stop.clone();
        // A process that was killed leaves its socket.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let incoming = unfold(listener, |listener| async {
            let accepted = listener.accept().await;
            Some((accepted.map(|(stream, _)| stream), listener))
        });
        let server = Server::builder()
            .add_service(health.clone())
            .add_service(service::Service::new(Arc::clone(&state)))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = server => served?,
            () = stop.cancelled() => {}
        }
        let _ = std::fs::remove_file(&path);
        sleep(WHILE).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{}", behaviours::NAMES.join("\n"));
        return Ok(());
    }
    let journal = std::env::var("HOSTILE_JOURNAL")?;
    let path = std::env::var("PENSTOCK_HANDLER_SOCKET")?;
    let (health, _) = health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let state = Arc::new(State {
        journal: File::options().create(true).append(true).open(journal)?,
        openings: Mutex::default(),
        seen: Mutex::default(),
        health,
        listener: Mutex::default(),
    });
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = serve(Arc::clone(&state), path.into()) => served,
        // Its streams break, as the runtime has ended.
        _ = terminate.recv() => Ok(()),
    }
}
