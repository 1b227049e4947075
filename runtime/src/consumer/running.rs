//! A running consumer, and its stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::consumer::server::RunError;
use crate::kafka::Client;
use crate::process::worker::Failure;

/// A running consumer.
pub(crate) struct Running<C: Client> {
    pub(crate) pump: JoinHandle<Arc<C>>,
    pub(crate) workers: JoinSet<Result<(), Failure>>,
    pub(crate) handlers: usize,
    /// Cancelled to end the pump's reading.
    pub(crate) reading: CancellationToken,
    /// Cancelled to end the pump.
    pub(crate) finish: CancellationToken,
    pub(crate) wake: Arc<Notify>,
    pub(crate) stop_timeout: Duration,
}

impl<C: Client> Running<C> {
    /// Runs until a stop or an error, then stops in order.
    pub(crate) async fn until(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let mut ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            Some(worker) = self.workers.join_next() => worker_result(worker),
            pump = &mut self.pump => {
                self.workers.abort_all();
                return Err(RunError::Task(match pump {
                    Ok(_) => "the pump ended unexpectedly".into(),
                    Err(error) => error.to_string(),
                }));
            }
        };
        self.reading.cancel();
        self.wake.notify_one();
        let drained = self.drain().await;
        if ended.is_ok() {
            ended = drained;
        }
        self.finish.cancel();
        self.wake.notify_one();
        match self.pump.await {
            Ok(client) => client.leave().await,
            Err(error) => ended = Err(RunError::Task(error.to_string())),
        }
        ended
    }

    /// Waits for all handlers, under one limit.
    async fn drain(&mut self) -> Result<(), RunError> {
        let deadline = tokio::time::Instant::now() + self.stop_timeout;
        let mut ended = Ok(());
        loop {
            match tokio::time::timeout_at(deadline, self.workers.join_next()).await {
                Ok(None) => return ended,
                Ok(Some(worker)) => ended = ended.and(worker_result(worker)),
                Err(_) => break,
            }
        }
        let unfinished = self.workers.len();
        tracing::error!(
            unfinished,
            handlers = self.handlers,
            limit = ?self.stop_timeout,
            "handlers were still busy after the stopTimeout and are aborted"
        );
        self.workers.shutdown().await;
        ended.and(Err(RunError::StopTimeout {
            unfinished,
            limit: self.stop_timeout,
        }))
    }
}

fn worker_result(worker: Result<Result<(), Failure>, JoinError>) -> Result<(), RunError> {
    match worker {
        Ok(result) => Ok(result?),
        Err(error) => Err(RunError::Task(error.to_string())),
    }
}
